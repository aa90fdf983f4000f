"""python-gearman's ``gearman.client``."""

from gearworker.client import GearmanClient

__all__ = ["GearmanClient"]
