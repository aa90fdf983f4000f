"""Fixtures for users' tests; have them by ``pytest_plugins = ["gearworker.pytest_plugin"]`` in a conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from gearworker.testing import embedded_job_server

if TYPE_CHECKING:
    from gearworker.jobserver import EmbeddedJobServer


@pytest.fixture
def gearman_job_server() -> Iterator[EmbeddedJobServer]:
    """An embedded job server of this test's own; ``gearman_job_server.address`` is where it listens."""
    with embedded_job_server() as server:
        yield server
