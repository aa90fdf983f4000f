"""The codec: round trips, every way of cutting a stream, size limit, and streams that can't be followed."""

from __future__ import annotations

import random
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearworker.errors import ProtocolError, UnknownCommandError
from gearworker.protocol import codec
from gearworker.protocol.codec import (
    MAX_TEXT_LINE_BYTES,
    OVERSIZED_HEAD_BYTES,
    Decoder,
    Event,
    Oversized,
    TextLine,
    encode_request,
    encode_response,
    encode_work,
    encode_work_fail,
)
from gearworker.protocol.packets import MAX_ARGUMENT_BYTES, PACKETS, REQUEST_MAGIC, RESPONSE_MAGIC, Packet, PacketType

_T = PacketType
_NUMBERS = {"numerator", "denominator", "epoch", "known", "running", "clients", "timeout"}
_BOUNDED = settings(derandomize=True, deadline=None, max_examples=150)
_EVERY_TYPE = pytest.mark.parametrize("packet_type", list(PacketType), ids=lambda packet_type: packet_type.name)


def header(magic: bytes, number: int, size: int) -> bytes:
    return struct.pack(">4sII", magic, number, size)


def raw_packet(number: int, body: bytes = b"", magic: bytes = RESPONSE_MAGIC) -> bytes:
    return header(magic, number, len(body)) + body


def sample_args(packet_type: PacketType) -> list[bytes]:
    names = PACKETS[packet_type].arguments
    args = [b"17" if name in _NUMBERS else name.encode() for name in names]
    if names and names[-1] == "data":
        args[-1] = b"pay\0load\n"
    return args


def collect(chunks: Any, magic: bytes = RESPONSE_MAGIC, max_packet_bytes: int = 10**6) -> list[Event]:
    decoder, events = Decoder(magic, max_packet_bytes=max_packet_bytes), list[Event]()
    for chunk in chunks:
        events.extend(decoder.feed(chunk))
        if events and isinstance(events[-1], ProtocolError):
            break
    return events


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(stream) + 1) for place in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(places)]


# ---------------------------------------------------------------------- whole packets


@_EVERY_TYPE
def test_a_packet_round_trips_whole_and_byte_by_byte(packet_type: PacketType) -> None:
    args = sample_args(packet_type)
    for magic, encode in ((REQUEST_MAGIC, encode_request), (RESPONSE_MAGIC, encode_response)):
        stream = encode(packet_type, *args)
        assert stream[:4] == magic
        assert collect([stream], magic) == [Packet(packet_type, args)]
        assert collect(bytewise(stream), magic) == [Packet(packet_type, args)]


def test_all_packets_in_one_stream_come_in_order_however_it_is_cut() -> None:
    stream = b"".join(encode_response(packet_type, *sample_args(packet_type)) for packet_type in PacketType)
    expected = [Packet(packet_type, sample_args(packet_type)) for packet_type in PacketType]
    assert collect([stream]) == expected
    assert collect(bytewise(stream)) == expected
    for place in range(len(stream)):
        assert collect([stream[:place], stream[place:]]) == expected


