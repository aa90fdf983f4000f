"""Addresses: every form that people write, and a clear reason for what is none."""

from __future__ import annotations

from typing import Any

import pytest

from gearworker.errors import ConfigError
from gearworker.net.address import TLS, Address


@pytest.mark.parametrize(
    ("value", "address", "text"),
    [
        ("gear.example", Address("gear.example", 4730), "gear.example:4730"),
        ("gear.example:4731", Address("gear.example", 4731), "gear.example:4731"),
        ("10.0.0.1:1", Address("10.0.0.1", 1), "10.0.0.1:1"),
        ("[::1]:4731", Address("::1", 4731), "[::1]:4731"),
        ("[::1]", Address("::1", 4730), "[::1]:4730"),
        ("::1", Address("::1", 4730), "[::1]:4730"),
        ("fe80::1%eth0", Address("fe80::1%eth0", 4730), "[fe80::1%eth0]:4730"),
        ("unix:/run/g.sock", Address(path="/run/g.sock"), "unix:/run/g.sock"),
        (("h", 5), Address("h", 5), "h:5"),
        (("h", "5"), Address("h", 5), "h:5"),
        ({"host": "h"}, Address("h"), "h:4730"),
        ({"host": "h", "port": 65535}, Address("h", 65535), "h:65535"),
        ({"host": "h", "tls": None}, Address("h"), "h:4730"),
        ({"host": "h", "tls": {}}, Address("h", tls=TLS()), "h:4730"),
        ({"host": "h", "tls": {"ca": "a", "cert": "c", "key": "k"}}, Address("h", tls=TLS("a", "c", "k")), "h:4730"),
        (
            {"host": "h", "ca_certs": "a", "certfile": "c", "keyfile": "k"},
            Address("h", tls=TLS("a", "c", "k")),
            "h:4730",
        ),
        ({"host": "h", "ca_certs": None, "certfile": None, "keyfile": None}, Address("h"), "h:4730"),
    ],
)
def test_an_address_is_read_and_shown(value: Any, address: Address, text: str) -> None:
    assert Address.parse(value) == address
    assert str(address) == text


def test_an_address_passes_as_it_is_and_can_be_a_key() -> None:
    address = Address("h", tls=TLS("ca"))
    assert Address.parse(address) is address
    assert {address: 1}[Address("h", tls=TLS("ca"))] == 1


@pytest.mark.parametrize("text", ["h:1", "[::1]:4731", "unix:/x y", "h"])
def test_what_is_shown_can_be_read(text: str) -> None:
    assert Address.parse(str(Address.parse(text))) == Address.parse(text)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "'' is no host"),
        (":4730", "'' is no host"),
        ("h:", "'' is no port"),
        ("h:0", "'0' is no port|0 is no port"),
        ("h:65536", "65536 is no port"),
        ("h:x", "'x' is no port"),
        ("h:²", "'²' is no port"),
        ("a b", "'a b' is no host"),
        ("user@h", "'user@h' is no host"),
        ("http://h:80", "no"),
        ("h:1:2", "'h:1:2' is no IPv6 address"),
        ("[h:1:2]:3", "'h:1:2' is no IPv6 address"),
        ("[::1", "write IPv6 as"),
        ("[::1]4730", "write IPv6 as"),
        ("unix:", "the path is empty"),
        (("h",), "is no address"),
        (("h", True), "True is no port"),
        ((5, 5), "5 is no host"),
        (5, "5 is no address of a job server; write it as 'host:port'"),
        (None, "None is no address"),
        ({}, "None is no host"),
        ({"host": "h", "prot": 1}, "unknown key 'prot'"),
        ({"host": "h", "tls": {"c": 1}}, "unknown key 'c'"),
        ({"host": "h", "tls": True}, "tls is True, not a mapping of ca, cert and key"),
        ({"host": "h", "port": None}, "None is no port"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(value: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Address.parse(value)
