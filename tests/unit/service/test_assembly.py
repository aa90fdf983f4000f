"""What assembly shows of a worker's jobs."""

from __future__ import annotations

from typing import Any

import msgspec

from gearworker.http.app import RunningJob
from gearworker.job import GearmanJob
from gearworker.service.assembly import running_jobs


class OnePool:
    name = "p"


class FakeWorker:
    def __init__(self, *handles: str | None) -> None:
        self.handles = handles

    def running_jobs(self) -> list[Any]:
        return [(OnePool, GearmanJob(None, handle, "t", None, b"")) for handle in self.handles]


def test_running_jobs_can_be_sent_and_shown_whatever_their_handles_are_made_of() -> None:
    worker: Any = FakeWorker("H:1", "H:\udcff", None)
    rows = running_jobs(worker)
    assert rows[0] == RunningJob("p", "t", "H:1", 0.0, 1, None)
    assert [row.handle for row in rows] == ["H:1", "H:\\udcff", ""]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(rows))[1][2] == "H:\\udcff"
