"""Middleware: which hooks are called, what happens when one raises, and what JobLog logs."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import pytest

from gearworker.errors import FailJob, JobTimeout
from gearworker.job import GearmanJob
from gearworker.middleware import OUTCOMES, JobLog, Middleware, Outcome, call_hook, overridden
from gearworker.protocol.packets import PacketType

JOB = GearmanJob(None, "H:1", "t", "u", b"")


class Counting(Middleware):
    def before_job(self, job: GearmanJob) -> None:
        raise NotImplementedError


def test_only_overridden_hooks_are_called_in_order() -> None:
    first, second = Counting(), Counting()
    assert overridden([first, Middleware(), second], "before_job") == (first.before_job, second.before_job)
    assert overridden([first, second], "after_job") == ()


def test_the_hooks_of_the_base_do_nothing() -> None:
    base = Middleware()
    for hook, args in {
        base.before_job: (JOB,),
        base.after_job: (JOB, "complete", 0.1, 3, None),
        base.after_update: (JOB, PacketType.WORK_DATA, 3),
        base.job_server_up: ("a:1", "p"),
        base.job_server_down: ("a:1", "p", "why"),
        base.job_server_away: ("a:1", "p", "why"),
    }.items():
        call_hook(hook, *args)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), gevent.GreenletExit(), KeyboardInterrupt()])
def test_whatever_a_hook_raises_is_logged_and_stays_there(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(*args: Any) -> None:
        raise error

    call_hook(hook, 1, 2)
    assert "hook failed" in caplog.text
    assert type(error).__name__ in caplog.text


def test_a_hook_gets_its_arguments() -> None:
    got = list[Any]()
    call_hook(lambda *args: got.extend(args), 1, "two")
    assert got == [1, "two"]


@pytest.mark.parametrize(
    ("outcome", "error", "level", "message"),
    [
        ("complete", None, logging.DEBUG, "job complete in 0.250 s"),
        ("fail", FailJob("no luck"), logging.WARNING, "job failed: no luck"),
        ("exception", ValueError("x"), logging.ERROR, "job raised ValueError"),
        ("timeout", JobTimeout(1), logging.ERROR, "job timed out: the job ran longer than its limit of 1 s"),
        ("lost", None, logging.WARNING, "job lost: its connection ended before its answer was sent"),
    ],
)
def test_job_log_says_how_each_job_ended(
    outcome: Outcome, error: BaseException | None, level: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    JobLog().after_job(JOB, outcome, 0.25, 0, error)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, message)
    assert (record.__dict__["task"], record.__dict__["handle"], record.__dict__["unique"]) == ("t", "H:1", "u")
    assert bool(record.exc_info) == (outcome == "exception")


def test_job_log_is_silent_about_success_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    JobLog().after_job(JOB, "complete", 0.25, 0, None)
    assert caplog.records == []


def test_the_outcomes_are_those_of_the_metrics() -> None:
    assert OUTCOMES == ("complete", "fail", "exception", "timeout", "lost")
