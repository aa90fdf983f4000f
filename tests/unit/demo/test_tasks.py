"""The demo's tasks, called as the plain functions that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gearworker.demo import tasks
from gearworker.demo.tasks import Booking, Division, Numbers, Resized, ResizeRequest
from gearworker.encoders import JSONEncoder
from gearworker.errors import FailJob, PayloadError
from gearworker.job import GearmanJob
from gearworker.protocol.packets import PacketType


class Recorder:
    """Stands in for a job's connection and keeps what the job sent."""

    address = "test:0"

    def __init__(self) -> None:
        self.sent: list[tuple[PacketType, tuple[bytes, ...]]] = []

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        self.sent.append((packet_type, args))


def job_with(data: Any) -> tuple[GearmanJob, Recorder]:
    recorder = Recorder()
    return GearmanJob(recorder, "H:test:1", "test", None, data), recorder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "wide.png"
    Image.new("RGB", (400, 300), (200, 80, 20)).save(file)
    return file


def test_resize_makes_each_width_and_tells_how_far_it_is(picture: Path, tmp_path: Path) -> None:
    job, recorder = job_with(ResizeRequest(str(picture), str(tmp_path), [200, 100, 40]))
    made = tasks.resize(job)
    files = [tmp_path / f"wide-{width}.jpg" for width in (200, 100, 40)]
    assert made == [
        Resized(str(file), width, height)
        for file, (width, height) in zip(files, [(200, 150), (100, 75), (40, 30)], strict=True)
    ]
    for file, size in zip(files, [(200, 150), (100, 75), (40, 30)], strict=True):
        with Image.open(file) as resized:
            resized.load()
            assert resized.size == size
    assert recorder.sent == [(PacketType.WORK_STATUS, (b"%d" % step, b"3")) for step in range(4)]


@pytest.mark.parametrize("width", [0, -1, 10_001])
def test_resize_refuses_a_width_that_makes_no_sense_before_it_starts(picture: Path, tmp_path: Path, width: int) -> None:
    job, recorder = job_with(ResizeRequest(str(picture), str(tmp_path), [100, width]))
    with pytest.raises(FailJob, match=f"not \\[{width}\\]"):
        tasks.resize(job)
    assert recorder.sent == []
    assert not (tmp_path / "wide-100.jpg").exists()


@pytest.mark.parametrize("payload", [b"{}", b'{"source":"a","directory":"b","widths":"all"}', b"not json"])
def test_a_payload_of_another_form_is_refused_by_the_type(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        JSONEncoder(ResizeRequest).decode(payload)


def test_resize_runs_in_threads_in_its_pool() -> None:
    assert (tasks.resize.thread, tasks.resize.pool) == (True, "images")


def test_typeset_streams_lines_that_keep_every_word() -> None:
    text = "the quick brown fox jumps over the lazy dog and runs " * 3
    lines = list(tasks.typeset(job_with(text)[0]))
    assert len(lines) == 3
    assert all(len(line) <= 61 and line.endswith("\n") for line in lines)
    assert "".join(lines).split() == text.split()


def test_average_warns_of_each_missing_value() -> None:
    job, recorder = job_with(Numbers([1.0, None, 4.0, None]))
    assert tasks.average(job) == 2.5
    assert recorder.sent == [(PacketType.WORK_WARNING, (b"value %d is missing" % place,)) for place in (1, 3)]


def test_average_of_nothing_fails() -> None:
    with pytest.raises(FailJob):
        tasks.average(job_with(Numbers([None]))[0])


def test_book_gives_the_seats_left_and_fails_beyond_them() -> None:
    assert tasks.book(job_with(Booking(15))[0]) == 25
    with pytest.raises(FailJob, match="only 40 seats"):
        tasks.book(job_with(Booking(41))[0])


def test_divide_raises_as_python_does() -> None:
    assert tasks.divide(job_with(Division(9, 2))[0]) == 4.5
    with pytest.raises(ZeroDivisionError):
        tasks.divide(job_with(Division(1, 0))[0])
