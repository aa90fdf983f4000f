"""A thousand waiting jobs at a time on one connection: the rate, and the memory of each further job that runs.

Every job waits 50 ms, so a concurrency of 1,000 can do at most 20,000 jobs a second. Memory is measured while all slots
are busy, at a small and at a large concurrency; the difference is what the further jobs cost.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import NamedTuple

from drain import CONFIG
from harness import (
    BenchmarkFailed,
    Measured,
    Queue,
    drain,
    expect_completed,
    free_port,
    gearmand,
    gearworker,
    rss_kib,
    worker,
)
from prefill import prefill

TASK = "sleep"
MIN_JOBS_PER_S, MAX_KIB_PER_JOB = 18_000, 10.0


class Round(NamedTuple):
    """What one concurrency came to."""

    measured: Measured
    rss_kib: int


def run_round(port: int, jobs: int, concurrency: int, directory: Path) -> Round:
    """Drain sleeping jobs at one concurrency."""
    config = directory / f"sleepers-{concurrency}.yaml"
    http_port = free_port()
    config.write_text(CONFIG.format(port=port, concurrency=concurrency, http_port=http_port))
    prefill(port, TASK, jobs)
    with worker(gearworker(config)) as process, Queue(port) as queue:
        peak = PeakMemory(process.pid, queue, concurrency)
        peak.start()
        measured = drain(port, TASK, jobs, process, busy_slots=concurrency)
        peak.stop()
        expect_completed(http_port, TASK, jobs)
        return Round(measured, peak.rss_kib)


class PeakMemory(threading.Thread):
    """Watches a worker until its queue is empty and keeps the most memory it had with all slots busy.

    Args:
        pid: the worker's process.
        queue: its job server's queues, for this watcher alone.
        concurrency: how many jobs run when all slots are busy.
    """

    def __init__(self, pid: int, queue: Queue, concurrency: int) -> None:
        super().__init__(daemon=True)
        self.rss_kib = 0
        self._pid, self._queue, self._concurrency = pid, queue, concurrency
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look every 50 ms."""
        while not self._stopped.wait(0.05):
            if self._queue.running(TASK) >= self._concurrency * 0.9:
                self.rss_kib = max(self.rss_kib, rss_kib(self._pid))

    def stop(self) -> None:
        """End the watch.

        Raises:
            BenchmarkFailed: the slots were never all busy.
        """
        self._stopped.set()
        self.join(10)
        if not self.rss_kib:
            raise BenchmarkFailed(f"never were {self._concurrency} jobs of {TASK} seen running at a time")


def run(rounds: int, jobs: int, few: int, many: int, directory: Path) -> dict[str, float]:
    """Measure both concurrencies in alternating rounds; gives the medians."""
    seen: dict[int, list[Round]] = {few: [], many: []}
    with gearmand() as port:
        for _ in range(rounds):
            for concurrency, results in seen.items():
                share = max(jobs * concurrency // many, concurrency * 4)
                results.append(run_round(port, share, concurrency, directory))
    memory = {concurrency: median(result.rss_kib for result in results) for concurrency, results in seen.items()}
    return {
        "jobs": jobs,
        "concurrency": many,
        "jobs_per_s": median(result.measured.jobs_per_s for result in seen[many]),
        "cpu_us_per_job": median(result.measured.cpu_us_per_job for result in seen[many]),
        "rss_kib": memory[many],
        "kib_per_further_job": (memory[many] - memory[few]) / (many - few),
    }


def main() -> int:
    """Measure, print, and with --check judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--few", type=int, default=100, help="the small concurrency")
    parser.add_argument("--many", type=int, default=1000, help="the large concurrency")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as directory:
            figures = run(options.rounds, options.jobs, options.few, options.many, Path(directory))
    except BenchmarkFailed as error:
        print(f"sleepers: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print(
            f"{options.many:,} jobs of 50 ms at a time: {figures['jobs_per_s']:,.0f} jobs/s, "
            f"{figures['cpu_us_per_job']:.1f} µs of CPU a job, {figures['rss_kib'] / 1024:.0f} MiB resident, "
            f"{figures['kib_per_further_job']:.1f} KiB for each further job"
        )
    missed = figures["jobs_per_s"] < MIN_JOBS_PER_S or figures["kib_per_further_job"] > MAX_KIB_PER_JOB
    if options.check and missed:
        print(f"missed: the targets are {MIN_JOBS_PER_S:,} jobs/s and {MAX_KIB_PER_JOB:g} KiB a job", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
