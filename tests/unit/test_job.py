"""GearmanJob in a handler's hands."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from gearworker.encoders import find_encoder
from gearworker.errors import PayloadError
from gearworker.job import GearmanJob
from gearworker.protocol.packets import PacketType


class Recording:
    address = "here:1"

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        self.sent.append((job, packet_type, *args))


def make(connection: Any = None) -> GearmanJob:
    return GearmanJob(connection, "H:1", "t", "u", b"d")


def test_it_has_the_attributes_that_python_gearman_documents() -> None:
    job = make()
    assert (job.connection, job.handle, job.task, job.unique, job.data) == (None, "H:1", "t", "u", b"d")
    assert job.to_dict() == {"task": "t", "job_handle": "H:1", "unique": "u", "data": b"d"}
    assert (job.attempt, job.status, job.data_bytes, job.started_at) == (1, None, 0, 0.0)
    assert repr(job) == "<GearmanJob task='t' handle='H:1' unique='u'>"


def test_updates_go_through_its_connection() -> None:
    connection = Recording()
    job = make(connection)
    job.send_data(b"part")
    job.send_data("text")
    job.send_warning(None)
    job.send_status(0, 4294967295)
    assert connection.sent == [
        (job, PacketType.WORK_DATA, b"part"),
        (job, PacketType.WORK_DATA, b"text"),
        (job, PacketType.WORK_WARNING, b""),
        (job, PacketType.WORK_STATUS, b"0", b"4294967295"),
    ]
    assert job.status == (0, 4294967295)


def test_data_goes_through_the_tasks_encoder() -> None:
    connection = Recording()
    job = make(connection)
    job.encoder = find_encoder("json")
    job.send_data({"a": 1})
    assert connection.sent[0][2] == b'{"a":1}'
    with pytest.raises(PayloadError):
        job.send_warning(object())


def test_an_encoder_that_makes_no_bytes_is_found_out_before_anything_is_sent() -> None:
    class Text:
        def encode(self, obj: Any, /) -> Any:
            return str(obj)

        def decode(self, data: bytes, /) -> Any:
            return data

    connection = Recording()
    job = make(connection)
    job.encoder = Text()
    for send in (job.send_data, job.send_warning):
        with pytest.raises(PayloadError, match="made str of the data, not bytes"):
            send(1)
    assert connection.sent == []


def test_without_a_connection_updates_go_nowhere_but_are_checked() -> None:
    job = make()
    job.send_data(b"x")
    job.send_status(1, 2)
    assert job.status == (1, 2)
    with pytest.raises(PayloadError):
        job.send_data(object())


@pytest.mark.parametrize("bad", [-1, 2**32, 1.5, "1", None])
def test_a_status_that_a_job_server_would_garble_is_refused(bad: Any) -> None:
    connection = Recording()
    job = make(connection)
    with pytest.raises(ValueError, match="numerator is"):
        job.send_status(bad, 1)
    with pytest.raises(ValueError, match="denominator is"):
        job.send_status(1, bad)
    assert connection.sent == []
    assert job.status is None


def test_users_may_hang_their_own_things_on_it_and_refer_to_it_weakly() -> None:
    job: Any = make()
    job.mine = 1
    assert job.mine == 1
    assert weakref.ref(job)() is job
