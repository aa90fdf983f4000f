"""Fixtures for all tests, and the place where helpers are found: ``from support.servers import Gearmand``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

_TESTS = str(Path(__file__).parent)
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)

pytest.register_assert_rewrite("support.wire")

if TYPE_CHECKING:
    from support.servers import Gearmand, ServerProcess
    from support.workers import WorkerProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for a gearmand carries the mark, so that it can be left out where there is none."""
    for item in items:
        if {"gearmand", "start_gearmand"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.gearmand)


@pytest.fixture
def start_gearmand(tmp_path: Path) -> Iterator[Callable[..., Gearmand]]:
    """Start a gearmand with the options given; every one is ended after the test."""
    from support.servers import Gearmand

    started: list[Gearmand] = []

    def start(*options: str, **place: Any) -> Gearmand:
        server = Gearmand(tmp_path / f"gearmand-{len(started)}", *options, **place)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def gearmand(start_gearmand: Callable[..., Gearmand]) -> Gearmand:
    """A fresh gearmand with its queue in memory."""
    return start_gearmand()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start ``gearworker run`` with the tasks and configuration given; every one is ended after the test."""
    from support.workers import WorkerProcess

    started: list[WorkerProcess] = []

    def start(
        *servers: ServerProcess, tasks: str, wait: bool = True, environ: dict[str, str] | None = None, **config: Any
    ) -> WorkerProcess:
        worker = WorkerProcess(tmp_path / f"worker-{len(started)}", servers, tasks, config, environ)
        started.append(worker)
        return worker.start(wait=wait)

    yield start
    for worker in started:
        worker.stop()
