"""The job servers' queues as metrics: sums, strangers left out, and job servers that do not answer."""

from __future__ import annotations

from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event
from prometheus_client import CollectorRegistry

from gearworker import queues as queues_module
from gearworker.errors import ConnectionLost, ServerUnavailable
from gearworker.net.address import Address
from gearworker.queues import QueueCollector, fetch_status

ONE, TWO, THREE = (Address.parse(f"10.0.0.{n}:4730") for n in (1, 2, 3))


class Answer:
    """A connection to a job server that gives these chunks, and then ends, or never says anything more."""

    def __init__(self, *chunks: bytes, hangs: bool = False) -> None:
        self.chunks, self.hangs = list(chunks), hangs
        self.written, self.closed = b"", False

    def write(self, data: bytes) -> None:
        self.written += data

    def recv(self) -> bytes:
        if self.chunks:
            return self.chunks.pop(0)
        if self.hangs:
            Event().wait()
        raise ConnectionLost("a:1", "closed")

    def close(self, reason: str = "") -> None:
        self.closed = True


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[Address, Answer]:
    """What the job servers answer; those missing can't be reached."""
    answers: dict[Address, Answer] = {}

    def connect(address: Address, timeout_s: float) -> Any:
        if address not in answers:
            raise ServerUnavailable(str(address), "refused")
        return answers[address]

    monkeypatch.setattr(queues_module, "connect", connect)
    return answers


def sample(addresses: list[Address], *tasks: str) -> Any:
    registry = CollectorRegistry()
    registry.register(QueueCollector(addresses, lambda: tasks))

    return {
        (family.name, one.labels["task"], one.labels.get("state")): one.value
        for family in registry.collect()
        for one in family.samples
    }


def row(families: Any, task: str) -> tuple[Any, ...]:
    return (
        families.get(("gearworker_queue_jobs", task, "queued")),
        families.get(("gearworker_queue_jobs", task, "running")),
        families.get(("gearworker_queue_workers", task, None)),
    )


def test_queued_running_and_workers_of_a_task(servers: dict[Address, Answer]) -> None:
    servers[ONE] = Answer(b"t\t7\t2\t3\nstranger\t9\t9\t9\n.\n")
    families = sample([ONE], "t", "unknown")
    assert row(families, "t") == (5, 2, 3)
    assert row(families, "unknown") == (0, 0, 0)
    assert not any("stranger" in key for key in families)
    assert servers[ONE].closed


def test_job_servers_are_summed_and_those_that_can_not_be_reached_left_out(servers: dict[Address, Answer]) -> None:
    servers[ONE] = Answer(b"t\t7\t2\t3\n.\n")
    servers[THREE] = Answer(b"t\t1\t", b"0\t", b"1\n", b".\n")
    assert row(sample([ONE, TWO, THREE], "t"), "t") == (6, 2, 4)


def test_where_no_job_server_answers_there_is_no_number(servers: dict[Address, Answer]) -> None:
    assert sample([ONE, TWO], "t") == {}


def test_an_empty_answer_is_an_answer(servers: dict[Address, Answer]) -> None:
    servers[ONE] = Answer(b".\n")
    assert row(sample([ONE], "t"), "t") == (0, 0, 0)


@pytest.mark.parametrize(
    "chunks", [(b"",), (b"t\t7\t2",), (b"t\t7\n.\n",), (b"t\tx\t2\t3\n.\n",), (b"ERR unknown_command no\r\n",)]
)
def test_an_answer_that_is_none_counts_as_none(servers: dict[Address, Answer], chunks: tuple[bytes, ...]) -> None:
    servers[ONE] = Answer(*chunks)
    assert sample([ONE], "t") == {}
    assert servers[ONE].closed


def test_a_silent_job_server_is_given_up_in_time_and_does_not_hold_up_the_others(
    servers: dict[Address, Answer],
) -> None:
    servers[ONE] = Answer(b"t\t7\t2", hangs=True)
    began = monotonic()
    assert fetch_status(ONE, timeout_s=0.05) is None
    assert monotonic() - began < 5
    assert servers[ONE].closed


def test_a_reply_without_end_is_given_up(servers: dict[Address, Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues_module, "_MAX_REPLY_BYTES", 1000)
    servers[ONE] = Answer(*[b"t\t7\t2\t3\n" * 50] * 10, hangs=True)
    with gevent.Timeout(5):
        assert fetch_status(ONE, timeout_s=60) is None
    assert len(servers[ONE].chunks) >= 6


def test_a_task_at_the_moment_between_two_counts_has_no_negative_queue(servers: dict[Address, Answer]) -> None:
    servers[ONE] = Answer(b"t\t1\t2\t3\n.\n")
    assert row(sample([ONE], "t"), "t") == (0, 2, 3)
