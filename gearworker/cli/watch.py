"""``run --watch``: the worker as a child process, started anew whenever its sources change.

Theory of operation. One loop, every ``POLL_S``: look at the child, at the signals that came, and at the times of the
watched files. A change sends the child a SIGTERM, so its running jobs finish as in any stop; a child that ended by
itself is started again at the next change, because that is most likely its cure.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType

import click

from gearworker.config import Config, load_config
from gearworker.errors import ConfigError

POLL_S = 0.3
MAX_FILES = 10_000
_STOP_MARGIN_S = 10.0
_SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})


def watch_and_run(path: str, arguments: list[str]) -> int:
    """Run ``gearworker run`` in a child process until a signal ends it.

    Args:
        path: of the configuration file.
        arguments: further arguments of the command.

    Returns:
        The last child's exit code.
    """
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return _Watch(path, [sys.executable, "-m", "gearworker", "run", path, *arguments], noted).loop()


class _Watch:
    def __init__(self, path: str, command: list[str], noted: list[int]) -> None:
        self._path, self._command, self._noted = path, command, noted
        self._ended = False
        self._child = self._start()

    def loop(self) -> int:
        """Go on until a signal has come and the child has ended."""
        while True:
            time.sleep(POLL_S)
            if self._noted:
                return self._stop()
            if self._seen != _times(self._path, self._directories):
                self._say("a source file changed, starting again")
                self._stop()
                if not self._noted:
                    self._child = self._start()
            elif not self._ended and self._child.poll() is not None:
                self._ended = True
                self._say(f"the worker ended with exit code {self._child.returncode}, waiting for a change")

    def _start(self) -> subprocess.Popen[bytes]:
        # Looked up at each start: a change may have been to the configuration, or have mended it.
        try:
            config = load_config(self._path)
            self._grace_s = config.shutdown.grace_s
            self._directories = _source_directories(config)
        except ConfigError:
            self._grace_s, self._directories = 0.0, {os.getcwd(): False}
        self._seen = _times(self._path, self._directories)
        self._ended = False
        return subprocess.Popen(self._command)

    def _stop(self) -> int:
        """End the child as a service manager would, and hand on further signals meanwhile."""
        forwarded = len(self._noted)
        deadline = time.monotonic() + self._grace_s + _STOP_MARGIN_S
        if self._child.poll() is None:
            self._child.terminate()
        while self._child.poll() is None:
            if len(self._noted) > forwarded:
                forwarded += 1
                self._child.terminate()
            if time.monotonic() > deadline:
                self._child.kill()
            time.sleep(POLL_S / 10)
        code = self._child.returncode
        return code if code >= 0 else 128 - code

    def _say(self, text: str) -> None:
        click.echo(f"gearworker: {text}", err=True)


def _source_directories(config: Config) -> dict[str, bool]:
    """The directories of the task modules' sources, and whether to look below them."""
    directories: dict[str, bool] = {}
    sys.path.insert(0, os.getcwd())
    try:
        importlib.invalidate_caches()
        for module in config.tasks:
            spec = importlib.util.find_spec(module.partition(".")[0])  # of the top alone: it is not executed by that
            if spec is not None and spec.submodule_search_locations:
                directories.update(dict.fromkeys(spec.submodule_search_locations, True))
            elif spec is not None and spec.origin:
                directories.setdefault(os.path.dirname(spec.origin), False)
    finally:
        del sys.path[0]
    return directories or {os.getcwd(): False}


def _times(path: str, directories: dict[str, bool]) -> dict[str, int]:
    """When each watched file was last changed, in nanoseconds."""
    times: dict[str, int] = {}
    for file in (path, *(file for directory, deep in directories.items() for file in _sources(directory, deep))):
        if len(times) >= MAX_FILES:
            break
        try:
            times[file] = os.stat(file).st_mtime_ns
        except OSError:
            continue  # gone between the listing and now
    return times


def _sources(directory: str, deep: bool) -> Iterator[str]:
    for root, below, files in os.walk(directory):
        below[:] = [name for name in below if deep and name not in _SKIPPED and not name.startswith(".")]
        yield from (os.path.join(root, name) for name in files if name.endswith(".py"))
