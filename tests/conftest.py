"""Fixtures for all tests, and the place where helpers are found: ``from support.servers import Gearmand``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

_TESTS = str(Path(__file__).parent)
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)

if TYPE_CHECKING:
    from support.servers import Gearmand


@pytest.fixture
def start_gearmand(tmp_path: Path) -> Iterator[Callable[..., Gearmand]]:
    """Start a gearmand with the options given; every one is ended after the test."""
    from support.servers import Gearmand

    started: list[Gearmand] = []

    def start(*options: str, port: int | None = None) -> Gearmand:
        server = Gearmand(tmp_path / f"gearmand-{len(started)}", *options, port=port)
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
