"""What is done about a background job that may have joined a dead one."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import gevent
import pytest

from gearworker.client import uniques as client_uniques
from gearworker.client.link import Link
from gearworker.client.uniques import UniqueGuard, unique_of
from gearworker.client.waiting import Deadline
from gearworker.errors import JobLost, ServerUnavailable
from gearworker.job import JOB_CREATED, JOB_FAILED, JOB_UNKNOWN, GearmanJob, GearmanJobRequest
from gearworker.net.address import Address
from gearworker.protocol.packets import Packet, PacketType
from gearworker.protocol.text import JobStatus, TaskStatus


def soon() -> Deadline:
    """A deadline that begins now."""
    return Deadline(5)


LINK = Link(Address.parse("127.0.0.1"))
HELD = Packet(PacketType.STATUS_RES_UNIQUE, [b"u", b"1", b"0", b"0", b"0", b"0"])


def doubtful(guard: UniqueGuard) -> GearmanJobRequest:
    request = GearmanJobRequest(GearmanJob(None, None, "t", "u", b"x"), background=True)
    guard._judge(LINK, [request], HELD)
    request.submit_sent(LINK)
    return request


class Admin:
    """An AdminLink that knows its answers."""

    def __init__(self, address: Address) -> None:
        self.asked: list[bytes] = []

    total = 1
    error: Exception | None = None

    def ask_for(self, request: Any, deadline: Deadline) -> Any:
        self.asked.append(request.line)
        if self.error is not None:
            raise self.error
        if request.line.startswith(b"status"):
            return (TaskStatus("t", self.total, 0, 0),)
        assert self.total <= client_uniques.MAX_LISTED_JOBS
        return (JobStatus("H:dead", 0, True, False), JobStatus("H:live", 0, False, True))

    def close(self) -> None:
        self.asked.append(b"closed")


@pytest.mark.parametrize(
    ("handle", "total", "error", "state"),
    [
        ("H:dead", 1, None, JOB_FAILED),
        ("H:live", 1, None, JOB_CREATED),
        ("H:dead", client_uniques.MAX_LISTED_JOBS + 1, None, JOB_CREATED),
        ("H:dead", 1, ServerUnavailable(None, "gone"), JOB_CREATED),
    ],
)
def test_a_job_that_joined_a_dead_one_is_lost(
    monkeypatch: pytest.MonkeyPatch, handle: str, total: int, error: Exception | None, state: str
) -> None:
    admin = type("AdminOfTest", (Admin,), {"total": total, "error": error})
    monkeypatch.setattr(client_uniques, "AdminLink", admin)
    guard = UniqueGuard(is_active=True)
    request = doubtful(guard)
    request.job_created(handle)
    guard.verify([request], soon())
    assert request.state == state
    if state == JOB_FAILED:
        assert isinstance(request.exception, JobLost)
        assert request.exception.handle == "H:dead"


def test_without_doubt_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_uniques, "AdminLink", None)
    guard = UniqueGuard(is_active=True)
    request = doubtful(guard)
    request.failed(JobLost("H:1"))
    guard.verify([request], soon())
    guard.verify([request], soon())


def test_requests_that_are_never_verified_are_not_kept() -> None:
    guard = UniqueGuard(is_active=True)
    gone = weakref.ref(doubtful(guard))
    gc.collect()
    assert gone() is None


def test_who_waits_for_the_look_up_of_another_waits_no_longer_than_its_deadline() -> None:
    guard = UniqueGuard(is_active=True)
    guard._in_check.add((LINK, b"u"))  # another submit's, which hangs
    request = GearmanJobRequest(GearmanJob(None, None, "t", "u", b"x"))
    with gevent.Timeout(5):
        guard.submit(LINK, [request], Deadline(0.01))
    assert request.state == JOB_UNKNOWN
    assert guard._in_check == {(LINK, b"u")}


def test_the_unique_as_it_is_sent() -> None:
    assert unique_of(GearmanJobRequest(GearmanJob(None, None, "t", "ü", b""))) == "ü".encode()
    assert unique_of(GearmanJobRequest(GearmanJob(None, None, "t", None, b""))) == b""
