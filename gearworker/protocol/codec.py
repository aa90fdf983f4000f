"""Packets to bytes and bytes to packets; binary packets and text lines share one stream.

Theory of operation. The decoder is fed with whatever a receive call gave and hands back what is complete, in order:

* ``Packet`` for a whole binary packet of the table, with as many arguments as the table says;
* ``TextLine`` for a line of the admin protocol (its first byte is not NUL);
* ``Oversized`` once for a packet whose body is over the limit, with its leading arguments, when all of the body has
  come; the body is dropped as it streams in, so it costs no memory. Not earlier, because gearmand closes the connection
  of a worker that fails a job whose payload it is still sending;
* ``ProtocolError`` as the last event of a stream that can't be followed any further. The decoder then takes no more.

An incomplete packet is kept as the chunks that came and joined once, when all of it is there, so a large body is never
copied again for each receive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from gearworker.errors import ProtocolError, UnknownCommandError
from gearworker.protocol.packets import (
    HEADER,
    HEADER_BYTES,
    MAX_ARGUMENT_BYTES,
    MAX_BODY_BYTES,
    PACKETS,
    REQUEST_MAGIC,
    RESPONSE_MAGIC,
    Packet,
    PacketType,
)

DEFAULT_MAX_PACKET_BYTES: Final = 64 * 1024 * 1024
MAX_TEXT_LINE_BYTES: Final = 8 * 1024
OVERSIZED_HEAD_BYTES: Final = 1024
"""How much of an oversized body is looked at for its leading arguments; more than all of them can have."""

_NUMBER_ARGUMENTS: Final = frozenset({"numerator", "denominator", "epoch", "known", "running", "clients", "timeout"})
_MAX_U32: Final = 2**32 - 1
_MAX_DIGITS: Final = 10
_TYPES: Final[list[PacketType | None]] = [PACKETS[n].type if n in PACKETS else None for n in range(max(PACKETS) + 1)]
_SPLITS: Final[list[int]] = [len(PACKETS[n].arguments) - 1 if n in PACKETS else 0 for n in range(max(PACKETS) + 1)]


class TextLine(NamedTuple):
    """A line of the admin protocol, without its line end."""

    line: bytes


class Oversized(NamedTuple):
    """A packet over the size limit, whose body was dropped.

    ``args`` holds the leading arguments that came whole, never the last one; ``body_bytes`` is the size it declared.
    """

    type: PacketType
    args: list[bytes]
    body_bytes: int


Event = Packet | TextLine | Oversized | ProtocolError
_Append = Callable[[Event], None]


def encode_request(packet_type: PacketType, *args: bytes) -> bytes:
    """A packet towards the job server, checked against the table.

    Raises:
        ProtocolError: the arguments don't fit the table or gearmand's limits.
    """
    return _encode(REQUEST_MAGIC, packet_type, args)


def encode_response(packet_type: PacketType, *args: bytes) -> bytes:
    """A packet from the job server, checked against the table.

    Raises:
        ProtocolError: the arguments don't fit the table or gearmand's limits.
    """
    return _encode(RESPONSE_MAGIC, packet_type, args)


def encode_work(packet_type: PacketType, handle: bytes, data: bytes) -> bytes:
    """WORK_COMPLETE, WORK_DATA, WORK_WARNING or WORK_EXCEPTION for a handle that came out of a decoder.

    The path of every job: it checks nothing, because such a handle can't hold a NUL, and however long a job server
    makes its handles, it takes them back.
    """
    return b"".join(
        (HEADER.pack(REQUEST_MAGIC, packet_type, len(handle) + 1 + len(data)), handle, b"\0", data),
    )


def encode_work_fail(handle: bytes) -> bytes:
    """WORK_FAIL for a handle that came out of a decoder; unchecked, as ``encode_work`` is."""
    return HEADER.pack(REQUEST_MAGIC, PacketType.WORK_FAIL, len(handle)) + handle


def _encode(magic: bytes, packet_type: PacketType, args: tuple[bytes, ...]) -> bytes:
    names = PACKETS[packet_type].arguments
    if len(args) != len(names):
        raise ProtocolError(f"{packet_type.name} takes {len(names)} arguments {names}, not {len(args)}")
    last = len(args) - 1
    for index, (name, value) in enumerate(zip(names, args, strict=True)):
        _check_argument(packet_type, name, value, is_last=index == last)
    body = b"\0".join(args)
    if len(body) > MAX_BODY_BYTES:
        raise ProtocolError(
            f"{packet_type.name} has a body of {len(body)} bytes; the protocol's limit is {MAX_BODY_BYTES}"
        )
    return HEADER.pack(magic, packet_type, len(body)) + body


def _check_argument(packet_type: PacketType, name: str, value: bytes, *, is_last: bool) -> None:
    if name in MAX_ARGUMENT_BYTES:
        limit = MAX_ARGUMENT_BYTES[name]
        if len(value) > limit:
            raise ProtocolError(f"{packet_type.name}: {name} has {len(value)} bytes; the limit is {limit}")
        if b"\0" in value:
            raise ProtocolError(f"{packet_type.name}: {name} holds a NUL byte")
        if not value and name in ("task", "handle"):
            raise ProtocolError(f"{packet_type.name}: {name} is empty")
    elif name in _NUMBER_ARGUMENTS:
        if not value.isdigit() or len(value) > _MAX_DIGITS or int(value) > _MAX_U32:
            raise ProtocolError(
                f"{packet_type.name}: {name} is {value[:20]!r}, not a whole number from 0 to {_MAX_U32}"
            )
    elif not is_last and b"\0" in value:
        raise ProtocolError(f"{packet_type.name}: {name} holds a NUL byte")


class Decoder:
    """Turns a stream of received chunks into events.

    Args:
        magic: the magic that packets on this stream carry: RESPONSE_MAGIC on a worker's or client's side.
        max_packet_bytes: the largest body that is delivered; at least ``OVERSIZED_HEAD_BYTES``.
    """

    __slots__ = (
        "_chunks",
        "_chunks_bytes",
        "_failed",
        "_magic",
        "_needed_bytes",
        "_oversized",
        "_skip_bytes",
        "max_packet_bytes",
    )

    def __init__(self, magic: bytes, *, max_packet_bytes: int = DEFAULT_MAX_PACKET_BYTES) -> None:
        self._magic = magic
        self.max_packet_bytes = max(max_packet_bytes, OVERSIZED_HEAD_BYTES)
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        self._needed_bytes = 0
        self._skip_bytes = 0
        self._oversized: Oversized | None = None  # the one whose body is being skipped
        self._failed = False

    def feed(self, data: bytes) -> list[Event]:
        """Take received bytes; give the events that they complete.

        Raises:
            ProtocolError: the stream was broken before.
        """
        if self._failed:
            raise ProtocolError("this stream is broken; nothing more can be read from it")
        if self._oversized is not None:
            return self._skip(data)
        if self._chunks:
            self._chunks.append(data)
            self._chunks_bytes += len(data)
            if self._chunks_bytes < self._needed_bytes:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
        return self._parse(data, [])

    def _skip(self, data: bytes) -> list[Event]:
        """Drop what still belongs to an oversized body; go on behind it."""
        skipped = min(self._skip_bytes, len(data))
        self._skip_bytes -= skipped
        if self._skip_bytes or self._oversized is None:
            return []
        events: list[Event] = [self._oversized]
        self._oversized = None
        return self._parse(data[skipped:], events)

    def _parse(self, data: bytes, events: list[Event]) -> list[Event]:
        append = events.append
        unpack, new, magic, limit = HEADER.unpack_from, tuple.__new__, self._magic, self.max_packet_bytes
        types, splits, known = _TYPES, _SPLITS, len(_TYPES)
        position, end = 0, len(data)
        while end - position >= HEADER_BYTES:
            found, number, size = unpack(data, position)
            if found != magic:
                consumed = self._parse_text(data, position, append)
            elif number >= known or (packet_type := types[number]) is None:
                append(UnknownCommandError(number))
                consumed = -1
            elif size > limit:
                consumed = self._parse_oversized(data, position, packet_type, size, append)
            else:
                stop = position + HEADER_BYTES + size
                if stop > end:
                    self._keep(data, position, HEADER_BYTES + size)
                    return events
                splits_wanted = splits[number]
                args = data[position + HEADER_BYTES : stop].split(b"\0", splits_wanted) if splits_wanted >= 0 else []
                if len(args) == splits_wanted + 1 and (splits_wanted >= 0 or not size):
                    append(new(Packet, (packet_type, args)))
                    position = stop
                    continue
                append(_wrong_arguments(packet_type, args, size))
                consumed = -1
            if consumed < 0:
                self._failed = True
                return events
            if not consumed:
                return events
            position += consumed
        self._parse_rest(data, position, append)
        return events

    def _parse_rest(self, data: bytes, position: int, append: _Append) -> None:
        """What is left is shorter than a header: text lines, the start of a packet, or nothing."""
        while position < len(data):
            if data[position] == 0:
                self._keep(data, position, HEADER_BYTES)
                return
            consumed = self._parse_text(data, position, append)
            if consumed <= 0:
                self._failed = consumed < 0
                return
            position += consumed

    def _parse_text(self, data: bytes, position: int, append: _Append) -> int:
        """Bytes consumed by one line; 0 where it has not come whole and was kept; -1 where the stream is broken."""
        if data[position] == 0:
            append(ProtocolError(f"bad magic {data[position : position + 4]!r}; expected {self._magic!r}"))
            return -1
        stop = data.find(b"\n", position, position + MAX_TEXT_LINE_BYTES)
        if stop >= 0:
            append(TextLine(data[position:stop].removesuffix(b"\r")))
            return stop + 1 - position
        if len(data) - position >= MAX_TEXT_LINE_BYTES:
            append(ProtocolError(f"a text line over {MAX_TEXT_LINE_BYTES} bytes"))
            return -1
        self._keep(data, position, len(data) - position + 1)
        return 0

    def _parse_oversized(self, data: bytes, position: int, packet_type: PacketType, size: int, append: _Append) -> int:
        """Bytes consumed; 0 where nothing is left in this chunk."""
        head_start = position + HEADER_BYTES
        if len(data) - head_start < OVERSIZED_HEAD_BYTES:
            self._keep(data, position, HEADER_BYTES + OVERSIZED_HEAD_BYTES)
            return 0
        head = data[head_start : head_start + OVERSIZED_HEAD_BYTES]
        args = head.split(b"\0", max(_SPLITS[packet_type], 0))[:-1]
        here = min(size, len(data) - head_start)
        if here == size:
            append(Oversized(packet_type, args, size))
            return HEADER_BYTES + size
        self._oversized, self._skip_bytes = Oversized(packet_type, args, size), size - here
        return 0

    def _keep(self, data: bytes, position: int, needed_bytes: int) -> None:
        rest = data[position:]
        self._chunks.append(rest)
        self._chunks_bytes = len(rest)
        self._needed_bytes = needed_bytes


def _wrong_arguments(packet_type: PacketType, args: list[bytes], size: int) -> ProtocolError:
    names = PACKETS[packet_type].arguments
    if not names:
        return ProtocolError(f"{packet_type.name} takes no arguments, but came with {size} bytes")
    return ProtocolError(f"{packet_type.name} takes {len(names)} arguments {names}, but came with {len(args)}")
