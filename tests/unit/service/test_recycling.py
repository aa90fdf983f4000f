"""When a process is recycled: by its jobs, its age and its memory."""

from __future__ import annotations

import pytest

from gearworker.config import Recycle
from gearworker.counts import TaskCounts, WorkerCounts
from gearworker.service.recycling import Limits

MIB = 1024 * 1024


class FakeProcess:
    def __init__(self, jobs: int = 0, age_s: float = 0.0, rss_bytes: int = 0) -> None:
        task = TaskCounts()
        task.outcomes.update(complete=jobs - jobs // 2, fail=jobs // 2)
        self.counts = WorkerCounts({"t": task})
        self.age_s, self.rss_bytes = age_s, rss_bytes


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        (FakeProcess(jobs=99), None),
        (FakeProcess(jobs=100), "100 jobs done"),
        (FakeProcess(age_s=59.9), None),
        (FakeProcess(age_s=60), "60 s old"),
        (FakeProcess(rss_bytes=200 * MIB - 1), None),
        (FakeProcess(rss_bytes=200 * MIB), "200 MiB resident"),
        (FakeProcess(jobs=100, age_s=60, rss_bytes=200 * MIB), "100 jobs done"),
    ],
)
def test_each_limit_has_its_reason(process: FakeProcess, reason: str | None) -> None:
    limits = Limits(Recycle(max_jobs=100, max_age_s=60, max_rss=200 * MIB), chance=lambda: 0.5)
    assert limits.reason(process) == reason


def test_no_limit_is_never() -> None:
    assert Limits(Recycle()).reason(FakeProcess(10**9, 10**9, 2**50)) is None


@pytest.mark.parametrize(("chance", "jobs", "age_s"), [(0.0, 900, 90), (1.0, 1100, 110)])
def test_chance_moves_jobs_and_age_by_a_tenth_and_memory_not_at_all(chance: float, jobs: int, age_s: float) -> None:
    limits = Limits(Recycle(max_jobs=1000, max_age_s=100, max_rss=MIB), chance=lambda: chance)
    assert limits.max_jobs == pytest.approx(jobs)
    assert limits.max_age_s == pytest.approx(age_s)
    assert limits.max_rss_bytes == MIB


def test_processes_with_the_same_configuration_do_not_go_at_once() -> None:
    drawn = {Limits(Recycle(max_age_s=1000)).max_age_s for _ in range(20)}
    assert len(drawn) > 10
    assert all(900 <= age_s <= 1100 for age_s in drawn)
