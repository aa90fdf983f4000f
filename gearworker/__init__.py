"""gearworker: serve Gearman queues from Python.

The public names. What opens sockets is imported on first use, so that ``import gearworker`` never brings in gevent
before a program has had the chance to patch the standard library.
"""

from typing import TYPE_CHECKING, Any

from gearworker.encoders import DataEncoder
from gearworker.errors import (
    ConfigError,
    ConnectionLost,
    ExceededConnectionAttempts,
    FailJob,
    GearmanConnectionError,
    GearmanError,
    InvalidAdminClientState,
    InvalidClientState,
    InvalidState,
    InvalidWorkerState,
    JobFailed,
    JobLost,
    JobServerError,
    JobTimeout,
    PayloadError,
    ProtocolError,
    ServerUnavailable,
    TaskError,
    UnknownCommandError,
)
from gearworker.job import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NONE,
    GearmanJob,
    GearmanJobRequest,
)

# At once, not on first use: importing the module gearworker.task binds its name in this package, and the name has to be
# the decorator's whoever imports first.
from gearworker.task import Task, TaskRegistry, task
from gearworker.version import __version__

_LAZY = {
    "GearmanClient": "gearworker.client",
    "GearmanWorker": "gearworker.gearman_worker",
    "GearmanAdminClient": "gearworker.client.admin",
}
"""Where a name lives that is imported on first use."""

if TYPE_CHECKING:
    from gearworker.client import GearmanClient
    from gearworker.client.admin import GearmanAdminClient
    from gearworker.gearman_worker import GearmanWorker
else:

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value


def _default_client() -> Any:
    from gearworker.client import default_client

    return default_client()


TaskRegistry.client_factory = _default_client


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "task",
    "Task",
    "TaskRegistry",
    "GearmanClient",
    "GearmanWorker",
    "GearmanAdminClient",
    "GearmanJob",
    "GearmanJobRequest",
    "FailJob",
    "DataEncoder",
    "PRIORITY_NONE",
    "PRIORITY_LOW",
    "PRIORITY_HIGH",
    "JOB_UNKNOWN",
    "JOB_PENDING",
    "JOB_CREATED",
    "JOB_FAILED",
    "JOB_COMPLETE",
    "GearmanError",
    "ConfigError",
    "TaskError",
    "PayloadError",
    "JobFailed",
    "JobTimeout",
    "GearmanConnectionError",
    "ServerUnavailable",
    "ConnectionLost",
    "ExceededConnectionAttempts",
    "ProtocolError",
    "UnknownCommandError",
    "JobServerError",
    "JobLost",
    "InvalidState",
    "InvalidClientState",
    "InvalidWorkerState",
    "InvalidAdminClientState",
    "__version__",
]
