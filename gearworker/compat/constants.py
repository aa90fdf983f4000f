"""python-gearman's ``gearman.constants``."""

from typing import Final

from gearworker.job import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NONE,
)
from gearworker.protocol.packets import DEFAULT_PORT

DEFAULT_GEARMAN_PORT: Final = DEFAULT_PORT

__all__ = [
    "DEFAULT_GEARMAN_PORT",
    "PRIORITY_NONE",
    "PRIORITY_LOW",
    "PRIORITY_HIGH",
    "JOB_UNKNOWN",
    "JOB_PENDING",
    "JOB_CREATED",
    "JOB_FAILED",
    "JOB_COMPLETE",
]