@_BOUNDED
@given(data=st.data(), packet_type=st.sampled_from(PacketType), cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_any_arguments_in_any_split_come_back(data: st.DataObject, packet_type: PacketType, cuts: list[int]) -> None:
    names = PACKETS[packet_type].arguments
    args = [data.draw(_argument(name, is_last=index == len(names) - 1), label=name) for index, name in enumerate(names)]
    stream = encode_response(packet_type, *args) * 2
    assert collect(cut(stream, cuts)) == [Packet(packet_type, args)] * 2


def _argument(name: str, *, is_last: bool) -> st.SearchStrategy[bytes]:
    if name in _NUMBERS:
        return st.integers(0, 2**32 - 1).map(lambda number: b"%d" % number)
    if is_last and name not in MAX_ARGUMENT_BYTES:
        return st.binary(max_size=300)
    limit = min(MAX_ARGUMENT_BYTES.get(name, 100), 100)
    return st.binary(min_size=1, max_size=limit).map(lambda raw: raw.replace(b"\0", b"."))


def test_an_argument_less_than_the_last_may_be_empty_on_the_wire() -> None:
    assert collect([raw_packet(_T.JOB_ASSIGN_UNIQ, b"H:1\0t\0\0")]) == [
        Packet(_T.JOB_ASSIGN_UNIQ, [b"H:1", b"t", b"", b""])
    ]


def test_a_single_argument_keeps_its_nuls_as_gearmands_work_fail_has_one() -> None:
    assert collect([raw_packet(_T.WORK_FAIL, b"H:1\0")]) == [Packet(_T.WORK_FAIL, [b"H:1\0"])]


def test_a_body_of_exactly_the_limit_is_delivered() -> None:
    body = b"H:1\0" + b"x" * 2044
    assert collect([raw_packet(_T.WORK_DATA, body)], max_packet_bytes=2048) == [
        Packet(_T.WORK_DATA, [b"H:1", b"x" * 2044])
    ]


def test_feeding_nothing_gives_nothing() -> None:
    decoder = Decoder(RESPONSE_MAGIC)
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\0RE") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(raw_packet(_T.NOOP)[3:]) == [Packet(_T.NOOP, [])]


# ---------------------------------------------------------------------- text lines


def test_text_and_packets_mix_in_every_split() -> None:
    noop = raw_packet(_T.NOOP)
    stream = b"status\r\n" + noop + b"\n" + b"workers\n" + noop + noop + b"short\n"
    expected: list[Event] = [
        TextLine(b"status"), Packet(_T.NOOP, []), TextLine(b""), TextLine(b"workers"),
        Packet(_T.NOOP, []), Packet(_T.NOOP, []), TextLine(b"short"),
    ]  # fmt: skip
    assert collect([stream]) == expected
    assert collect(bytewise(stream)) == expected
    for place in range(len(stream)):
        assert collect([stream[:place], stream[place:]]) == expected


def test_a_line_is_held_to_its_limit_whole_or_in_pieces() -> None:
    longest = b"x" * (MAX_TEXT_LINE_BYTES - 1) + b"\n"
    assert collect([longest]) == [TextLine(longest[:-1])]
    assert collect([longest[:5000], longest[5000:]]) == [TextLine(longest[:-1])]
    for chunks in ([b"x" + longest], [b"x" * 5000, b"x" * 5000], [b"x" * MAX_TEXT_LINE_BYTES]):
        (event,) = collect(chunks)
        assert isinstance(event, ProtocolError)
        assert "text line" in str(event)


# ---------------------------------------------------------------------- oversized packets


@pytest.mark.parametrize(
    ("packet_type", "lead"),
    [
        (_T.JOB_ASSIGN_UNIQ, [b"H:h:1", b"task", b"unique"]),
        (_T.JOB_ASSIGN, [b"H:h:1", b"task"]),
        (_T.WORK_COMPLETE, [b"H:h:1"]),
        (_T.ECHO_RES, []),
    ],
)
def test_an_oversized_packet_is_reported_once_in_every_split(packet_type: PacketType, lead: list[bytes]) -> None:
    body = b"\0".join([*lead, b"y\0" * 1200])
    stream = raw_packet(_T.NOOP) + raw_packet(packet_type, body) + raw_packet(_T.WORK_FAIL, b"H:2") + b"ok\n"
    expected = [
        Packet(_T.NOOP, []), Oversized(packet_type, lead, len(body)), Packet(_T.WORK_FAIL, [b"H:2"]), TextLine(b"ok"),
    ]  # fmt: skip
    assert collect(bytewise(stream), max_packet_bytes=1500) == expected
    for place in range(len(stream)):
        assert collect([stream[:place], stream[place:]], max_packet_bytes=1500) == expected
    for place in range(0, len(stream) - 100, 97):
        chunks = [stream[:place], stream[place : place + 50], stream[place + 50 : place + 51], stream[place + 51 :]]
        assert collect(chunks, max_packet_bytes=1500) == expected


def test_an_oversized_packet_is_reported_when_its_body_has_passed_and_keeps_no_memory() -> None:
    decoder = Decoder(RESPONSE_MAGIC, max_packet_bytes=2048)
    size = 8 + 101 * 65536
    assert decoder.feed(header(RESPONSE_MAGIC, _T.JOB_ASSIGN_UNIQ, size) + b"H:1\0t\0u\0" + b"z" * 65536) == []
    for _ in range(99):
        assert decoder.feed(b"z" * 65536) == []
    assert decoder._chunks == []
    assert decoder.feed(b"z" * 65535) == []
    assert decoder.feed(b"z" + raw_packet(_T.NOOP)) == [
        Oversized(_T.JOB_ASSIGN_UNIQ, [b"H:1", b"t", b"u"], size), Packet(_T.NOOP, [])
    ]  # fmt: skip


def test_two_oversized_packets_in_a_row_are_two_events() -> None:
    packet = raw_packet(_T.WORK_DATA, b"H:1\0" + b"q" * 3000)
    assert collect([packet * 2], max_packet_bytes=2000) == [Oversized(_T.WORK_DATA, [b"H:1"], 3004)] * 2


def test_the_limit_is_never_below_the_head_that_is_looked_at() -> None:
    assert Decoder(RESPONSE_MAGIC, max_packet_bytes=1).max_packet_bytes == OVERSIZED_HEAD_BYTES
    body = b"H:1\0" + b"q" * (OVERSIZED_HEAD_BYTES - 3)
    assert collect([raw_packet(_T.WORK_DATA, body)], max_packet_bytes=1) == [
        Oversized(_T.WORK_DATA, [b"H:1"], OVERSIZED_HEAD_BYTES + 1)
    ]


# ---------------------------------------------------------------------- streams that can't be followed

_BROKEN = {
    "bad magic": header(b"\0ABC", 6, 0),
    "the other side's magic": header(REQUEST_MAGIC, 6, 0),
    "type 0": raw_packet(0),
    "type 5": raw_packet(5),
    "type 43": raw_packet(43),
    "type 2**31": raw_packet(2**31),
    "the largest type": raw_packet(2**32 - 1),
    "no NUL after the handle": raw_packet(_T.WORK_COMPLETE, b"H:1"),
    "a NUL too few": raw_packet(_T.JOB_ASSIGN_UNIQ, b"H:1\0t\0u"),
    "an empty body": raw_packet(_T.WORK_STATUS),
    "a body without arguments": raw_packet(_T.NO_JOB, b"x"),
    "a NUL without arguments": raw_packet(_T.NOOP, b"\0"),
}


@pytest.mark.parametrize("broken", _BROKEN.values(), ids=_BROKEN)
@pytest.mark.parametrize("split", [lambda stream: [stream], bytewise], ids=["whole", "bytewise"])
def test_a_broken_stream_ends_with_an_error_after_all_that_came_before(broken: bytes, split: Any) -> None:
    before = raw_packet(_T.NOOP) + b"line\n"
    *events, error = collect(split(before + broken + raw_packet(_T.NOOP)))
    assert events == [Packet(_T.NOOP, []), TextLine(b"line")]
    assert isinstance(error, ProtocolError)


def test_an_unknown_type_names_its_number() -> None:
    (error,) = collect([raw_packet(2**31)])
    assert isinstance(error, UnknownCommandError)
    assert error.number == 2**31


def test_wrong_arguments_name_packet_and_counts() -> None:
    (error,) = collect([raw_packet(_T.JOB_ASSIGN_UNIQ, b"H:1\0t")])
    assert "JOB_ASSIGN_UNIQ takes 4 arguments" in str(error)
    assert "came with 2" in str(error)
    (error,) = collect([raw_packet(_T.NOOP, b"abc")])
    assert str(error) == "NOOP takes no arguments, but came with 3 bytes"


def test_a_broken_decoder_takes_no_more() -> None:
    decoder = Decoder(RESPONSE_MAGIC)
    decoder.feed(raw_packet(0))
    with pytest.raises(ProtocolError, match="broken"):
        decoder.feed(raw_packet(_T.NOOP))


def test_fuzzed_streams_end_in_events_and_never_keep_more_than_the_limit() -> None:
    rng = random.Random(20)
    seeds = [encode_response(packet_type, *sample_args(packet_type)) for packet_type in PacketType]
    seeds += [b"status\r\n", b"\n", raw_packet(_T.WORK_DATA, b"H:1\0" + b"d" * 3000)]
    for _ in range(20_000):
        stream = _mutated(rng, seeds)
        decoder, ended = Decoder(RESPONSE_MAGIC, max_packet_bytes=2048), False
        for chunk in cut(stream, [rng.randrange(5000) for _ in range(rng.randrange(5))]):
            events = decoder.feed(chunk)
            errors = [event for event in events if isinstance(event, ProtocolError)]
            assert errors in ([], events[-1:])
            assert sum(map(len, decoder._chunks)) <= max(2048 + 12, MAX_TEXT_LINE_BYTES)
            ended = bool(errors)
            if ended:
                break
        if ended:
            with pytest.raises(ProtocolError):
                decoder.feed(b"")


def _mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(60))
    stream = bytearray(b"".join(rng.choice(seeds) for _ in range(rng.randrange(1, 5))))
    for _ in range(rng.randrange(4) if kind > 1 else 0):
        place = rng.randrange(len(stream))
        if rng.random() < 0.5:
            stream[place] = rng.randrange(256)
        else:
            del stream[place : place + rng.randrange(1, 9)]
        if not stream:
            break
    return bytes(stream)


