"""A job server without a socket: a connection whose other end is a function of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.queue import Queue

from gearworker.errors import ConnectionLost, ServerUnavailable
from gearworker.net.address import Address
from gearworker.protocol.codec import Decoder, encode_response
from gearworker.protocol.packets import REQUEST_MAGIC, Packet, PacketType


class FakeConnection:
    """Looks like ``gearworker.net.connection.Connection``; hands each packet written to its server."""

    def __init__(self, server: FakeServer) -> None:
        self.address = server.address
        self.closed = False
        self.close_reason = ""
        self._server = server
        self._incoming: Queue[bytes] = Queue()
        self._decoder = Decoder(REQUEST_MAGIC)

    def recv(self) -> bytes:
        data = b"" if self.closed else self._incoming.get()
        if not data:
            self.close("the peer closed the connection")
            raise ConnectionLost(self.address, self.close_reason)
        return data

    def write(self, data: bytes) -> None:
        if self.closed:
            raise ConnectionLost(self.address, self.close_reason)
        for packet in self._decoder.feed(data):
            assert isinstance(packet, Packet), packet
            self._server.take(self, packet)

    def wait_writable(self) -> None:
        if self.closed:
            raise ConnectionLost(self.address, self.close_reason)

    def close(self, reason: str = "closed") -> None:
        if not self.closed:
            self.closed, self.close_reason = True, reason
            self._incoming.put(b"")

    def peer_has_ended(self) -> bool:
        return self.closed

    def send(self, packet_type: PacketType, *args: bytes) -> None:
        """For the test: a packet from the job server."""
        self._incoming.put(encode_response(packet_type, *args))

    def send_raw(self, data: bytes) -> None:
        """For the test: bytes from the job server."""
        self._incoming.put(data)

    def hang_up(self) -> None:
        """For the test: the job server ends the connection."""
        self._incoming.put(b"")


class FakeServer:
    """Takes what is written to its connections.

    Args:
        address: its name.
        answer: called with the FakeConnection and each Packet except OPTION_REQ, which is answered; by default a submit
            is accepted, everything else is left open.
    """

    def __init__(self, address: str = "127.0.0.1:4730", answer: Callable[[Any, Packet], None] | None = None) -> None:
        self.address = address
        self.is_up = True
        self.connections: list[FakeConnection] = []
        self.packets: list[Packet] = []
        self.attempts = 0
        self._answer = answer or self.accept
        self._jobs = 0

    def take(self, connection: FakeConnection, packet: Packet) -> None:
        if packet.type == PacketType.OPTION_REQ:
            connection.send(PacketType.OPTION_RES, packet.args[0])
            return
        self.packets.append(packet)
        self._answer(connection, packet)

    def accept(self, connection: FakeConnection, packet: Packet) -> None:
        """Answer a submit by a handle of its own, H:1, H:2 and so on."""
        if packet.type.name.startswith("SUBMIT"):
            self._jobs += 1
            connection.send(PacketType.JOB_CREATED, b"H:%d" % self._jobs)

    def connect(self) -> FakeConnection:
        self.attempts += 1
        if not self.is_up:
            raise ServerUnavailable(self.address, "Connection refused")
        self.connections.append(FakeConnection(self))
        return self.connections[-1]


class FakeNet:
    """Stands for ``gearworker.net.connection.connect``: knows the servers by their addresses."""

    def __init__(self, *servers: FakeServer) -> None:
        self.servers = {server.address: server for server in servers}

    def connect(self, address: Address, *, timeout_s: float = 5.0) -> FakeConnection:
        return self.servers[str(address)].connect()
