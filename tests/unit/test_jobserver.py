"""What the embedded job server refuses before it opens a socket; tests/conformance has it serve."""

from __future__ import annotations

from typing import Any

import pytest

from gearworker.errors import ConfigError
from gearworker.jobserver import EmbeddedJobServer


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "127.0.0.1:4730", ""])
def test_other_addresses_than_loopback_are_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback addresses only, not on") as caught:
        EmbeddedJobServer(host)
    assert repr(host) in str(caught.value)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:4730"),
        ("127.1.2.3", "127.1.2.3:4730"),
        ("::1", "[::1]:4730"),
        ("localhost", "127.0.0.1:4730"),
    ],
)
def test_its_address(host: str, address: str) -> None:
    assert EmbeddedJobServer(host, 4730).address == address


def test_a_connection_that_is_to_be_closed_keeps_nothing_from_the_others() -> None:
    class Other:
        closed, unsent_bytes = False, 0

        def __init__(self) -> None:
            self.written: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.written.append(data)

    server = EmbeddedJobServer()
    other: Any = Other()
    server._connections[2] = other
    assert not server._deliver([(1, None), (2, b"a noop")])
    assert other.written == [b"a noop"]