# ---------------------------------------------------------------------- what is refused before sending


@pytest.mark.parametrize(
    ("packet_type", "args", "reason"),
    [
        (_T.CAN_DO, [], "takes 1 arguments"),
        (_T.CAN_DO, [b"a", b"b"], "takes 1 arguments"),
        (_T.NOOP, [b""], "takes 0 arguments"),
        (_T.CAN_DO, [b"t" * 256], "task has 256 bytes; the limit is 255"),
        (_T.CAN_DO, [b""], "task is empty"),
        (_T.CAN_DO, [b"a\0b"], "task holds a NUL"),
        (_T.SUBMIT_JOB, [b"t", b"u" * 64, b""], "unique has 64 bytes; the limit is 63"),
        (_T.SUBMIT_JOB, [b"t", b"u\0", b""], "unique holds a NUL"),
        (_T.SUBMIT_REDUCE_JOB, [b"t", b"u", b"r" * 256, b"", b""], "reducer has 256 bytes"),
        (_T.SUBMIT_REDUCE_JOB, [b"t", b"u", b"r", b"a\0", b""], "aggregator holds a NUL"),
        (_T.GET_STATUS, [b""], "handle is empty"),
        (_T.GET_STATUS, [b"h" * 64], "handle has 64 bytes"),
        (_T.SET_CLIENT_ID, [b"i" * 128], "client_id has 128 bytes; the limit is 127"),
        (_T.OPTION_REQ, [b"o" * 64], "option has 64 bytes"),
        (_T.ERROR, [b"CO\0DE", b"text"], "code holds a NUL"),
        (_T.WORK_STATUS, [b"H:1", b"-1", b"2"], "numerator is b'-1'"),
        (_T.WORK_STATUS, [b"H:1", b"1", b""], "denominator is b''"),
        (_T.WORK_STATUS, [b"H:1", b"1", b"4294967296"], "whole number from 0 to 4294967295"),
        (_T.WORK_STATUS, [b"H:1", b"1" * 5000, b"2"], "numerator is b'1111"),
        (_T.SUBMIT_JOB_EPOCH, [b"t", b"u", b"soon", b""], "epoch is b'soon'"),
        (_T.CAN_DO_TIMEOUT, [b"t", "²".encode()], "timeout is"),
    ],
)  # fmt: skip
def test_what_gearmand_would_not_take_is_never_sent(packet_type: PacketType, args: list[bytes], reason: str) -> None:
    for encode in (encode_request, encode_response):
        with pytest.raises(ProtocolError, match=reason) as caught:
            encode(packet_type, *args)
        assert str(caught.value).startswith(packet_type.name)


