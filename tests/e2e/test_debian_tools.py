"""The worker as Debian's own programs see it: ``gearman`` submits, ``gearadmin`` looks on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest
from support.servers import Gearmand
from support.workers import WorkerProcess

pytestmark = pytest.mark.gearmand

TASKS = """
    from gearworker import FailJob, task

    @task
    def reverse(job):
        return job.data[::-1]

    @task
    def talk(job):
        job.send_status(1, 4)
        job.send_data(b"some ")
        job.send_warning(b"mind the gap")
        job.send_status(3, 4)
        return b"more"

    @task
    def lines(job):
        for word in job.data.split():
            yield word + b"\\n"
        return b"end"

    @task
    def refuse(job):
        raise FailJob("not today")

    @task
    def explode(job):
        raise ValueError("boom")

    @task(None, encoder="json")
    def total(job):
        return {"sum": sum(job.data)}
"""


@pytest.fixture
def gearman(
    start_gearmand: Callable[..., Gearmand], start_worker: Callable[..., WorkerProcess]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Debian's gearman against a worker; its gearmand was started with --exceptions."""
    if shutil.which("gearman") is None:
        reason = "gearman is not installed (Debian: gearman-tools)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    server = start_gearmand("--exceptions")
    start_worker(server, tasks=TASKS)

    def run(*args: str, data: str = "") -> subprocess.CompletedProcess[str]:
        command = ["gearman", "-h", "127.0.0.1", "-p", str(server.port), *args]
        return subprocess.run(command, input=data, capture_output=True, text=True, timeout=10, check=False)

    return run


def test_complete(gearman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = gearman("-f", "reverse", data="hello")
    assert (done.returncode, done.stdout) == (0, "olleh")


def test_data_warning_and_status(gearman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = gearman("-v", "-f", "talk", data="x")
    assert done.returncode == 0
    assert done.stdout.startswith("some more") or "some " in done.stdout
    assert "25% Complete" in done.stdout + done.stderr
    assert "75% Complete" in done.stdout + done.stderr
    assert "mind the gap" in done.stdout + done.stderr


def test_a_generator_streams(gearman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = gearman("-f", "lines", data="one two")
    assert (done.returncode, done.stdout) == (0, "one\ntwo\nend")


def test_fail(gearman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = gearman("-f", "refuse", data="x")
    assert done.returncode == 1
    assert "Job failed" in done.stdout + done.stderr


def test_exception(gearman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = gearman("-f", "explode", data="x")
    assert "ValueError: boom" in done.stdout + done.stderr


def test_an_exception_as_fail_reaches_a_client_that_did_not_ask_for_exceptions(
    gearmand: Gearmand, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker(gearmand, tasks=TASKS, on_exception="fail")
    command = ["gearman", "-h", "127.0.0.1", "-p", str(gearmand.port), "-v", "-f", "explode"]
    done = subprocess.run(command, input="x", capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert "ValueError: boom" in done.stdout + done.stderr


def test_json(gearman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = gearman("-f", "total", data="[1, 2, 3]")
    assert (done.returncode, done.stdout) == (0, '{"sum":6}')


def test_a_bad_payload_fails_that_job_with_a_reason(gearman: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    bad = gearman("-f", "total", data="[1, 2")
    assert "PayloadError: the payload is not the json expected" in bad.stdout + bad.stderr
    good = gearman("-f", "total", data="[1, 2]")
    assert good.stdout == '{"sum":3}'


def test_gearadmin_sees_the_worker(
    start_gearmand: Callable[..., Gearmand], start_worker: Callable[..., WorkerProcess]
) -> None:
    if shutil.which("gearadmin") is None and not os.environ.get("CI"):
        pytest.skip("gearadmin is not installed (Debian: gearman-tools)")
    server = start_gearmand()
    start_worker(server, tasks=TASKS, client_id="images-{pid}")
    command = ["gearadmin", "-h", "127.0.0.1", "-p", str(server.port)]
    workers = subprocess.run([*command, "--workers"], capture_output=True, text=True, timeout=10, check=True).stdout
    (line,) = (line for line in workers.splitlines() if " images-" in line)
    assert set(line.partition(" : ")[2].split()) == {"reverse", "talk", "lines", "refuse", "explode", "total"}
    status = subprocess.run([*command, "--status"], capture_output=True, text=True, timeout=10, check=True).stdout
    assert "reverse\t0\t0\t1" in status.splitlines()
