"""python-gearman's ``gearman.connection_manager``, where its ``DataEncoder`` lives."""

from gearworker.encoders import DataEncoder

__all__ = ["DataEncoder"]