@pytest.mark.parametrize("name", MAX_ARGUMENT_BYTES)
def test_the_longest_argument_is_taken(name: str) -> None:
    packet_type = next(row.type for row in PACKETS.values() if name in row.arguments)
    args = sample_args(packet_type)
    args[PACKETS[packet_type].arguments.index(name)] = b"x" * MAX_ARGUMENT_BYTES[name]
    assert collect([encode_response(packet_type, *args)]) == [Packet(packet_type, args)]


def test_the_fast_ways_of_a_job_equal_the_checked_ones() -> None:
    for packet_type in (_T.WORK_COMPLETE, _T.WORK_DATA, _T.WORK_WARNING, _T.WORK_EXCEPTION):
        assert encode_work(packet_type, b"H:1", b"a\0b") == encode_request(packet_type, b"H:1", b"a\0b")
        assert encode_work(packet_type, b"H:1", b"") == encode_request(packet_type, b"H:1", b"")
    assert encode_work_fail(b"H:1") == encode_request(_T.WORK_FAIL, b"H:1")


def test_a_body_over_the_protocols_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 1000)
    with pytest.raises(ProtocolError, match="a body of 1002 bytes; the protocol's limit is 1000"):
        encode_request(_T.SUBMIT_JOB, b"t", b"u", b"x" * 998)
