"""Jobs that record what their handler sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gearworker.errors import PayloadError
from gearworker.job import GearmanJob
from gearworker.protocol.packets import PacketType
from gearworker.task import Task
from gearworker.testing import make_job, sent


def test_what_a_handler_sends_is_recorded_in_order() -> None:
    def resize(job: GearmanJob) -> bytes:
        job.send_status(1, 2)
        job.send_data(b"part")
        job.send_warning(b"careful")
        job.send_status(2, 2)
        return bytes(job.data).upper()

    job = make_job("resize", b"image", unique="u")
    assert resize(job) == b"IMAGE"
    assert (job.task, job.unique, job.handle) == ("resize", "u", "H:testing:1")
    record = sent(job)
    assert (record.data, record.warnings, record.status) == ([b"part"], [b"careful"], [(1, 2), (2, 2)])
    assert [packet_type for packet_type, _ in record.updates] == [
        PacketType.WORK_STATUS,
        PacketType.WORK_DATA,
        PacketType.WORK_WARNING,
        PacketType.WORK_STATUS,
    ]


def test_a_task_brings_its_encoder() -> None:
    def lines(job: GearmanJob) -> Iterator[bytes]:
        job.send_data({"n": 1})
        yield b""

    job = make_job(Task("prefix.lines", lines, encoder="json"), {"any": "object"})
    list(lines(job))
    assert job.task == "prefix.lines"
    assert job.data == {"any": "object"}
    assert sent(job).data == [b'{"n":1}']


def test_an_encoder_may_be_given() -> None:
    job = make_job("t", encoder="text")
    job.send_data("é")
    assert sent(job).data == ["é".encode()]
    with pytest.raises(PayloadError, match="no encoder 'yaml'"):
        make_job("t", encoder="yaml")


def test_other_jobs_record_nothing() -> None:
    with pytest.raises(TypeError, match="make it with make_job"):
        sent(GearmanJob(None, None, "t", None, b""))
