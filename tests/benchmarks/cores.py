"""CPU-bound jobs on two cores: two worker processes beside one, in alternating rounds on one gearmand.

A job keeps its core busy in pure Python for some milliseconds, so one process can use one core and no more. The
processes are up before the queue is filled: what is measured is work, not start. Beside them runs the same loop in
bare interpreters without any job server, one and two: a machine that is shared need not give two cores to anybody.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from harness import (
    BenchmarkFailed,
    drain,
    expect_completed,
    free_port,
    gearmand,
    gearworker,
    wait_for_processes,
    worker,
)
from prefill import prefill

TASK = "spin"
PROCESSES = (1, 2)
CONCURRENCY = 2
"""A process has its next job at hand when one ends."""
CONFIG = """\
job_servers: ["127.0.0.1:{port}"]
tasks: [bench_tasks]
processes: {processes}
pools: {{default: {{concurrency: {concurrency}}}}}
http: {{listen: "127.0.0.1:{http_port}"}}
log: {{level: warning}}
"""
MIN_RATIO = 1.85
BARE_S = 1.5
BARE = """
import sys, time
turns, done, began = int(sys.argv[1]), 0, time.perf_counter()
while time.perf_counter() - began < float(sys.argv[2]):
    total = 0
    for turn in range(turns):
        total += turn & 7
    done += 1
print(done / (time.perf_counter() - began))
"""


def turns_of(milliseconds: float) -> int:
    """How many turns of the task's loop take so long on this machine: the fastest of a few tries."""
    sample, took_s = 100_000, []
    for _ in range(5):
        began, total = time.perf_counter(), 0
        for turn in range(sample):
            total += turn & 7
        took_s.append(time.perf_counter() - began)
    return int(sample * milliseconds / 1000 / min(took_s))


def run_bare(processes: int, turns: int) -> float:
    """Run the jobs' loop in so many interpreters at a time, without job server; gives the loops a second."""
    command = [sys.executable, "-c", BARE, str(turns), str(BARE_S)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(process.communicate(timeout=60)[0]) for process in started)


def run_round(port: int, processes: int, jobs: int, turns: int, directory: Path) -> float:
    """Drain a queue with so many processes; gives the jobs done a second."""
    http_port = free_port()
    config = directory / f"cores-{processes}.yaml"
    config.write_text(CONFIG.format(port=port, processes=processes, concurrency=CONCURRENCY, http_port=http_port))
    with worker(gearworker(config), os.sched_getaffinity(0)) as process:
        wait_for_processes(http_port, processes)
        prefill(port, TASK, jobs, data=b"%d" % turns)
        measured = drain(port, TASK, jobs, process, busy_slots=processes * CONCURRENCY)
        expect_completed(http_port, TASK, jobs)
    return measured.jobs_per_s


def run(rounds: int, jobs: int, milliseconds: float, directory: Path) -> dict[str, float]:
    """Measure one process and two in turn, a few times over; gives the medians."""
    turns = turns_of(milliseconds)
    rates: dict[int, list[float]] = {processes: [] for processes in PROCESSES}
    bare: list[float] = []
    with gearmand() as port:
        for _ in range(rounds):
            for processes, seen in rates.items():
                seen.append(run_round(port, processes, jobs * processes, turns, directory))
            bare.append(run_bare(2, turns) / run_bare(1, turns))
    ratios = [two / one for one, two in zip(*rates.values(), strict=True)]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "rounds": rounds,
        "jobs": jobs,
        "job_ms": milliseconds,
        "jobs_per_s_one": median(rates[1]),
        "jobs_per_s_two": median(rates[2]),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "bare_ratio": median(bare),
    }


def main() -> int:
    """Measure, print, and with --check judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500, help="for each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--milliseconds", type=float, default=8.0, help="CPU time of a job, about")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as directory:
            figures = run(options.rounds, options.jobs, options.milliseconds, Path(directory))
    except BenchmarkFailed as error:
        print(f"cores: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print(
            f"{figures['job_ms']:g} ms of CPU a job: one process {figures['jobs_per_s_one']:.0f} jobs/s, two processes "
            f"{figures['jobs_per_s_two']:.0f} jobs/s, x {figures['ratio']:.2f} "
            f"({figures['ratio_min']:.2f} to {figures['ratio_max']:.2f}); "
            f"bare interpreters x {figures['bare_ratio']:.2f}"
        )
    if options.check and figures["ratio"] < MIN_RATIO:
        print(
            f"missed: two processes do {figures['ratio']:.2f} times the work; {MIN_RATIO} is due "
            f"(two bare interpreters did {figures['bare_ratio']:.2f} times that of one)",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
