"""A service that is paused as a whole, as a container runtime or a debugger does it, and goes on as if nothing was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers import Gearmand, wait_until
from support.workers import WorkerProcess

pytestmark = pytest.mark.gearmand

StartWorker = Callable[..., WorkerProcess]

TASKS = """
    from gearworker import task

    @task
    def echo(job):
        return job.data
"""
PAUSE_S = 2.5


@pytest.mark.parametrize("who", ["supervisor", "everybody"])
def test_a_pause_longer_than_the_watchdogs_limit_costs_no_process(
    gearmand: Gearmand, start_worker: StartWorker, who: str
) -> None:
    worker = start_worker(gearmand, tasks=TASKS, processes=2, watchdog={"warn_s": 0, "blocked_s": 1.5})
    ready = 'gearworker_processes{state="ready"}'
    wait_until(lambda: worker.metric(ready) == 2, what="two processes")
    before = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text()
    paused = [worker.pid, *(map(int, before.split()) if who == "everybody" else ())]
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE_S)  # the pause is the fault itself
    for pid in paused:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: worker.get("/livez")[0] == 200, what="liveness")
    worker.signal(signal.SIGUSR1)  # answered after the supervisor has looked at its processes
    wait_until(lambda: worker.log.count(": ready, ") == 2 or "replacing" in worker.log, what="the state")
    assert Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text() == before
    assert worker.metric('gearworker_process_restarts_total{reason="blocked"}') == 0
    assert "its hub has not turned" not in worker.log
