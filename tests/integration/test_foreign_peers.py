"""Clients and workers written by others, with ours, on the real gearmand.

Debian's ``gearman`` (libgearman), ``gear`` from PyPI and Perl's Gearman::Client submit to our worker; our client
submits to ``gearman -w``. What they make of an exception depends on gearmand's ``--exceptions``: without it gearmand
turns a WORK_EXCEPTION, for clients that did not ask for exceptions, into a WORK_FAIL whose handle has a NUL too many.
gear takes that as the failure it is, Perl's client dies of it, and libgearman's waits for ever.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import DEADLINE_S, HOST, Gearmand, wait_until
from support.tools import find_tool, missing
from support.workers import WorkerProcess

from gearworker import GearmanClient

PROGRAMS = Path(__file__).with_name("foreign_peers")
TIMEOUT_S = 20
HANGS_S = 1.5
"""So long a client is watched that waits for ever."""

TASKS = """
    import gevent
    from gearworker import FailJob, task

    @task
    def talk(job):
        how = job.data.decode()
        job.send_data(b"part 1")
        job.send_data(b"part 2")
        job.send_warning(b"careful")
        job.send_status(1, 2)
        if how == "fail":
            raise FailJob("on purpose")
        if how == "raise":
            raise ValueError("no good")
        if how == "slow":
            gevent.sleep(0.3)
        return job.data.upper()
"""

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(params=["", "--exceptions"], ids=["", "exceptions"])
def server(request: pytest.FixtureRequest, start_gearmand: Callable[..., Gearmand]) -> Gearmand:
    """gearmand without and with ``--exceptions``."""
    return start_gearmand(*filter(None, [request.param]))


@pytest.fixture
def worker(server: Gearmand, start_worker: Callable[..., WorkerProcess]) -> WorkerProcess:
    """Our worker."""
    return start_worker(server, tasks=TASKS, processes=0)


def ask(command: list[str]) -> dict[str, Any]:
    """What a client's program says came of its job."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def ask_gear(server: Gearmand) -> Ask:
    """Submit a job through gear."""
    if importlib.util.find_spec("gear") is None:
        missing("gear is not installed (PyPI: gear)")
    command = [sys.executable, str(PROGRAMS / "gear_client.py"), str(server.port)]
    return lambda task, data, *options: ask([*command, task, data, str(TIMEOUT_S / 2), *options])


@pytest.fixture
def ask_perl(server: Gearmand) -> Ask:
    """Submit a job through Perl's Gearman::Client."""
    perl = find_tool("perl", package="perl")
    if subprocess.run([perl, "-MGearman::Client", "-e", "1"], capture_output=True).returncode:
        missing("Perl's Gearman::Client is not installed (Debian: libgearman-client-perl)")
    command = [perl, str(PROGRAMS / "client.pl"), server.address]
    return lambda task, data, *options: ask([*command, task, data, str(TIMEOUT_S / 2), *options])


@pytest.fixture
def gearman(server: Gearmand) -> list[str]:
    """Debian's ``gearman``, as a client of the task ``talk``."""
    tool = find_tool("gearman", package="gearman-tools")
    return [tool, "-h", HOST, "-p", str(server.port), "-f", "talk"]


def has_exceptions(server: Gearmand) -> bool:
    return "--exceptions" in server.options


# ---------------------------------------------------------------------- their clients


@pytest.mark.usefixtures("worker")
def test_gears_client(server: Gearmand, ask_gear: Ask) -> None:
    updates = {"data": ["part 1", "part 2", "careful"], "warned": True, "status": [1, 2]}
    good = ask_gear("talk", "good")
    assert good.items() >= {"complete": True, "failed": False, "warned": True, "status": [1, 2]}.items()
    assert good["data"] == ["part 1", "part 2", "careful", "GOOD"]
    for options in ([], ["exceptions"]):
        failed = ask_gear("talk", "fail", *options)
        assert failed.items() >= {**updates, "complete": True, "failed": True, "exception": None}.items()
        told = "ValueError: no good" if options or has_exceptions(server) else None
        raised = ask_gear("talk", "raise", *options)
        assert raised.items() >= {**updates, "complete": True, "failed": True, "exception": told}.items()
    assert ask_gear("talk", "slow", "background")["known"] is False
    assert server.queue("talk") == (0, 0, 1)


@pytest.mark.usefixtures("worker")
def test_perls_client(server: Gearmand, ask_perl: Ask) -> None:
    updates = {"data": ["part 1", "part 2"], "warnings": ["careful"], "status": [[1, 2]]}
    assert ask_perl("talk", "good").items() >= {**updates, "failed": 0, "result": "GOOD"}.items()
    for options in ([], ["exceptions"]):
        assert ask_perl("talk", "fail", *options).items() >= {**updates, "failed": 1, "exception": None}.items()
        raised = ask_perl("talk", "raise", *options)
        if options or has_exceptions(server):
            # on_exception is called, and on_fail is not.
            assert raised == {**updates, "failed": 0, "result": None, "exception": "ValueError: no good"}
        else:
            assert "Got work_fail for unknown handle" in raised["died"]
            assert raised["failed"] == 0
    slow = ask_perl("talk", "slow", "background")
    assert slow["done"]
    assert server.queue("talk") == (0, 0, 1)


