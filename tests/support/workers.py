"""``gearworker run`` as a process for tests: a configuration and a module of tasks in a directory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.servers import DEADLINE_S, HOST, ServerProcess, free_port, wait_until

_ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """A worker process.

    Args:
        directory: for its files; its tasks run with it as their working directory.
        servers: the job servers.
        tasks: source of the module that registers the tasks.
        config: further sections of the configuration, in the file's own words.
        environ: further variables of its environment.
    """

    def __init__(
        self,
        directory: Path,
        servers: Sequence[ServerProcess],
        tasks: str,
        config: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
    ) -> None:
        self._environ = environ or {}
        self.directory = directory
        self.http_port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tasks_under_test.py").write_text(textwrap.dedent(tasks))
        whole = {
            "job_servers": [server.address for server in servers],
            "tasks": ["tasks_under_test"],
            "http": {"listen": f"{HOST}:{self.http_port}"},
            **(config or {}),
        }
        (directory / "config.yaml").write_text(json.dumps(whole))  # JSON is YAML
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> WorkerProcess:
        """Start it; by default wait until it is ready."""
        with (self.directory / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gearworker", "run", "config.yaml"],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(_ROOT), **self._environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            wait_until(self.ready, what="the worker to be ready")
        return self

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it logged."""
        return (self.directory / "worker.log").read_text(errors="replace")

    def ready(self) -> bool:
        """Whether /readyz says so; fails where the process has ended."""
        assert self._process is not None
        assert self._process.poll() is None, f"the worker ended: {self.log[-3000:]}"
        return self.get("/readyz")[0] == 200

    def get(self, path: str, *, method: str = "GET", accept: str = "*/*") -> tuple[int, str]:
        """Status and body of an HTTP request; status 0 where nobody listens."""
        url = f"http://{HOST}:{self.http_port}{path}"
        request = urllib.request.Request(url, method=method, headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, sample: str) -> float:
        """The value of one sample of /metrics, named with its labels as it stands there; 0 where it is not."""
        for line in self.get("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for its end; its exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        """End it, whatever it does. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(DEADLINE_S)
