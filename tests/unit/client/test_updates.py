"""Typed updates of a job, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from gearworker.client.updates import JobUpdate, StreamedRequest
from gearworker.errors import InvalidClientState, PayloadError
from gearworker.job import GearmanJob, GearmanJobRequest


@pytest.fixture
def request_() -> StreamedRequest:
    request = StreamedRequest(GearmanJob(None, None, "t", "u", b""))
    request.submit_sent(None)
    request.job_created("H:x:1")
    return request


def test_all_updates_are_kept_in_one_order(request_: StreamedRequest) -> None:
    request_.work_data(b"1")
    request_.work_status(1, 3, 0.0)
    request_.work_warning(b"2")
    request_.work_data(b"3")
    assert list(request_.updates) == [
        JobUpdate("data", b"1"), JobUpdate("status", None, 1, 3), JobUpdate("warning", b"2"), JobUpdate("data", b"3"),
    ]  # fmt: skip
    assert (request_.data_updates, request_.warning_updates) == (deque(), deque())


@pytest.mark.parametrize(
    ("end", "update"),
    [
        (lambda request: request.work_complete(b"r"), JobUpdate("result", b"r")),
        (lambda request: request.work_fail(), JobUpdate("fail")),
        (lambda request: request.work_exception(b"e"), JobUpdate("exception", b"e")),
    ],
)
def test_the_last_update(
    request_: StreamedRequest, end: Callable[[GearmanJobRequest], None], update: JobUpdate
) -> None:
    end(request_)
    assert request_.final_update() == update


def test_a_job_without_outcome_has_no_last_update(request_: StreamedRequest) -> None:
    with pytest.raises(InvalidClientState):
        request_.final_update()
    request_.failed(PayloadError("too large"))
    with pytest.raises(PayloadError, match="too large"):
        request_.final_update()


def test_a_status_out_of_order_is_not_kept() -> None:
    request = StreamedRequest(GearmanJob(None, None, "t", "u", b""))
    with pytest.raises(InvalidClientState):
        request.work_status(1, 2, 0.0)
    assert not request.updates
