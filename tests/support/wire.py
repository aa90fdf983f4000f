"""A raw peer of a job server: a blocking socket that says exactly what it is told and reads exactly what it expects."""

from __future__ import annotations

import socket
import struct

from support.servers import wait_until

from gearworker.protocol.packets import HEADER_BYTES, PACKETS, REQUEST_MAGIC, RESPONSE_MAGIC, Packet, PacketType

TIMEOUT_S = 5.0


def request(packet_type: int, *args: bytes, magic: bytes = REQUEST_MAGIC) -> bytes:
    """A packet towards the job server, unchecked: tests send wrong ones too."""
    body = b"\0".join(args)
    return magic + struct.pack(">II", packet_type, len(body)) + body


def response(packet_type: int, *args: bytes) -> bytes:
    """A packet from the job server, as it must come."""
    return request(packet_type, *args, magic=RESPONSE_MAGIC)


class Wire:
    """One connection to a job server.

    Args:
        port: on the loopback interface.
        timeout_s: for every wait.
    """

    def __init__(self, port: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._echoes = 0

    def send(self, *chunks: bytes) -> None:
        """Send in one go."""
        self.sock.sendall(b"".join(chunks))

    def ask(self, packet_type: PacketType, *args: bytes) -> Packet:
        """Send a packet and read one."""
        self.send(request(packet_type, *args))
        return self.read()

    def read(self) -> Packet:
        """The next packet, whatever it is."""
        self._fill(HEADER_BYTES)
        magic, number, size = struct.unpack(">4sII", self._buffer[:HEADER_BYTES])
        assert magic == RESPONSE_MAGIC, f"no packet: {bytes(self._buffer[:200])!r}"
        body = self._take(HEADER_BYTES + size)[HEADER_BYTES:]
        arguments = PACKETS[number].arguments
        args = body.split(b"\0", len(arguments) - 1) if arguments else []
        assert len(args) == len(arguments), f"{PACKETS[number].type.name} came with {args}"
        return Packet(PacketType(number), args)

    def expect(self, *expected: bytes) -> None:
        """The next bytes must be these."""
        wanted = b"".join(expected)
        while len(self._buffer) < len(wanted):
            self._buffer += self._received(repr(wanted[:200]))
        assert self._take(len(wanted)) == wanted

    def expect_nothing(self) -> None:
        """Nothing more has been sent to this connection: the next thing that comes is the answer to an echo.

        The job server must have taken what could have caused something; wait for its answer first where another
        connection asked for it.
        """
        self.sync()

    def sync(self) -> None:
        """The job server has taken all that was sent here, and answered nothing that was not read yet."""
        self._echoes += 1
        mark = b"echo %d" % self._echoes
        self.send(request(PacketType.ECHO_REQ, mark))
        self.expect(response(PacketType.ECHO_RES, mark))

    def expect_end(self) -> None:
        """The job server closes the connection, without anything before."""
        try:
            self._buffer += self.sock.recv(65536)
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise AssertionError("the connection does not end") from None
        assert not self._buffer, f"expected the end of the connection, got {bytes(self._buffer[:200])!r}"

    def can_do(self, *tasks: bytes) -> None:
        """Register abilities, and wait until the job server has taken them."""
        self.send(*(request(PacketType.CAN_DO, task) for task in tasks))
        self.sync()

    def submit(
        self, task: bytes, unique: bytes = b"", data: bytes = b"data", *, kind: PacketType = PacketType.SUBMIT_JOB_BG
    ) -> bytes:
        """Submit a job; its handle."""
        packet = self.ask(kind, task, unique, data)
        assert packet.type == PacketType.JOB_CREATED, packet
        return packet.args[0]

    def grab(self) -> Packet:
        """The answer to a GRAB_JOB_UNIQ."""
        return self.ask(PacketType.GRAB_JOB_UNIQ)

    def grab_data(self) -> bytes | None:
        """The payload of the job that a GRAB_JOB_UNIQ brings; None for NO_JOB."""
        packet = self.grab()
        if packet.type == PacketType.NO_JOB:
            return None
        assert packet.type == PacketType.JOB_ASSIGN_UNIQ, packet
        return packet.args[3]

    def sleep(self) -> None:
        """PRE_SLEEP without a job to be had, taken by the job server."""
        self.send(request(PacketType.PRE_SLEEP))
        self.sync()

    def read_line(self) -> bytes:
        """A line of text with its end."""
        while (stop := self._buffer.find(b"\n")) < 0:
            self._buffer += self._received("a line")
        return self._take(stop + 1)

    def read_list(self) -> bytes:
        """Lines of text up to the one with a dot alone, all of it."""
        lines = [self.read_line()]
        while lines[-1] != b".\n":
            lines.append(self.read_line())
        return b"".join(lines)

    def text(self, line: bytes) -> bytes:
        """The reply of one line to an admin command."""
        self.send(line + b"\r\n")
        return self.read_line()

    def text_list(self, line: bytes) -> bytes:
        """The reply to an admin command that lists something."""
        self.send(line + b"\r\n")
        return self.read_list()

    def wait_for_connections(self, count: int) -> None:
        """Until the job server has that many connections, this one included: it notices an end when it reads."""
        wait_until(lambda: self.text_list(b"workers").count(b"\n") == count + 1, what=f"{count} connections")

    def close(self) -> None:
        """End the connection."""
        self.sock.close()

    def _received(self, what: str) -> bytes:
        try:
            chunk = self.sock.recv(65536)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what}; there is {bytes(self._buffer[:200])!r}") from None
        assert chunk, f"the connection ended before {what}; there is {bytes(self._buffer[:200])!r}"
        return chunk

    def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            self._buffer += self._received(f"{count} bytes")

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
