"""python-gearman under its own names: ``import gearworker.compat as gearman`` in place of ``import gearman``.

What stays and what differs is in MIGRATING.md.
"""

from gearworker.compat import admin_client, client, connection_manager, constants, errors, job, worker
from gearworker.compat.admin_client import GearmanAdminClient
from gearworker.compat.client import GearmanClient
from gearworker.compat.connection_manager import DataEncoder
from gearworker.compat.constants import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NONE,
)
from gearworker.compat.job import GearmanJob, GearmanJobRequest
from gearworker.compat.worker import GearmanWorker

__all__ = [
    "GearmanClient",
    "GearmanWorker",
    "GearmanAdminClient",
    "DataEncoder",
    "GearmanJob",
    "GearmanJobRequest",
    "PRIORITY_NONE",
    "PRIORITY_LOW",
    "PRIORITY_HIGH",
    "JOB_UNKNOWN",
    "JOB_PENDING",
    "JOB_CREATED",
    "JOB_FAILED",
    "JOB_COMPLETE",
    "admin_client",
    "client",
    "connection_manager",
    "constants",
    "errors",
    "job",
    "worker",
]
