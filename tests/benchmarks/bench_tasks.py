"""The tasks that the benchmarks serve."""

from __future__ import annotations

import gevent

from gearworker import GearmanJob, task


@task("noop")
def noop(job: GearmanJob) -> None:
    """Do nothing: what is measured is all that the worker does around a handler."""


@task("sleep")
def sleep(job: GearmanJob) -> None:
    """Wait for 50 ms, as a handler does that asks another service."""
    gevent.sleep(0.05)


@task("spin")
def spin(job: GearmanJob) -> None:
    """Keep the core busy in pure Python, for as many turns as the payload says."""
    total = 0
    for turn in range(int(job.data)):
        total += turn & 7
