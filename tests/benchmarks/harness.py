"""What the benchmarks share: a gearmand of their own, cores to pin to, and samples of a queue as it drains.

Rates are taken between two samples while the queue drains, so neither the start of a process nor the time between two
samples is part of them. CPU time is the kernel's nanosecond count (schedstat) over all threads of a process.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SAMPLE_INTERVAL_S = 0.02
STOP_TIMEOUT_S = 15.0
STALL_TIMEOUT_S = 30.0


class BenchmarkFailed(Exception):
    """Something that a benchmark needs is missing or did not happen by its deadline."""


class Sample(NamedTuple):
    """A queue and the worker on it at one moment."""

    at_s: float
    left: int
    cpu_ns: int


class Measured(NamedTuple):
    """What a drain came to."""

    jobs: int
    jobs_per_s: float
    cpu_us_per_job: float


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cores() -> tuple[set[int], set[int]]:
    """The cores for job servers and for workers: one each where there are two, else all for both."""
    usable = sorted(os.sched_getaffinity(0))
    return ({usable[0]}, {usable[1]}) if len(usable) > 1 else (set(usable), set(usable))


def start(command: list[str], on_cores: set[int]) -> subprocess.Popen[bytes]:
    """Start a process on some cores, its own modules of tasks within its reach."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent.parent)))}
    process = subprocess.Popen(command, env=env)
    os.sched_setaffinity(process.pid, on_cores)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that ``start`` gave: SIGTERM, and SIGKILL where that does not do."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(what: str, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something to become true.

    Raises:
        BenchmarkFailed: it did not by the deadline.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.01)


@contextmanager
def gearmand() -> Iterator[int]:
    """Run a gearmand with room for a million uniques; gives its port."""
    path = shutil.which("gearmand", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise BenchmarkFailed("gearmand is not installed; Debian and Ubuntu have it as gearman-job-server")
    port = free_port()
    options = ["--listen=127.0.0.1", f"--port={port}", "--hashtable-buckets=1000003", "--log-file=none"]
    process = start([path, *options], cores()[0])
    try:
        wait_until("gearmand listens", lambda: _listens(port))
        yield port
    finally:
        stop(process)


@contextmanager
def worker(command: list[str], on_cores: set[int] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker on the workers' core, or on others, and stop it with SIGTERM where it has not ended by itself.

    Raises:
        BenchmarkFailed: it did not end with exit code 0.
    """
    process = start(command, on_cores or cores()[1])
    try:
        yield process
    finally:
        stop(process)
    if process.returncode != 0:
        raise BenchmarkFailed(f"{process.args!r} ended with exit code {process.returncode}")


def gearworker(config: Path) -> list[str]:
    """The command that serves a configuration with this checkout's gearworker."""
    return [sys.executable, "-m", "gearworker", "run", str(config)]


def get(http_port: int, path: str) -> str:
    """What a gearworker's endpoint answers; empty where it does not, or not with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}{path}", timeout=10) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def wait_for_processes(http_port: int, count: int) -> None:
    """Wait until a gearworker has so many worker processes that take jobs.

    Raises:
        BenchmarkFailed: it has not by the deadline.
    """
    line = f'gearworker_processes{{state="ready"}} {count}.0'
    wait_until(f"{count} processes are ready", lambda: line in get(http_port, "/metrics").splitlines(), 20.0)


def expect_completed(http_port: int, task: str, jobs: int) -> None:
    """Check that a gearworker counted so many jobs as complete, and none as anything else.

    Raises:
        BenchmarkFailed: it counted others.
    """
    counted: dict[str, str] = {}

    def is_as_expected() -> bool:
        exposition = get(http_port, "/metrics")
        counted.clear()
        counted.update(
            line.rsplit(" ", 1)
            for line in exposition.splitlines()
            if line.startswith("gearworker_jobs_total{") and f'task="{task}"' in line and float(line.split()[-1])
        )
        [(labels, count)] = counted.items() if len(counted) == 1 else [("", "0")]
        return 'outcome="complete"' in labels and float(count) == jobs

    try:
        wait_until("all jobs are counted", is_as_expected, 5.0)
    except BenchmarkFailed:
        raise BenchmarkFailed(f"{task}: {jobs} jobs were to be complete; the worker counted {counted}") from None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def drain(port: int, task: str, jobs: int, process: subprocess.Popen[bytes], *, busy_slots: int = 1) -> Measured:
    """Watch a worker empty a queue.

    Args:
        busy_slots: what is measured ends when fewer jobs are left, because then some of so many slots are idle.

    Raises:
        BenchmarkFailed: the queue stopped shrinking, or the worker ended before it was empty.
    """
    samples: list[Sample] = []
    changed_at_s = time.monotonic()
    with Queue(port) as queue:
        while not samples or samples[-1].left:
            samples.append(Sample(time.monotonic(), queue.total(task), cpu_ns(process.pid)))
            now = samples[-1]
            if len(samples) < 2 or now.left != samples[-2].left:
                changed_at_s = now.at_s
            elif now.at_s - changed_at_s > STALL_TIMEOUT_S or (process.poll() is not None and now.left):
                raise BenchmarkFailed(f"{task}: {now.left} of {jobs} jobs are left and nothing happens")
            time.sleep(SAMPLE_INTERVAL_S)
    return measure(samples, jobs, busy_slots)


def measure(samples: list[Sample], jobs: int, busy_slots: int) -> Measured:
    """The rate between the first sample in which jobs are done and the last in which all slots have one.

    A drain too short for two such samples is measured from the last sample before it to the first one after it.
    """
    under_way = [index for index, sample in enumerate(samples) if busy_slots <= sample.left < jobs]
    if len(under_way) > 1:
        first, last = samples[under_way[0]], samples[under_way[-1]]
    else:
        first = [sample for sample in samples if sample.left == jobs][-1]
        last = next(sample for sample in samples if not sample.left)
    done = first.left - last.left
    cpu_us = (last.cpu_ns - first.cpu_ns) / 1000 / done if last.cpu_ns else 0.0
    return Measured(jobs, done / (last.at_s - first.at_s), cpu_us)


def cpu_ns(pid: int) -> int:
    """The CPU time that a process has used, in nanoseconds; 0 once it has ended."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[0])
        except (OSError, IndexError):
            continue
    return total


def rss_kib(pid: int) -> int:
    """The memory that a process has resident, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise BenchmarkFailed(f"process {pid} has ended")


class Queue:
    """A job server's queues over one admin connection.

    Args:
        port: of a job server on the loopback interface.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def total(self, task: str) -> int:
        """Jobs of a task that are queued or running."""
        return self._status(task)[0]

    def running(self, task: str) -> int:
        """Jobs of a task that run."""
        return self._status(task)[1]

    def _status(self, task: str) -> tuple[int, int]:
        self._socket.sendall(b"status\r\n")
        reply = b""
        while not reply.endswith(b".\n"):
            received = self._socket.recv(65536)
            if not received:
                raise BenchmarkFailed("the job server closed its admin connection")
            reply += received
        for line in reply.decode().splitlines()[:-1]:
            name, total, running, _ = line.rsplit("\t", 3)
            if name == task:
                return int(total), int(running)
        return 0, 0
