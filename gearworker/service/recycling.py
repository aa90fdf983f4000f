"""When a worker process has served long enough and is to be replaced by a fresh one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from gearworker.config import Recycle
from gearworker.counts import WorkerCounts


class Recyclable(Protocol):
    """What the limits look at of a process."""

    counts: WorkerCounts

    @property
    def age_s(self) -> float:
        """How long ago it was started, in seconds."""

    @property
    def rss_bytes(self) -> int:
        """Its memory in use."""


class Limits:
    """The limits of one process, each with its own share of chance, so that not all processes go at once.

    Args:
        recycle: the configured limits; 0 is none.
        chance: gives a number from 0 to 1.
    """

    def __init__(self, recycle: Recycle, chance: Callable[[], float] = random.random) -> None:
        splay = 0.9 + 0.2 * chance()
        self.max_jobs = recycle.max_jobs * splay
        self.max_age_s = recycle.max_age_s * splay
        self.max_rss_bytes = recycle.max_rss

    def reason(self, process: Recyclable) -> str | None:
        """Why a process is to be replaced now; None where it is not."""
        if self.max_jobs and process.counts.jobs_ended >= self.max_jobs:
            return f"{process.counts.jobs_ended} jobs done"
        if self.max_age_s and process.age_s >= self.max_age_s:
            return f"{process.age_s:.0f} s old"
        if self.max_rss_bytes and (rss_bytes := process.rss_bytes) >= self.max_rss_bytes:
            return f"{rss_bytes / 2**20:.0f} MiB resident"
        return None
