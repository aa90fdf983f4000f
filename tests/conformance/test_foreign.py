"""Programs written by others, against both job servers: gearman and gearadmin of Debian's gearman-tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from support.servers import ServerProcess, wait_until

TIMEOUT_S = 20


def find_tool(name: str) -> str:
    """The path of a tool; without it the test is skipped, or fails where the environment variable CI is set."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed (Debian: gearman-tools)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def c_worker(job_server: ServerProcess) -> Iterator[None]:
    """libgearman's worker, which answers the task "count" with the number of bytes."""
    command = [find_tool("gearman"), "-h", "127.0.0.1", "-p", str(job_server.port), "-w", "-f", "count"]
    worker = subprocess.Popen([*command, "--", "wc", "-c"])
    try:
        wait_until(lambda: job_server.queue("count")[2] == 1, what="the worker")
        yield
    finally:
        worker.terminate()
        worker.wait(TIMEOUT_S)


def ask(job_server: ServerProcess, tool: str, *arguments: str, stdin: bytes = b"") -> bytes:
    """What a tool prints; it must succeed."""
    command = [find_tool(tool), "-h", "127.0.0.1", "-p", str(job_server.port), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=TIMEOUT_S, check=True).stdout


@pytest.mark.usefixtures("c_worker")
def test_libgearmans_client_and_worker(job_server: ServerProcess) -> None:
    for size in (0, 5, 100_000):
        assert ask(job_server, "gearman", "-f", "count", stdin=b"x" * size).strip() == b"%d" % size
    ask(job_server, "gearman", "-f", "count", "-b", stdin=b"in the background")
    wait_until(lambda: job_server.queue("count") == (0, 0, 1), what="the background job")


def test_libgearmans_admin_tool(job_server: ServerProcess) -> None:
    assert ask(job_server, "gearadmin", "--create-function=t") == b"OK\n"
    assert ask(job_server, "gearadmin", "--status") == b"t\t0\t0\t0\n.\n"
    assert ask(job_server, "gearadmin", "--show-jobs") == b".\n"
    assert ask(job_server, "gearadmin", "--getpid") == b"%d\n" % job_server.pid
    assert ask(job_server, "gearadmin", "--drop-function=t") == b"OK\n"
