"""python-gearman's ``gearman.worker``."""

from gearworker.gearman_worker import GearmanWorker

__all__ = ["GearmanWorker"]
