"""python-gearman's ``gearman.job``."""

from gearworker.job import GearmanJob, GearmanJobRequest

__all__ = ["GearmanJob", "GearmanJobRequest"]
