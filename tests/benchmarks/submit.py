"""How fast the client submits: 100,000 background jobs by ``submit_multiple_jobs`` from one process to gearmand.

The last round's requests are dropped before memory is looked at, which has to be back near its base then.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from statistics import median

from harness import BenchmarkFailed, Queue, gearmand, rss_kib

from gearworker import GearmanClient

TASK = "submitted"
MIN_JOBS_PER_S = 50_000


def run_round(client: GearmanClient, jobs: int) -> tuple[float, float]:
    """Submit so many jobs; gives jobs/s and CPU µs a job."""
    payload = b"x" * 10
    began, cpu_s = time.perf_counter(), time.process_time()
    requests = client.submit_multiple_jobs(({"task": TASK, "data": payload} for _ in range(jobs)), background=True)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    if not all(request.complete for request in requests):
        raise BenchmarkFailed("not every job was accepted")
    return jobs / took_s, cpu_s / jobs * 1e6


def run(rounds: int, jobs: int) -> dict[str, float]:
    """Measure; gives medians, and the memory that is left over after all rounds."""
    with gearmand() as port, GearmanClient([("127.0.0.1", port)]) as client, Queue(port) as queue:
        run_round(client, 100)
        gc.collect()
        base_kib = rss_kib(os.getpid())
        measured = [run_round(client, jobs) for _ in range(rounds)]
        gc.collect()
        if queue.total(TASK) != rounds * jobs + 100:
            raise BenchmarkFailed("gearmand does not hold every job")
        return {
            "jobs": jobs,
            "jobs_per_s": median(rate for rate, _ in measured),
            "cpu_us_per_job": median(cpu_us for _, cpu_us in measured),
            "left_over_kib": rss_kib(os.getpid()) - base_kib,
        }


def main() -> int:
    """Measure, print, and with --check judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the target is missed")
    options = parser.parse_args()
    try:
        figures = run(options.rounds, options.jobs)
    except BenchmarkFailed as error:
        print(f"submit: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print(
            f"{options.jobs:,} background jobs submitted by one client: {figures['jobs_per_s']:,.0f} jobs/s, "
            f"{figures['cpu_us_per_job']:.1f} µs of CPU a job, {figures['left_over_kib'] / 1024:.1f} MiB left over"
        )
    if options.check and figures["jobs_per_s"] < MIN_JOBS_PER_S:
        print(f"missed: the target is {MIN_JOBS_PER_S:,} jobs/s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