@pytest.mark.usefixtures("worker")
def test_libgearmans_client(server: Gearmand, gearman: list[str]) -> None:
    good = subprocess.run(gearman, input=b"good", capture_output=True, timeout=TIMEOUT_S)
    assert (good.returncode, good.stdout) == (0, b"part 1part 2GOOD50% Complete\n")
    assert good.stderr == b"careful"
    failed = subprocess.run(gearman, input=b"fail", capture_output=True, timeout=TIMEOUT_S)
    assert failed.returncode == 1
    assert b"Job failed" in failed.stderr
    subprocess.run([*gearman, "-b"], input=b"slow", check=True, timeout=TIMEOUT_S)
    wait_until(lambda: server.queue("talk") == (0, 0, 1), what="the background job")


@pytest.mark.usefixtures("worker")
def test_libgearmans_client_and_an_exception(server: Gearmand, gearman: list[str]) -> None:
    if has_exceptions(server):
        told = subprocess.run(gearman, input=b"raise", capture_output=True, timeout=TIMEOUT_S)
        assert told.stderr == b"carefulValueError: no good"
        return
    with pytest.raises(subprocess.TimeoutExpired) as waits:
        subprocess.run(gearman, input=b"raise", capture_output=True, timeout=HANGS_S)
    assert waits.value.stdout == b"part 1part 2"
    assert server.queue("talk") == (0, 0, 1)


def test_exceptions_as_failures_are_understood_by_all(
    server: Gearmand, start_worker: Callable[..., WorkerProcess], ask_gear: Ask, ask_perl: Ask, gearman: list[str]
) -> None:
    start_worker(server, tasks=TASKS, processes=0, on_exception="fail")
    failed = subprocess.run(gearman, input=b"raise", capture_output=True, timeout=TIMEOUT_S)
    assert failed.returncode == 1
    assert b"ValueError: no good" in failed.stderr
    perl = ask_perl("talk", "raise")
    assert (perl["failed"], perl["warnings"]) == (1, ["careful", "ValueError: no good"])
    gear = ask_gear("talk", "raise")
    assert (gear["failed"], gear["data"][-1]) == (True, "ValueError: no good")


def test_a_gearman_workers_failures_are_understood_by_all(
    server: Gearmand, tmp_path: Path, ask_gear: Ask, ask_perl: Ask, gearman: list[str]
) -> None:
    """GearmanWorker answers an exception with WORK_FAIL, as python-gearman does."""
    program = (
        "import sys, gearworker.compat as gearman\n"
        "worker = gearman.GearmanWorker([sys.argv[1]])\n"
        "worker.register_task('talk', lambda worker, job: 1 / 0 if job.data == b'raise' else job.data.upper())\n"
        "worker.work()\n"
    )
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, "-c", program, server.address], stderr=log)
    try:
        wait_until(lambda: server.queue("talk")[2] == 1, what="the worker")
        assert subprocess.run(gearman, input=b"raise", capture_output=True, timeout=TIMEOUT_S).returncode == 1
        assert ask_perl("talk", "raise")["failed"] == 1
        assert ask_gear("talk", "raise")["failed"] is True
        assert ask_perl("talk", "good")["result"] == "GOOD"
        assert ask_gear("talk", "good")["data"] == ["GOOD"]
    finally:
        worker.kill()
        worker.wait(TIMEOUT_S)
    assert (tmp_path / "log").read_text().count("ZeroDivisionError: division by zero") == 3


# ---------------------------------------------------------------------- their worker


@pytest.fixture
def start_gearman_worker(gearmand: Gearmand) -> Iterator[Callable[..., None]]:
    """Start Debian's ``gearman -w`` with a task and a shell command."""
    tool = find_tool("gearman", package="gearman-tools")
    started: list[subprocess.Popen[bytes]] = []

    def start(task: str, *command: str) -> None:
        arguments = [tool, "-h", HOST, "-p", str(gearmand.port), "-w", "-f", task, "--", *command]
        started.append(subprocess.Popen(arguments, stderr=subprocess.DEVNULL))
        wait_until(lambda: gearmand.queue(task)[2] == 1, what="the worker")

    yield start
    for process in started:
        process.terminate()
        process.wait(TIMEOUT_S)


def test_our_client_and_libgearmans_worker(gearmand: Gearmand, start_gearman_worker: Callable[..., None]) -> None:
    start_gearman_worker("count", "wc", "-c")
    start_gearman_worker("broken", "false")
    with GearmanClient([gearmand.address]) as client:
        requests = client.submit_multiple_jobs(
            [{"task": "count", "data": b"x" * size} for size in (0, 1, 70_000)], poll_timeout=DEADLINE_S
        )
        assert [int(request.result) for request in requests] == [0, 1, 70_000]
        parts = list(client.stream("count", b"12345", timeout_s=DEADLINE_S))
        assert int(parts[-1].data) == 5
        broken = client.submit_job("broken", b"x", poll_timeout=DEADLINE_S)
        assert (broken.state, broken.timed_out) == ("FAILED", False)
        background = client.submit_job("count", b"x", background=True, poll_timeout=DEADLINE_S)
        wait_until(lambda: not client.get_job_status(background).status["known"], what="the background job")
    assert gearmand.queue("count") == (0, 0, 1)


def test_a_status_is_seen_by_our_client_while_their_worker_runs(
    gearmand: Gearmand, start_gearman_worker: Callable[..., None]
) -> None:
    start_gearman_worker("sleep", "sleep", "0.5")
    with GearmanClient([gearmand.address]) as client:
        request = client.submit_job("sleep", b"x", background=True)
        wait_until(lambda: client.get_job_status(request).status["running"], what="the job to run")
        begun = time.monotonic()
        wait_until(lambda: not client.get_job_status(request).status["known"], what="the job's end")
        assert time.monotonic() - begun > 0.1
