"""submit and the admin commands as processes, with gearmand, and a worker that runs as a service."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import Gearmand, free_port, wait_until
from support.workers import WorkerProcess

import gearworker

DEADLINE_S = 20.0
TASKS = """
    import gevent
    from gearworker import FailJob, task

    @task
    def upper(job):
        return job.data.upper()

    @task
    def count(job):
        for number in range(3):
            job.send_status(number, 3)
            yield b"%d\\n" % number
        job.send_warning(b"nearly\\x1b[31m\\ndone")
        return b"end\\n"

    @task
    def slow(job):
        job.send_data(b"started\\n")
        job.send_status(1, 4)
        gevent.sleep(3600)

    @task
    def fails(job):
        raise FailJob("why")

    @task
    def raises(job):
        raise ValueError("wrong\\x1b[31m")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gearmand]:
    gearmand = Gearmand(tmp_path_factory.mktemp("gearmand"))
    gearmand.start()
    yield gearmand
    gearmand.stop()


@pytest.fixture(scope="module")
def worker(server: Gearmand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    config = {"shutdown": {"grace_s": 0}, "client_id": "cli-tests"}
    process = WorkerProcess(tmp_path_factory.mktemp("worker"), [server], TASKS, config).start()
    yield process
    process.stop()


def environ(server: Gearmand | None) -> dict[str, str]:
    package = str(Path(gearworker.__file__).parents[1])
    made = {**os.environ, "PYTHONPATH": package}
    made.pop("GEARWORKER_JOB_SERVERS", None)
    return made if server is None else {**made, "GEARWORKER_JOB_SERVERS": server.address}


def start(server: Gearmand | None, *args: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "gearworker", *args]
    return subprocess.Popen(command, env=environ(server), stdin=pipe, stdout=pipe, stderr=pipe)


def run(server: Gearmand | None, *args: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Exit code, stdout and stderr."""
    process = start(server, *args)
    try:
        out, err = process.communicate(stdin, timeout=DEADLINE_S)
    finally:
        process.kill()
    assert b"Traceback" not in err
    return process.returncode, out, err.decode()


@pytest.mark.gearmand
@pytest.mark.usefixtures("worker")
class TestSubmit:
    def test_result(self, server: Gearmand) -> None:
        assert run(server, "submit", "upper", "hello") == (0, b"HELLO", "")
        assert run(server, "submit", "upper") == (0, b"", "")

    def test_bytes_from_stdin_come_out_as_they_are(self, server: Gearmand) -> None:
        data = bytes(range(256)) * 5000
        assert run(server, "submit", "upper", "-", stdin=data) == (0, data.upper(), "")

    def test_data_on_stdout_warnings_on_stderr(self, server: Gearmand) -> None:
        warning = "warning: nearly\\x1b[31m\\ndone\n"
        assert run(server, "submit", "count") == (0, b"0\n1\n2\nend\n", warning)

    @pytest.mark.parametrize("priority", ["high", "normal", "low"])
    def test_options(self, server: Gearmand, priority: str) -> None:
        options = ("--priority", priority, "--unique", f"u-{priority}", "--timeout", "10")
        assert run(None, "submit", *options, "--job-server", server.address, "upper", "a") == (0, b"A", "")

    def test_data_comes_while_the_job_runs_and_then_its_time_is_over(self, server: Gearmand) -> None:
        code, out, err = run(server, "submit", "slow", "--timeout", "1.5")
        assert (code, out, err) == (3, b"started\n", "gearworker: no result within 1.5 s\n")

    def test_failures(self, server: Gearmand) -> None:
        assert run(server, "submit", "fails") == (1, b"", "gearworker: the job failed\n")
        code, out, err = run(server, "submit", "raises")
        assert (code, out) == (1, b"")
        assert err.startswith("gearworker: the job failed: ")
        assert "ValueError: wrong\\x1b[31m" in err
        assert err.count("\n") == 1

    def test_ctrl_c_is_quiet(self, server: Gearmand) -> None:
        process = start(server, "submit", "slow")
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"started\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
        assert (process.returncode, out, err) == (130, b"", b"")

    def test_a_progress_bar_on_a_terminal(self, server: Gearmand) -> None:
        terminal, other_end = pty.openpty()
        command = [sys.executable, "-m", "gearworker", "submit", "slow", "--timeout", "3"]
        variables = {**environ(server), "TERM": "xterm", "COLUMNS": "80"}
        process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=other_end)
        os.close(other_end)
        try:
            shown = read_until(terminal, b"25%")
            assert process.stdout is not None
            assert process.stdout.read() == b"started\n"
            assert process.wait(DEADLINE_S) == 3
            shown += read_until(terminal, b"no result within 3 s")
        finally:
            process.kill()
            os.close(terminal)
            assert process.stdout is not None
            process.stdout.close()
        assert "━".encode() in shown


def read_until(terminal: int, text: bytes) -> bytes:
    """What a terminal showed, up to some text."""
    shown, end_s = b"", time.monotonic() + DEADLINE_S
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end_s - time.monotonic()))
        assert ready, f"no {text!r} in {shown!r}"
        shown += os.read(terminal, 65536)
    return shown


@pytest.mark.gearmand
class TestWithoutWorker:
    def test_background_jobs_are_listed_cancelled_and_limited(self, server: Gearmand) -> None:
        code, out, err = run(server, "submit", "nobody", "x", "--background", "--unique", "u1")
        assert (code, err) == (0, "")
        handle = out.decode().strip()
        assert handle.startswith("H:")
        rows = json.loads(run(server, "status", "--json")[1])
        expected = {"task": "nobody", "waiting": 1, "running": 0, "workers": 0, "job_server": server.address}
        assert expected in rows
        listed = run(server, "status")[1].decode().splitlines()
        assert listed[0].split() == ["TASK", "WAITING", "RUNNING", "WORKERS"]
        assert ["nobody", "1", "0", "0"] in [line.split() for line in listed]
        jobs = json.loads(run(server, "jobs", "--json")[1])
        [job] = [job for job in jobs if job["handle"] == handle]
        assert (job["ignored"], job["background"], job["job_server"]) == (False, True, server.address)
        assert run(server, "maxqueue", "nobody", "1") == (0, b"nobody: at most 1 jobs\n", "")
        code, out, err = run(server, "submit", "nobody", "x", "--background")
        assert (code, out) == (1, b"")
        assert err.startswith("gearworker: ")
        assert "QUEUE_ERROR" in err
        assert run(server, "maxqueue", "nobody", "0", "--json")[0] == 0
        assert run(server, "cancel", handle) == (0, f"cancelled {handle}\n".encode(), "")
        code, out, err = run(server, "cancel", "H:no:1")
        assert (code, out) == (1, b"")
        assert "UNKNOWN_JOB" in err

    def test_nobody_takes_it(self, server: Gearmand) -> None:
        assert run(server, "submit", "nobody.else", "--timeout", "0.3") == (
            3,
            b"",
            "gearworker: no result within 0.3 s\n",
        )

    def test_version(self, server: Gearmand) -> None:
        reported = server.admin("version")[0].removeprefix("OK ")
        code, out, err = run(server, "version")
        assert (code, err) == (0, "")
        assert out.decode().splitlines() == [f"gearworker {gearworker.__version__}", f"{server.address} {reported}"]
        facts = json.loads(run(server, "version", "--json")[1])
        assert facts == {"gearworker": gearworker.__version__, "job_servers": {server.address: reported}}

    def test_a_job_server_that_can_not_be_reached(self, server: Gearmand) -> None:
        gone = f"127.0.0.1:{free_port()}"
        code, out, err = run(None, "status", "--job-server", gone, "--job-server", server.address)
        assert (code, err) == (4, f"gearworker: {gone}: Connection refused\n")
        assert out.decode().splitlines()[0].split() == ["JOB", "SERVER", "TASK", "WAITING", "RUNNING", "WORKERS"]
        for args in (("submit", "x", "y"), ("submit", "x", "y", "--background"), ("workers",), ("cancel", "H:a:1")):
            assert run(None, *args, "--job-server", gone) == (4, b"", f"gearworker: {gone}: Connection refused\n")

    def test_unusable_input(self, server: Gearmand) -> None:
        for args in (
            ("submit", "", "x"),
            ("submit", "a" * 256, "x"),
            ("submit", "x", "y", "--unique", "u" * 64),
            ("submit", "x", "--background"),
            ("cancel", "H:a b:1"),
            ("status", "--job-server", "127.0.0.1:99999"),
            ("submit", "x", "--job-server", "127.0.0.1:0"),
        ):
            code, out, err = run(server, *args)
            assert (code, out) == (2, b""), (args, err)
            assert err.startswith("gearworker: "), args
            assert err.count("\n") == 1, err
        code, _, err = run(server, "cancel", "H:a:1", "--job-server", "a,b")
        assert (code, "name one with --job-server" in err) == (2, True)

    def test_workers(self, server: Gearmand, worker: WorkerProcess) -> None:
        rows = json.loads(run(server, "workers", "--json")[1])
        [row] = [row for row in rows if row["client_id"].startswith("cli-tests")]
        assert {"upper", "count", "slow"} <= set(row["tasks"])
        assert row["ip"] == "127.0.0.1"
        everybody = json.loads(run(server, "workers", "--all", "--json")[1])
        assert len(everybody) > len(rows)
        assert run(server, "workers")[1].decode().splitlines()[0].split() == ["CLIENT", "ID", "IP", "TASKS"]

    def test_a_worker_of_a_lost_client_is_left_alone(self, server: Gearmand, worker: WorkerProcess) -> None:
        run(server, "submit", "upper", "a")
        wait_until(lambda: server.queue("upper")[1] == 0, what="no running job of upper")
        assert server.queue("upper") == (0, 0, 1)
