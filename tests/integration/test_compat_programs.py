"""Programs written for python-gearman, with one changed import, as processes on the real gearmand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.servers import Gearmand, free_port, wait_until

PROGRAMS = Path(__file__).with_name("compat_programs")
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30

Start = Callable[[str], "subprocess.Popen[str]"]


def command(program: str, role: str, address: str) -> list[str]:
    return [sys.executable, str(PROGRAMS / program), role, address]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(program: str, role: str, gearmand: Gearmand) -> list[str]:
    """What a program prints to its end, in lines."""
    done = subprocess.run(
        command(program, role, gearmand.address), env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def start(gearmand: Gearmand) -> Iterator[Start]:
    """Start a program's worker."""
    started: list[subprocess.Popen[str]] = []

    def begin(program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(program, "worker", gearmand.address), env=ENVIRONMENT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def test_reverse(gearmand: Gearmand, start: Start) -> None:
    worker = start("reverse.py")
    assert run("reverse.py", "client", gearmand) == [
        "Job greeting finished!  Result: COMPLETE - b'!dlroW olleH'",
        "Job empty finished!  Result: FAILED - None",
        "Job urgent finished!  Result: COMPLETE - b'cba'",
        "status: 3/3",
    ]
    assert any(" your_worker_client_id_name : reverse" in line for line in gearmand.admin("workers"))
    worker.send_signal(signal.SIGINT)
    printed, errors = worker.communicate(timeout=TIMEOUT_S)
    assert printed.splitlines() == [
        "Job started", "Job completed", "Job started", "Job failed: ValueError", "Job started", "Job completed",
    ]  # fmt: skip
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert worker.returncode != 0


def test_statuses(gearmand: Gearmand, start: Start) -> None:
    worker = start("statuses.py")
    assert run("statuses.py", "client", gearmand) == [
        "background: CREATED True None",
        "background: done",
        "foreground: COMPLETE b'1 steps' [b'step 1'] [b'all steps done']",
        "foreground: COMPLETE b'2 steps' [b'step 1', b'step 2'] [b'all steps done']",
        "foreground: COMPLETE b'3 steps' [b'step 1', b'step 2', b'step 3'] [b'all steps done']",
        "late: CREATED True",
        "late: COMPLETE False b'25 steps'",
        "nobody there",
    ]
    printed, errors = worker.communicate(timeout=TIMEOUT_S)
    assert (printed, worker.returncode) == ("quiet; going home\n", 0), errors


def test_a_worker_without_its_job_server() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = subprocess.run(
        command("statuses.py", "worker", address), env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stdout) == (4, "no job server\n"), done.stderr


def test_objects_and_an_admin_client(gearmand: Gearmand, start: Start) -> None:
    worker = start("objects.py")
    assert run("objects.py", "client", gearmand) == [
        "COMPLETE {'mean': 3.0, 'sum': 9} [{'count': 3}]",
        "FAILED None {'error': 'division by zero'}",
        "COMPLETE None",
    ]
    assert run("objects.py", "admin", gearmand) == [
        "nothing: 0 queued, 0 running, 1 workers",
        "summarize: 0 queued, 0 running, 1 workers",
        "unserved: 1 queued, 0 running, 0 workers",
        "worker: nothing summarize",
        "version: True ping: True",
        "uniques: waiting",
        "refused: True",
    ]
    worker.send_signal(signal.SIGTERM)
    printed, errors = worker.communicate(timeout=TIMEOUT_S)
    assert (printed, worker.returncode) == ("shut down\n", 0), errors
    wait_until(lambda: gearmand.queue("summarize") == (0, 0, 0), what="the worker to be gone")


SIGNALLED = """
import os, signal, sys, time
import gearworker.compat as gearman

def callback(worker, job):
    if job.data == b"fork":
        child = os.fork()
        if child == 0:
            time.sleep(600)
        print("child", child, flush=True)
        return b"forked"
    print("started", flush=True)
    time.sleep(float(job.data))
    print("finished", flush=True)
    return b"done"

worker = gearman.GearmanWorker([sys.argv[1]])
worker.register_task("t", callback)
how = sys.argv[2]
if how == "exit":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
elif how == "shutdown":
    signal.signal(signal.SIGTERM, lambda number, frame: worker.shutdown())
worker.work()
print("returned", flush=True)
"""


@pytest.fixture
def signalled(gearmand: Gearmand, tmp_path: Path) -> Iterator[Start]:
    """Start a worker that handles SIGTERM in some way; wait until its task is served."""
    program = tmp_path / "program.py"
    program.write_text(SIGNALLED)
    started: list[subprocess.Popen[str]] = []

    def begin(how: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(program), gearmand.address, how], env=ENVIRONMENT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        wait_until(lambda: gearmand.queue("t")[2] == 1, what="the worker")
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def submit_in_background(gearmand: Gearmand, data: str) -> None:
    from gearworker import GearmanClient

    with GearmanClient([gearmand.address]) as client:
        client.submit_job("t", data, background=True, poll_timeout=TIMEOUT_S)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("is_busy", [False, True])
def test_shutdown_from_a_signal_handler(gearmand: Gearmand, signalled: Start, is_busy: bool) -> None:
    """Also while a callback blocks the hub: its job is finished, no other one taken."""
    worker = signalled("shutdown")
    if is_busy:
        for _ in range(3):
            submit_in_background(gearmand, "0.5")
        assert first_line(worker) == "started\n"
    worker.send_signal(signal.SIGTERM)
    printed, errors = worker.communicate(timeout=TIMEOUT_S)
    assert (printed, worker.returncode) == ("finished\nreturned\n" if is_busy else "returned\n", 0), errors
    wait_until(lambda: gearmand.queue("t") == (2 if is_busy else 0, 0, 0), what="the worker to be gone")


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize(("how", "number"), [("exit", signal.SIGTERM), ("default", signal.SIGINT)])
def test_an_exception_of_a_signal_handler_ends_the_program_at_once_and_the_job_goes_back(
    gearmand: Gearmand, signalled: Start, how: str, number: int, is_busy: bool
) -> None:
    worker = signalled(how)
    if is_busy:
        submit_in_background(gearmand, "20")
        assert first_line(worker) == "started\n"
    worker.send_signal(number)
    printed, errors = worker.communicate(timeout=10)
    assert printed == ""
    assert worker.returncode == (7 if how == "exit" else -signal.SIGINT), errors
    wait_until(lambda: gearmand.queue("t") == (int(is_busy), 0, 0), what="the job to be queued again")


def test_a_forked_child_does_not_keep_its_dead_parents_jobs(gearmand: Gearmand, signalled: Start) -> None:
    worker = signalled("default")
    submit_in_background(gearmand, "fork")
    child = int(first_line(worker).split()[1])
    try:
        wait_until(lambda: gearmand.queue("t") == (0, 0, 1), what="the job that forks")
        submit_in_background(gearmand, "20")
        assert first_line(worker) == "started\n"
        worker.kill()
        wait_until(lambda: gearmand.queue("t") == (1, 0, 0), 5, what="the job to be queued again")
    finally:
        os.kill(child, signal.SIGKILL)
