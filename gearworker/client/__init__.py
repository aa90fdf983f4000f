"""Clients: ``GearmanClient`` submits jobs and follows them, ``GearmanAdminClient`` asks a job server about itself."""

from gearworker.client.admin import GearmanAdminClient
from gearworker.client.client import GearmanClient, default_client, set_default_client
from gearworker.client.exchange import UniqueStatus
from gearworker.client.updates import JobUpdate

__all__ = ["GearmanAdminClient", "GearmanClient", "JobUpdate", "UniqueStatus", "default_client", "set_default_client"]
