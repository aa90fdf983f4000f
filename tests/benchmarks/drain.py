"""No-op jobs, drained: gearworker beside the worker in C on libgearman, on one gearmand, in alternating rounds.

Each round fills the queue and lets one worker empty it: gearworker with its metrics on, the C worker, and a raw reader
that shows how fast gearmand can hand out jobs at all. The workers have one core, gearmand has the other.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from harness import (
    HERE,
    STOP_TIMEOUT_S,
    BenchmarkFailed,
    Measured,
    drain,
    expect_completed,
    free_port,
    gearmand,
    gearworker,
    worker,
)
from prefill import prefill

TASK = "noop"
GEARWORKER, C_WORKER, RAW_READER = "gearworker", "C worker (libgearman)", "raw reader (ceiling)"
CONFIG = """\
job_servers: ["127.0.0.1:{port}"]
tasks: [bench_tasks]
processes: 0
pools: {{default: {{concurrency: {concurrency}}}}}
http: {{listen: "127.0.0.1:{http_port}"}}
log: {{level: warning}}
"""
MIN_JOBS_PER_S, MAX_CPU_US_PER_JOB, MIN_RATIO = 60_000, 15.0, 5.0


def build_c_worker(directory: Path) -> Path | None:
    """Compile the C worker; None where there is no compiler or no libgearman to compile it with."""
    program = directory / "libgearman_worker"
    source = HERE / "libgearman_worker.c"
    if shutil.which("cc") is None:
        return None
    command = ["cc", "-O2", "-o", str(program), str(source), "-lgearman"]
    return program if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def run_rounds(rounds: int, jobs: int, concurrency: int, directory: Path) -> dict[str, list[Measured]]:
    """Drain the queue with each worker in turn, a few times over."""
    results: dict[str, list[Measured]] = {}
    c_worker = build_c_worker(directory)
    if c_worker is None:
        print("without the C worker: it needs cc and libgearman (apt-get install gcc libgearman-dev)", file=sys.stderr)
    http_port = free_port()
    with gearmand() as port:
        config = directory / "bench.yaml"
        config.write_text(CONFIG.format(port=port, concurrency=concurrency, http_port=http_port))
        reader = [sys.executable, str(HERE / "raw_reader.py"), str(port), TASK, str(jobs), "--grabs", str(concurrency)]
        commands = {GEARWORKER: gearworker(config), RAW_READER: reader}
        if c_worker is not None:
            commands[C_WORKER] = [str(c_worker), "127.0.0.1", str(port), TASK, str(jobs)]
        for _ in range(rounds):
            for name, command in commands.items():
                prefill(port, TASK, jobs)
                with worker(command) as process:
                    results.setdefault(name, []).append(drain(port, TASK, jobs, process))
                    if name == GEARWORKER:
                        expect_completed(http_port, TASK, jobs)
                    else:
                        process.wait(STOP_TIMEOUT_S)
    return results


def summarise(results: dict[str, list[Measured]]) -> dict[str, dict[str, float]]:
    """The median round of each worker, and its ratio to the C worker's rate."""
    summary: dict[str, dict[str, float]] = {}
    for name, rounds in results.items():
        rates = [measured.jobs_per_s for measured in rounds]
        summary[name] = {
            "jobs": rounds[0].jobs,
            "rounds": len(rounds),
            "jobs_per_s": median(rates),
            "jobs_per_s_min": min(rates),
            "jobs_per_s_max": max(rates),
            "cpu_us_per_job": median(measured.cpu_us_per_job for measured in rounds),
        }
    if C_WORKER in summary:
        for row in summary.values():
            row["times_c_worker"] = row["jobs_per_s"] / summary[C_WORKER]["jobs_per_s"]
    return summary


def print_table(summary: dict[str, dict[str, float]]) -> None:
    """Print what was measured, one worker a line."""
    print(f"{'':24}{'jobs/s':>10}{'(min':>11} to {'max)':<10}{'CPU µs/job':>11}{'x C worker':>12}")
    for name, row in summary.items():
        ratio = f"{row['times_c_worker']:.1f}" if "times_c_worker" in row else "-"
        spread = f"{row['jobs_per_s_min']:>11,.0f} to {row['jobs_per_s_max']:<10,.0f}"
        print(f"{name:24}{row['jobs_per_s']:>10,.0f}{spread}{row['cpu_us_per_job']:>11.1f}{ratio:>12}")


def missed_targets(summary: dict[str, dict[str, float]]) -> list[str]:
    """The targets that gearworker missed, each as a sentence."""
    ours = summary[GEARWORKER]
    missed = []
    if ours["jobs_per_s"] < MIN_JOBS_PER_S:
        missed.append(f"{ours['jobs_per_s']:,.0f} jobs a second; the target is {MIN_JOBS_PER_S:,}")
    if ours["cpu_us_per_job"] > MAX_CPU_US_PER_JOB:
        missed.append(f"{ours['cpu_us_per_job']:.1f} µs of CPU a job; the target is {MAX_CPU_US_PER_JOB:g}")
    if "times_c_worker" not in ours:
        missed.append("there is no C worker to compare with")
    elif ours["times_c_worker"] < MIN_RATIO:
        missed.append(f"{ours['times_c_worker']:.1f} times the C worker; the target is {MIN_RATIO:g}")
    return missed


def main() -> int:
    """Measure, print, and with --check judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as directory:
            summary = summarise(run_rounds(options.rounds, options.jobs, options.concurrency, Path(directory)))
    except BenchmarkFailed as error:
        print(f"drain: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        print_table(summary)
    missed = missed_targets(summary) if options.check else []
    for sentence in missed:
        print(f"missed: {sentence}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
