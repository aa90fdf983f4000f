"""How a process with a worker ends: by which command, and with which exit code."""

from __future__ import annotations

import logging
import signal
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gearworker.job import GearmanJob
from gearworker.service.stopping import EXIT_GRACE_OVER, Commands, log_stacks, run_until_stopped


class FakeWorker:
    def __init__(self, drained: bool = True, *, stuck: bool = False) -> None:
        self.drained, self.stuck = drained, stuck
        self.graces: list[float] = []

    def drain(self, grace_s: float) -> bool:
        self.graces.append(grace_s)
        if self.stuck:
            Event().wait()
        return self.drained

    def running_jobs(self) -> list[Any]:
        class Pool:
            name = "p"

        return [(Pool, GearmanJob(None, "H:1", "t", None, b""))]


def run(worker: Any, *signals: signal.Signals) -> int:
    commands = Commands()
    for one in signals:
        commands.put(one)
    with gevent.Timeout(5):
        return run_until_stopped(worker, commands, 7.5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_drain(number: signal.Signals) -> None:
    worker = FakeWorker()
    assert run(worker, number) == 0
    assert worker.graces == [7.5]


def test_a_grace_that_is_over_has_its_own_exit_code(caplog: pytest.LogCaptureFixture) -> None:
    assert run(FakeWorker(drained=False), signal.SIGTERM) == EXIT_GRACE_OVER == 3
    assert "jobs still ran when the grace of 7.5 s was over" in caplog.text


def test_quit_stops_without_a_drain() -> None:
    worker = FakeWorker()
    assert run(worker, signal.SIGQUIT) == 128 + signal.SIGQUIT
    assert worker.graces == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_stops_a_drain(second: signal.Signals) -> None:
    assert run(FakeWorker(stuck=True), signal.SIGTERM, second) == 128 + second


def test_stacks_are_logged_with_the_jobs_that_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    worker: Any = FakeWorker()
    log_stacks(worker)
    job, stacks = caplog.records
    assert (job.__dict__["task"], job.__dict__["handle"], job.__dict__["pool"]) == ("t", "H:1", "p")
    assert "Greenlets" in stacks.__dict__["stack"]
