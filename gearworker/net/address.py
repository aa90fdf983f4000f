"""Where a job server is: host and port, a Unix socket, or either behind TLS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Union

from gearworker.errors import ConfigError
from gearworker.protocol.packets import DEFAULT_PORT

AddressLike = Union["Address", str, tuple[str, int], Mapping[str, Any]]
_UNIX = "unix:"
_OLD_TLS_KEYS = {"ca_certs": "ca", "certfile": "cert", "keyfile": "key"}


@dataclass(frozen=True)
class TLS:
    """Files (PEM) for a TLS connection.

    Args:
        ca: certificates to verify the job server against; None for the system's.
        cert: our certificate, where the job server asks for one.
        key: its key; None where it is in the certificate's file.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Address:
    """A job server's address. ``path`` is set for a Unix socket, ``host`` and ``port`` otherwise."""

    host: str = ""
    port: int = DEFAULT_PORT
    path: str | None = None
    tls: TLS | None = None

    @classmethod
    def parse(cls, value: AddressLike) -> Address:
        """Read an address in any form that people write.

        Args:
            value: "host", "host:port", "[::1]:4730", "::1", "unix:/run/gearmand.sock", (host, port), or a mapping with
                host, port and tls (ca, cert, key) or python-gearman's ca_certs, certfile, keyfile.

        Raises:
            ConfigError: the value is no address.
        """
        if isinstance(value, Address):
            return value
        if isinstance(value, str):
            return cls._parse_text(value)
        if isinstance(value, Mapping):
            return cls._parse_mapping(value)
        if isinstance(value, tuple) and len(value) == 2:
            return cls(_checked_host(value[0], value), _checked_port(value[1], value))
        raise ConfigError(f"{value!r} is no address of a job server; write it as 'host:port'")

    @classmethod
    def _parse_text(cls, text: str) -> Address:
        if text.startswith(_UNIX):
            path = text.removeprefix(_UNIX)
            if not path:
                raise ConfigError(f"{text!r} is no address of a job server: the path is empty")
            return cls(path=path)
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ConfigError(f"{text!r} is no address of a job server; write IPv6 as '[::1]:4730'")
            return cls(_checked_host(host, text), _checked_port(rest[1:] or DEFAULT_PORT, text))
        if text.count(":") > 1:
            return cls(_checked_host(text, text))
        host, colon, port = text.partition(":")
        return cls(_checked_host(host, text), _checked_port(port if colon else DEFAULT_PORT, text))

    @classmethod
    def _parse_mapping(cls, value: Mapping[str, Any]) -> Address:
        options = dict(value)
        tls = _checked_tls(options.pop("tls", None), value)
        tls.update({new: options.pop(old) for old, new in _OLD_TLS_KEYS.items() if options.get(old) is not None})
        wanted = "tls" in value and value["tls"] is not None
        for old in _OLD_TLS_KEYS:
            options.pop(old, None)
        host, port = options.pop("host", None), options.pop("port", DEFAULT_PORT)
        unknown = [*options, *(set(tls) - {"ca", "cert", "key"})]
        if unknown:
            raise ConfigError(
                f"unknown key {unknown[0]!r} in the address of a job server; there are host, port and tls"
            )
        return cls(_checked_host(host, value), _checked_port(port, value), tls=TLS(**tls) if tls or wanted else None)

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _checked_host(host: Any, value: object) -> str:
    if not isinstance(host, str) or not host or any(c.isspace() or c in "/@[]" for c in host):
        raise ConfigError(f"{value!r} is no address of a job server: {host!r} is no host")
    if ":" in host and not _is_ipv6(host):
        raise ConfigError(f"{value!r} is no address of a job server: {host!r} is no IPv6 address")
    return host


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _checked_tls(tls: Any, value: object) -> dict[str, Any]:
    if tls is not None and not isinstance(tls, Mapping):
        raise ConfigError(f"{value!r} is no address of a job server: tls is {tls!r}, not a mapping of ca, cert and key")
    return dict(tls or {})


def _checked_port(port: Any, value: object) -> int:
    if isinstance(port, str) and port.isascii() and port.isdigit():
        port = int(port)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise ConfigError(f"{value!r} is no address of a job server: {port!r} is no port from 1 to 65535")
    return port
