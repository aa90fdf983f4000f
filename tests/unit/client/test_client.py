"""GearmanClient without a job server: its construction, the process's default, and what is checked before a call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gearworker.client import GearmanClient, default_client, set_default_client
from gearworker.errors import ConfigError, ProtocolError


@pytest.fixture(autouse=True)
def no_default() -> Iterator[None]:
    set_default_client(None)
    yield
    set_default_client(None)


@pytest.mark.parametrize(("random_bytes", "characters"), [(1, 2), (16, 32), (31, 62)])
def test_uniques_of_its_own(random_bytes: int, characters: int) -> None:
    client = GearmanClient(random_unique_bytes=random_bytes)
    assert len(client._fresh_unique()) == characters


@pytest.mark.parametrize("random_bytes", [0, 32])
def test_uniques_that_would_not_fit(random_bytes: int) -> None:
    with pytest.raises(ValueError, match="random_unique_bytes"):
        GearmanClient(random_unique_bytes=random_bytes)


def test_hosts_are_checked_at_once() -> None:
    with pytest.raises(ConfigError):
        GearmanClient(["host:port"])


def test_construction_starts_nothing() -> None:
    assert GearmanClient(["127.0.0.1"])._homes.all() == []


@pytest.mark.parametrize(
    ("variable", "addresses"),
    [
        (None, ["127.0.0.1:4730"]),
        ("", ["127.0.0.1:4730"]),
        ("a:1", ["a:1"]),
        ("a:1, b:2  [::1]:3", ["a:1", "b:2", "[::1]:3"]),
    ],
)
def test_the_default_client(monkeypatch: pytest.MonkeyPatch, variable: str | None, addresses: list[str]) -> None:
    monkeypatch.delenv("GEARWORKER_JOB_SERVERS", raising=False)
    if variable is not None:
        monkeypatch.setenv("GEARWORKER_JOB_SERVERS", variable)
    assert [str(address) for address in default_client().addresses] == addresses
    assert default_client() is default_client()


def test_a_default_client_of_ones_own() -> None:
    mine = GearmanClient(["a"])
    set_default_client(mine)
    assert default_client() is mine


def test_a_stream_is_checked_before_it_is_read() -> None:
    with pytest.raises(ProtocolError):
        GearmanClient(["a"]).stream("", b"x")


def test_a_map_is_checked_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="concurrency"):
        GearmanClient(["a"]).map("t", [], concurrency=0)


def test_no_requests_need_no_job_server() -> None:
    client = GearmanClient(["127.0.0.1:1"])
    assert client.submit_multiple_jobs([]) == []
    assert client.get_job_statuses([]) == []
