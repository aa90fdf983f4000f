"""python-gearman's ``gearman.admin_client``."""

from gearworker.client.admin import GearmanAdminClient

__all__ = ["GearmanAdminClient"]
