"""The worker that the demo talks to: ``gearworker run`` as a child process, ready before use and drained after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
HTTP_TIMEOUT_S = 5.0
LOG_TAIL_LINES = 15


class DemoFailed(Exception):
    """Something did not go as the demo says that it does."""


class Service:
    """A worker with an embedded job server, on free ports; use it in a with statement.

    Args:
        config: the configuration it runs.
        log: the file that takes its output.
    """

    def __init__(self, config: Path, log: Path) -> None:
        self._config, self._log = config, log
        self._process: subprocess.Popen[bytes] | None = None
        port, http_port = _free_ports(2)
        self.job_server = f"127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{http_port}"
        self._env = {
            **os.environ,
            "GEARWORKER_DEMO_PORT": str(port),
            "GEARWORKER_DEMO_HTTP_PORT": str(http_port),
        }

    def __enter__(self) -> Service:
        """Start it and wait until it is ready.

        Raises:
            DemoFailed: it ended, or was not ready in time; the message has the end of its log.
        """
        command = [sys.executable, "-m", "gearworker", "run", str(self._config)]
        with self._log.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches it once: as the SIGTERM that stop() sends.
            self._process = subprocess.Popen(
                command, env=self._env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait_ready(self._process)
        except BaseException:
            self._end(self._process)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain it.

        Raises:
            DemoFailed: it did not stop in time, or not with exit code 0, and nothing else had failed before.
        """
        assert self._process is not None
        code = self._end(self._process)
        if code != 0 and error is None:
            raise DemoFailed(f"the worker ended with exit code {code} instead of 0.\n{self.log_tail()}")

    @property
    def pid(self) -> int:
        """The worker's process."""
        assert self._process is not None
        return self._process.pid

    def get(self, path: str) -> str:
        """The text that the worker's HTTP endpoint has at a path.

        Raises:
            DemoFailed: it gave no answer, or none with status 200.
        """
        try:
            with urllib.request.urlopen(self.url + path, timeout=HTTP_TIMEOUT_S) as response:
                text: str = response.read().decode()
                return text
        except (OSError, urllib.error.URLError) as error:
            raise DemoFailed(f"{self.url}{path}: {error}") from None

    def log_tail(self) -> str:
        """The last lines of the worker's log."""
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"The end of {self._log}:", *(f"  {line}" for line in lines)])

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            if process.poll() is not None:
                raise DemoFailed(f"the worker ended at once, with exit code {process.returncode}.\n{self.log_tail()}")
            try:
                self.get("/readyz")
                return
            except DemoFailed as error:
                if time.monotonic() > deadline:
                    raise DemoFailed(
                        f"the worker was not ready within {READY_TIMEOUT_S:g} s ({error}).\n{self.log_tail()}"
                    ) from None
            time.sleep(0.05)

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        """SIGTERM, so that it drains; SIGKILL where that takes too long. Gives the exit code."""
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, each another one."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
