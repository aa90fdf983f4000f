"""run --watch with real processes: a change restarts the worker, a mended error starts it, a signal ends both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import gearworker

DEADLINE_S = 20.0
CONFIG = "job_servers: ['127.0.0.1:1']\ntasks: [watched_tasks]\nhttp: off\nshutdown: {grace_s: 5}\n"
TASKS = "from gearworker import task\n\n\n@task\ndef resize(job):\n    return b''\n"


class Watched:
    """The watching process, its stderr read in the background."""

    def __init__(self, directory: Path) -> None:
        environ = {**os.environ, "PYTHONPATH": str(Path(gearworker.__file__).parents[1])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gearworker", "run", "c.yaml", "--watch", "--log-level", "info"],
            cwd=directory,
            env=environ,
            text=True,
            stderr=subprocess.PIPE,
        )
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._arrived:
                self.lines.append(line)
                self._arrived.notify_all()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until so many lines hold the text."""
        with self._arrived:
            found = self._arrived.wait_for(lambda: sum(text in line for line in self.lines) >= times, DEADLINE_S)
        assert found, f"no {text!r} (x{times}) in {self.lines}"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._reader.join(DEADLINE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "c.yaml").write_text(CONFIG)
    (tmp_path / "watched_tasks.py").write_text(TASKS)
    process = Watched(tmp_path)
    yield process
    process.close()


def test_change_break_mend_stop(watched: Watched, tmp_path: Path) -> None:
    source = tmp_path / "watched_tasks.py"
    watched.wait_for("serving in pool")
    source.write_text(TASKS + "\n\n@task\ndef other(job):\n    return b''\n")
    watched.wait_for("gearworker: a source file changed, starting again")
    watched.wait_for("serving in pool", times=2)
    source.write_text("import nowhere\n")
    watched.wait_for("can't import watched_tasks: ModuleNotFoundError: No module named 'nowhere'")
    watched.wait_for("gearworker: the worker ended with exit code 2, waiting for a change")
    source.write_text(TASKS)
    watched.wait_for("serving in pool", times=3)
    watched.process.send_signal(signal.SIGTERM)
    assert watched.process.wait(DEADLINE_S) == 0


def test_a_configuration_that_is_mended(watched: Watched, tmp_path: Path) -> None:
    watched.wait_for("serving in pool")
    (tmp_path / "c.yaml").write_text(CONFIG + "nonsense: 1\n")
    watched.wait_for("c.yaml:5: nonsense: unknown key")
    (tmp_path / "c.yaml").write_text(CONFIG)
    watched.wait_for("serving in pool", times=2)
