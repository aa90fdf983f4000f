"""How long ``gearworker run`` takes until it takes jobs, and how much memory supervisor and worker process need idle.

The first start warms the caches of files and bytecode and is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from harness import BenchmarkFailed, free_port, gearmand, gearworker, get, rss_kib, wait_until, worker

CONFIG = """\
job_servers: ["127.0.0.1:{port}"]
tasks: [bench_tasks]
processes: 1
http: {{listen: "127.0.0.1:{http_port}"}}
log: {{level: warning}}
"""
MAX_START_S, MAX_RSS_MIB = 1.0, 45.0


class Start(NamedTuple):
    """What one start came to."""

    ready_s: float
    supervisor_kib: int
    worker_kib: int


def run_once(port: int, directory: Path) -> Start:
    """Start a service, wait until it is ready, and weigh it once its endpoint has been read as a monitor reads it."""
    http_port = free_port()
    config = directory / "startup.yaml"
    config.write_text(CONFIG.format(port=port, http_port=http_port))
    began = time.monotonic()
    with worker(gearworker(config)) as process:
        wait_until("the service is ready", lambda: get(http_port, "/readyz") != "", 20.0)
        ready_s = time.monotonic() - began
        for path in ("/metrics", "/jobs", "/"):
            if not get(http_port, path):
                raise BenchmarkFailed(f"{path} was not answered")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if len(children) != 1:
            raise BenchmarkFailed(f"one worker process was to run; there are {len(children)}")
        return Start(ready_s, rss_kib(process.pid), rss_kib(int(children[0])))


def run(rounds: int, directory: Path) -> dict[str, float]:
    """Start it a few times over; gives the median time and the largest memory."""
    with gearmand() as port:
        run_once(port, directory)
        starts = [run_once(port, directory) for _ in range(rounds)]
    times = [start.ready_s for start in starts]
    return {
        "rounds": rounds,
        "ready_s": median(times),
        "ready_s_min": min(times),
        "ready_s_max": max(times),
        "supervisor_mib": max(start.supervisor_kib for start in starts) / 1024,
        "worker_mib": max(start.worker_kib for start in starts) / 1024,
    }


def missed_targets(figures: dict[str, float]) -> list[str]:
    """The targets that were missed, each as a sentence."""
    missed = []
    if figures["ready_s"] > MAX_START_S:
        missed.append(f"ready after {figures['ready_s']:.2f} s; {MAX_START_S:g} s are due")
    for what in ("supervisor", "worker"):
        if figures[f"{what}_mib"] > MAX_RSS_MIB:
            missed.append(f"the {what} has {figures[f'{what}_mib']:.1f} MiB; {MAX_RSS_MIB:g} are allowed")
    return missed


def main() -> int:
    """Measure, print, and with --check judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as directory:
            figures = run(options.rounds, Path(directory))
    except BenchmarkFailed as error:
        print(f"startup: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print(
            f"ready in {figures['ready_s']:.2f} s ({figures['ready_s_min']:.2f} to {figures['ready_s_max']:.2f}), "
            f"idle: supervisor {figures['supervisor_mib']:.1f} MiB, worker process {figures['worker_mib']:.1f} MiB"
        )
    missed = missed_targets(figures) if options.check else []
    for sentence in missed:
        print(f"missed: {sentence}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
