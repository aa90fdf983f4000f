"""Every benchmark, with few jobs: it runs, all of its jobs are done, and its figures are figures.

None of these judges speed: so few jobs on a busy machine say nothing about it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 120

pytestmark = pytest.mark.gearmand


def run_benchmark(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def figures_of(script: str, *arguments: str) -> dict[str, Any]:
    done = run_benchmark(script, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def can_compile() -> bool:
    source = b"#include <libgearman/gearman.h>\n"
    compiler = shutil.which("cc")
    command = [compiler or "", "-E", "-x", "c", "-"]
    return compiler is not None and subprocess.run(command, input=source, capture_output=True).returncode == 0


def test_drain_measures_every_worker() -> None:
    summary = figures_of("drain.py", "--jobs", "2000", "--rounds", "1", "--concurrency", "64")
    assert {"gearworker", "raw reader (ceiling)"} <= set(summary)
    for row in summary.values():
        assert row["jobs"] == 2000
        assert row["jobs_per_s"] > 0
        assert row["cpu_us_per_job"] >= 0


@pytest.mark.skipif(not can_compile(), reason="needs a C compiler and libgearman-dev")
def test_drain_compares_with_the_c_worker() -> None:
    summary = figures_of("drain.py", "--jobs", "2000", "--rounds", "1")
    assert summary["C worker (libgearman)"]["times_c_worker"] == 1
    assert summary["gearworker"]["times_c_worker"] > 0


def test_drain_prints_a_table() -> None:
    done = run_benchmark("drain.py", "--jobs", "500", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split()[0] == "jobs/s"
    assert rows[0].startswith("gearworker ")
    assert float(rows[0].split()[1].replace(",", "")) > 0


def test_drain_check_fails_below_its_targets() -> None:
    done = run_benchmark("drain.py", "--jobs", "200", "--rounds", "1", "--concurrency", "1", "--check")
    assert done.returncode == 1
    assert "missed: " in done.stderr


def test_sleepers_measures_rate_and_memory() -> None:
    figures = figures_of("sleepers.py", "--jobs", "600", "--rounds", "1", "--few", "20", "--many", "100")
    assert 0 < figures["jobs_per_s"] <= 100 / 0.05 * 1.1
    assert figures["rss_kib"] > 0


def test_cores_compares_one_process_with_two() -> None:
    figures = figures_of("cores.py", "--jobs", "40", "--rounds", "1", "--milliseconds", "5")
    assert 0 < figures["jobs_per_s_one"] <= 400
    assert figures["jobs_per_s_two"] > 0
    assert figures["bare_ratio"] > 0
    assert figures["ratio"] == pytest.approx(figures["jobs_per_s_two"] / figures["jobs_per_s_one"])


def test_startup_measures_time_and_memory() -> None:
    figures = figures_of("startup.py", "--rounds", "1")
    assert 0 < figures["ready_s"] < 30
    assert 10 < figures["supervisor_mib"] < 200
    assert 10 < figures["worker_mib"] < 200


def test_prefill_tells_how_fast_it_was(tmp_path: Path) -> None:
    program = (
        "import sys, subprocess\n"
        "from harness import gearmand, Queue\n"
        "with gearmand() as port:\n"
        "    subprocess.run([sys.executable, 'prefill.py', str(port), 'noop', '1234'], check=True)\n"
        "    with Queue(port) as queue:\n"
        "        print(queue.total('noop'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent.parent)))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("1234 jobs of noop queued in ")
    assert done.stdout.splitlines()[1] == "1234"


def test_submit_measures_the_client() -> None:
    figures = figures_of("submit.py", "--jobs", "2000", "--rounds", "1")
    assert figures["jobs"] == 2000
    assert figures["jobs_per_s"] > 0
    assert figures["cpu_us_per_job"] > 0
