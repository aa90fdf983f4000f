"""Job servers as processes for tests: Debian's gearmand, and the embedded one in a process of its own.

Each is started on a free port of the loopback interface, waited for with a deadline, and ended by its own process id.
Everything here is plain blocking code, usable from any test process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import pytest

DEADLINE_S = 10.0
HOST = "127.0.0.1"
_ROOT = Path(__file__).parents[2]
_RUNNER = Path(__file__).with_name("embedded_runner.py")
_PORT_TRIES = 5

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], deadline_s: float = DEADLINE_S, *, what: str = "") -> T:
    """Ask until the answer is true, and give it; fail where that takes longer than the deadline."""
    end_s = time.monotonic() + deadline_s
    pause_s = 0.001
    while not (answer := predicate()):
        if time.monotonic() > end_s:
            pytest.fail(f"waited {deadline_s:g} s in vain{' for ' if what else ''}{what}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
    return answer


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def find_gearmand() -> str:
    """The path of gearmand; without it the test is skipped, or fails where the environment variable CI is set."""
    path = shutil.which("gearmand") or shutil.which("gearmand", path="/usr/sbin:/usr/local/sbin")
    if path is not None:
        return path
    reason = "gearmand is not installed (Debian: gearman-job-server)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def admin(port: int, line: str, *, host: str = HOST, timeout_s: float = DEADLINE_S) -> list[str]:
    """The reply to an admin command, in lines; a list comes without the dot that ends it.

    Args:
        line: such as ``status``; commands whose reply is a list are known by name.
    """
    is_list = line.split()[0] in ("status", "prioritystatus", "workers", "show")
    with socket.create_connection((host, port), timeout=timeout_s) as sock:
        sock.sendall(line.encode() + b"\r\n")
        reply = b""
        while not _is_complete(reply, is_list):
            chunk = sock.recv(65536)
            if not chunk:
                raise ConnectionError(f"{line}: the job server closed the connection after {reply!r}")
            reply += chunk
    lines = reply.decode("utf-8", "surrogateescape").splitlines()
    return lines[:-1] if is_list and lines[-1] == "." else lines


def _is_complete(reply: bytes, is_list: bool) -> bool:
    if is_list and not reply.startswith(b"ERR "):
        return reply == b".\n" or reply.endswith(b"\n.\n")
    return reply.endswith(b"\n")


class ServerProcess:
    """A job server in a process of its own.

    Args:
        directory: for its log and its files; one for each server.
        port: to listen on; a free one by default. It is kept when the server is started again.
        host: the loopback address to listen on.
    """

    kind = "job server"

    def __init__(self, directory: Path, *, port: int | None = None, host: str = HOST) -> None:
        self.directory = directory
        self.host = host
        self.port = port if port is not None else 0
        self._fixed_port = port is not None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id, while it runs."""
        assert self._process is not None, f"{self.kind} does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        """What it wrote to stderr, over all its starts."""
        return self.directory / "stderr.log"

    def command(self) -> list[str]:
        """The command line that starts it."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it answers; again on the same port where it was started before."""
        assert not self.running, f"{self.kind} runs already"
        for attempt in range(_PORT_TRIES):
            if not self._fixed_port:
                self.port = free_port()
            self._spawn()
            try:
                wait_until(self._answers, what=f"{self.kind} on port {self.port}")
            except ChildProcessError:
                if self._fixed_port or attempt == _PORT_TRIES - 1:
                    raise
                continue
            self._fixed_port = True
            return

    def _spawn(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        if not self.running:
            log = self.log_path.read_text(errors="replace")[-2000:]
            raise ChildProcessError(f"{self.kind} ended at once:\n{log}")
        try:
            return admin(self.port, "getpid", host=self.host) == [f"OK {self.pid}"]
        except OSError:
            return False

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL and wait for that."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it with SIGTERM, and with SIGKILL where that does not help in time. Idempotent."""
        if self.running:
            self.resume()
            self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        assert self._process is not None
        self.signal(number)
        try:
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(DEADLINE_S)

    def restart(self) -> None:
        """End it with SIGKILL and start it on the same port."""
        if self.running:
            self.kill()
        self.start()

    def suspend(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stay, nothing is answered."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def admin(self, line: str) -> list[str]:
        """The reply to an admin command, in lines."""
        return admin(self.port, line, host=self.host)

    def queue(self, task: str) -> tuple[int, int, int]:
        """Total, running and workers of a task; zeros where it is not known."""
        for line in self.admin("status"):
            name, *numbers = line.rsplit("\t", 3)
            if name == task:
                total, running, workers = map(int, numbers)
                return total, running, workers
        return 0, 0, 0


class Gearmand(ServerProcess):
    """Debian's gearmand.

    Args:
        options: further command line options, such as ``-q``, ``libsqlite3``.
    """

    kind = "gearmand"

    def __init__(self, directory: Path, *options: str, port: int | None = None, host: str = HOST) -> None:
        super().__init__(directory, port=port, host=host)
        self.options = options
        self._path = find_gearmand()

    def command(self) -> list[str]:
        return [
            self._path, "--listen", self.host, "--port", str(self.port), "--log-file", "stderr",
            "--pid-file", str(self.directory / "gearmand.pid"), *self.options,
        ]  # fmt: skip


def sqlite_queue(directory: Path) -> tuple[str, ...]:
    """gearmand's options for a queue that survives its process, in a file in this directory."""
    return ("--queue-type", "libsqlite3", "--libsqlite3-db", str(directory / "queue.sqlite"))


class EmbeddedServer(ServerProcess):
    """The embedded job server in a process of its own, which ``reset`` empties without a new process."""

    kind = "embedded job server"

    def command(self) -> list[str]:
        return [sys.executable, str(_RUNNER), str(self.port)]

    def _spawn(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
            )

    def reset(self) -> None:
        """Close every connection and begin with an empty queue, on the same port."""
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        _ask(stdin, stdout)

    def _end(self, number: int) -> None:
        super()._end(number)
        assert self._process is not None
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _ask(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    stdin.write(b"reset\n")
    stdin.flush()
    answer = stdout.readline()
    assert answer == b"ready\n", f"the embedded job server's runner said {answer!r}"


@contextlib.contextmanager
def running(server: ServerProcess) -> Iterator[ServerProcess]:
    """Start a server for a block of code."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
