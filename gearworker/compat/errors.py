"""python-gearman's ``gearman.errors``. ``ConnectionError`` shadows the builtin, as it did there."""

from gearworker.errors import (
    ExceededConnectionAttempts,
    GearmanError,
    InvalidAdminClientState,
    InvalidClientState,
    InvalidWorkerState,
    ProtocolError,
    ServerUnavailable,
    UnknownCommandError,
)
from gearworker.errors import GearmanConnectionError as ConnectionError

__all__ = [
    "GearmanError",
    "ConnectionError",
    "ServerUnavailable",
    "ProtocolError",
    "UnknownCommandError",
    "ExceededConnectionAttempts",
    "InvalidClientState",
    "InvalidWorkerState",
    "InvalidAdminClientState",
]
