"""The version of this package, for setup.cfg, `gearworker --version` and the metrics."""

__version__ = "0.1.0"
