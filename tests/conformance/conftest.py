"""One list of scenarios for two job servers: gearmand, and the embedded one, which must not be told apart by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.servers import EmbeddedServer, Gearmand, ServerProcess
from support.wire import Wire


@pytest.fixture(scope="session")
def embedded_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One process for all scenarios; each begins with an empty queue."""
    server = EmbeddedServer(tmp_path_factory.mktemp("embedded"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def embedded(embedded_process: EmbeddedServer) -> EmbeddedServer:
    """The embedded job server, empty."""
    embedded_process.reset()
    return embedded_process


@pytest.fixture(params=[pytest.param("gearmand", marks=pytest.mark.gearmand), "embedded"])
def job_server(request: pytest.FixtureRequest) -> ServerProcess:
    """gearmand and the embedded job server in turn, each without a past."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Gearmand | EmbeddedServer)
    return server


@pytest.fixture
def connect_to() -> Iterator[Callable[[ServerProcess], Wire]]:
    """Open a raw connection to a job server; all are closed after the test."""
    opened: list[Wire] = []

    def connect(server: ServerProcess) -> Wire:
        wire = Wire(server.port)
        opened.append(wire)
        return wire

    yield connect
    for wire in opened:
        wire.close()


@pytest.fixture
def connect(job_server: ServerProcess, connect_to: Callable[[ServerProcess], Wire]) -> Callable[[], Wire]:
    """Open a raw connection to the job server of this scenario."""
    return lambda: connect_to(job_server)


@pytest.fixture
def worker(connect: Callable[[], Wire]) -> Wire:
    """A connection to work on."""
    return connect()


@pytest.fixture
def client(connect: Callable[[], Wire]) -> Wire:
    """A connection to submit on."""
    return connect()
