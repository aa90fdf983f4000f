"""GearmanJobRequest: every event in every state, what each leaves behind, and the documented attributes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from gearworker.encoders import DataEncoder
from gearworker.errors import GearmanError, InvalidClientState, JobFailed, JobLost
from gearworker.job import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    PRIORITY_HIGH,
    PRIORITY_NONE,
    GearmanJob,
    GearmanJobRequest,
)

STATES = (JOB_UNKNOWN, JOB_PENDING, JOB_CREATED, JOB_FAILED, JOB_COMPLETE)
LOST = JobLost("H:x:1")

EVENTS: dict[str, Callable[[GearmanJobRequest], None]] = {
    "submit sent": lambda request: request.submit_sent(None),
    "JOB_CREATED": lambda request: request.job_created("H:x:2"),
    "WORK_COMPLETE": lambda request: request.work_complete(b"result"),
    "WORK_FAIL": lambda request: request.work_fail(),
    "WORK_EXCEPTION": lambda request: request.work_exception(b"boom"),
    "WORK_DATA": lambda request: request.work_data(b"part"),
    "WORK_WARNING": lambda request: request.work_warning(b"careful"),
    "WORK_STATUS": lambda request: request.work_status(1, 2, 0.0),
    "connection lost": lambda request: request.connection_lost(),
    "failed": lambda request: request.failed(LOST),
}
FOREGROUND = {
    (JOB_UNKNOWN, "submit sent"): JOB_PENDING,
    (JOB_PENDING, "JOB_CREATED"): JOB_CREATED,
    (JOB_PENDING, "connection lost"): JOB_UNKNOWN,
    (JOB_PENDING, "failed"): JOB_FAILED,
    (JOB_CREATED, "WORK_COMPLETE"): JOB_COMPLETE,
    (JOB_CREATED, "WORK_FAIL"): JOB_FAILED,
    (JOB_CREATED, "WORK_EXCEPTION"): JOB_FAILED,
    (JOB_CREATED, "WORK_DATA"): JOB_CREATED,
    (JOB_CREATED, "WORK_WARNING"): JOB_CREATED,
    (JOB_CREATED, "WORK_STATUS"): JOB_CREATED,
    (JOB_CREATED, "connection lost"): JOB_UNKNOWN,
    (JOB_CREATED, "failed"): JOB_FAILED,
}
BACKGROUND = {
    (JOB_UNKNOWN, "submit sent"): JOB_PENDING,
    (JOB_PENDING, "JOB_CREATED"): JOB_CREATED,
    (JOB_PENDING, "connection lost"): JOB_UNKNOWN,
    (JOB_PENDING, "failed"): JOB_FAILED,
    (JOB_CREATED, "connection lost"): JOB_CREATED,
    (JOB_CREATED, "failed"): JOB_FAILED,
}


def make(
    state: str = JOB_UNKNOWN, *, background: bool = False, cls: type[GearmanJobRequest] = GearmanJobRequest
) -> Any:
    request = cls(GearmanJob(None, None, "t", "u", b"data"), background=background)
    if state != JOB_UNKNOWN:
        request.submit_sent(None)
    if state == JOB_FAILED:
        request.failed(LOST)
    if state in (JOB_CREATED, JOB_COMPLETE):
        request.job_created("H:x:1")
    if state == JOB_COMPLETE:
        if background:
            request.state = JOB_COMPLETE  # no event leads there
        else:
            request.work_complete(b"done")
    return request


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_every_event_in_every_state(state: str, event: str, background: bool) -> None:
    request = make(state, background=background)
    before = (request.gearman_job.handle, request.result, request.exception, request.connection_attempts)
    wanted = (BACKGROUND if background else FOREGROUND).get((state, event))
    if wanted is not None:
        EVENTS[event](request)
        assert request.state == wanted
        return
    with pytest.raises(InvalidClientState, match=state):
        EVENTS[event](request)
    assert request.state == state
    assert (request.gearman_job.handle, request.result, request.exception, request.connection_attempts) == before


def test_a_new_request_is_as_documented() -> None:
    job = GearmanJob(None, None, "t", "u", b"data")
    request = GearmanJobRequest(job, PRIORITY_HIGH, True, 3)
    assert request.gearman_job is job
    assert request.job is job
    assert (request.priority, request.background, request.max_connection_attempts) == ("HIGH", True, 3)
    assert (request.state, request.result, request.exception, request.timed_out) == (JOB_UNKNOWN, None, None, False)
    assert (request.connection_attempts, request.complete, request.status) == (0, False, {})
    assert (request.data_updates, request.warning_updates) == (deque(), deque())
    assert GearmanJobRequest(job).priority is PRIORITY_NONE
    assert request != GearmanJobRequest(job, PRIORITY_HIGH, True, 3)
    assert "'t'" in repr(request)
    assert JOB_UNKNOWN in repr(request)


@pytest.mark.parametrize(
    ("state", "background", "complete"),
    [
        *((state, False, state in (JOB_FAILED, JOB_COMPLETE)) for state in STATES),
        *((state, True, state == JOB_CREATED) for state in STATES),
    ],
)
def test_complete(state: str, background: bool, complete: bool) -> None:
    assert make(state, background=background).complete is complete


def test_a_result_is_decoded_and_comes_with_completion_only() -> None:
    request = make(JOB_CREATED)
    request.work_data(b"part")
    assert request.result is None
    request.work_complete(b"result")
    assert (request.result, list(request.data_updates)) == (b"result", [b"part"])


def test_an_exception_ends_the_request_and_is_kept() -> None:
    request = make(JOB_CREATED)
    request.work_exception(b"ValueError: no")
    assert (request.state, request.exception, request.complete) == (JOB_FAILED, b"ValueError: no", True)


def test_a_lost_connection_leaves_nothing_of_the_handle() -> None:
    request = make(JOB_CREATED)
    request.connection_lost()
    assert (request.state, request.gearman_job.handle, request.was_accepted) == (JOB_UNKNOWN, None, True)


def test_an_accepted_background_job_survives_its_connection() -> None:
    request = make(JOB_CREATED, background=True)
    request.connection_lost()
    assert (request.state, request.complete, request.gearman_job.handle) == (JOB_CREATED, True, "H:x:1")


def test_status_is_replaced_by_each_update() -> None:
    request = make(JOB_CREATED)
    request.work_status(1, 10, 1000.0)
    request.work_status(2, 10, 1001.0)
    assert request.status == {
        "handle": "H:x:1", "known": True, "running": True, "numerator": 2, "denominator": 10, "time_received": 1001.0,
    }  # fmt: skip


def test_deprecated_names_warn_and_work() -> None:
    request = make(JOB_CREATED)
    with pytest.warns(DeprecationWarning, match="status_updates"):
        assert request.status_updates == deque()
    request.work_status(1, 10, 1000.0)
    with pytest.warns(DeprecationWarning, match="status_updates"):
        assert request.status_updates == deque([(1, 10)])
    with pytest.warns(DeprecationWarning, match="server_status"):
        assert request.server_status is request.status


@pytest.mark.parametrize("state", STATES)
def test_reset_makes_it_new(state: str) -> None:
    request = make(state)
    if state == JOB_CREATED:
        request.work_data(b"part")
        request.work_warning(b"careful")
        request.work_status(1, 2, 0.0)
    request.timed_out = True
    request.reset()
    assert (request.state, request.result, request.exception, request.status) == (JOB_UNKNOWN, None, None, {})
    assert (request.timed_out, request.connection_attempts) == (False, 0)
    assert (request.data_updates, request.warning_updates) == (deque(), deque())
    assert (request.gearman_job.connection, request.gearman_job.handle) == (None, None)
    request.submit_sent(None)
    assert request.state == JOB_PENDING


class JSON(DataEncoder):
    @classmethod
    def encode(cls, encodable_object: Any) -> bytes:
        return json.dumps(encodable_object).encode()

    @classmethod
    def decode(cls, decodable_string: bytes) -> Any:
        return json.loads(decodable_string)


def test_everything_that_comes_back_is_decoded() -> None:
    request = make(JOB_CREATED)
    request.gearman_job.encoder = JSON
    request.work_data(b"[1]")
    request.work_warning(b"[2]")
    request.work_complete(b"[3]")
    assert (list(request.data_updates), list(request.warning_updates), request.result) == ([[1]], [[2]], [3])


@pytest.mark.parametrize("event", ["work_complete", "work_data", "work_warning"])
def test_what_cannot_be_decoded_fails_the_request(event: str) -> None:
    request = make(JOB_CREATED)
    request.gearman_job.encoder = JSON
    getattr(request, event)(b"no JSON")
    assert (request.state, request.result, request.complete) == (JOB_FAILED, None, True)
    assert isinstance(request.exception, json.JSONDecodeError)


def test_an_exception_that_cannot_be_decoded_is_kept_as_it_came() -> None:
    request = make(JOB_CREATED)
    request.gearman_job.encoder = JSON
    request.work_exception(b"ValueError: no")
    assert request.exception == b"ValueError: no"


def test_watchers_hear_of_every_change_until_they_leave() -> None:
    heard: list[str] = []

    class Watcher:
        def request_changed(self, request: GearmanJobRequest) -> None:
            heard.append(request.state)
            if request.state == JOB_COMPLETE:
                request.unwatch(self)

    request = make(JOB_PENDING)
    request.watch(Watcher())
    request.job_created("H:x:1")
    request.work_data(b"part")
    request.work_complete(b"")
    request.reset()
    assert heard == [JOB_CREATED, JOB_CREATED, JOB_COMPLETE]


def test_result_or_raise() -> None:
    assert make(JOB_COMPLETE).result_or_raise() == b"done"
    with pytest.raises(JobLost):
        make(JOB_FAILED).result_or_raise()
    with pytest.raises(InvalidClientState):
        make(JOB_CREATED).result_or_raise()
    request = make(JOB_CREATED)
    request.work_exception(b"ValueError: no")
    with pytest.raises(JobFailed, match="H:x:1 of task t failed: ValueError: no") as caught:
        request.result_or_raise()
    assert isinstance(caught.value, GearmanError)
    assert (caught.value.request, caught.value.exception) == (request, b"ValueError: no")
