"""What the supervisor and its worker processes say to each other, over a pair of sockets.

A message is a struct, sent as MessagePack behind its length (u32 big-endian). The channel is a lease as well: when one
side's process ends, however that happened, the other reads the end of the stream.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, Literal

import msgspec
from gevent.lock import BoundedSemaphore

from gearworker.counts import WorkerCounts
from gearworker.errors import ProtocolError
from gearworker.http.app import RunningJob

MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
_LENGTH: Final = Struct(">I")


class Message(msgspec.Struct, tag=True):
    """A message between the supervisor and a worker process."""


class Start(Message):
    """To the worker process, first of all: what to run.

    Args:
        config_text, config_file: the configuration as it was read, and its file's name for errors.
        log_level, log_format: as the supervisor logs.
        embedded_address: where the supervisor's embedded job server listens, if it has one.
        verbose: show tracebacks of modules that can't be imported.
    """

    config_text: str
    config_file: str
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["text", "json"]
    embedded_address: str | None = None
    verbose: bool = False


class Drain(Message):
    """To the worker process: take no new jobs, finish those in hand, end."""


class ReportRequest(Message):
    """To the worker process: send a report with this number."""

    number: int


class LogStacks(Message):
    """To the worker process: log every running job and greenlet's stack."""


class Beat(Message):
    """From the worker process, four times a second while its hub turns. ``ready``: registered and not draining."""

    ready: bool


class Report(Message):
    """From the worker process: its counts and running jobs; ``number`` is the request's, 0 for one without request."""

    number: int
    counts: WorkerCounts
    jobs: list[RunningJob]


AnyMessage = Start | Drain | ReportRequest | LogStacks | Beat | Report


class Channel:
    """One end of the pair.

    Args:
        sock: a connected gevent socket, which the channel owns from now on.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._sending = BoundedSemaphore(1)  # a large message may leave in parts
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(AnyMessage)

    def send(self, message: AnyMessage) -> bool:
        """Send a message.

        Returns: False where the other side has ended.

        Switches: while the other side does not read.
        """
        data = self._encoder.encode(message)
        try:
            with self._sending:
                self._sock.sendall(_LENGTH.pack(len(data)) + data)
        except OSError:
            return False
        return True

    def receive(self) -> AnyMessage | None:
        """The next message; None where the other side has ended.

        Raises:
            ProtocolError: what came is no message.

        Switches: until there is one.
        """
        header = self._receive_exactly(_LENGTH.size)
        if header is None:
            return None
        (size,) = _LENGTH.unpack(header)
        if size > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message of {size} bytes on the channel; the limit is {MAX_MESSAGE_BYTES}")
        data = self._receive_exactly(size)
        try:
            return None if data is None else self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"no message on the channel: {error}") from None

    def _receive_exactly(self, count: int) -> bytes | None:
        chunks = []
        while count:
            try:
                chunk = self._sock.recv(min(count, 1024 * 1024))
            except OSError:
                return None
            if not chunk:
                return None
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return int(self._sock.fileno())

    def close(self) -> None:
        """End it. Idempotent."""
        self._sock.close()
