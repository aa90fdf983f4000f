"""Encoders: every kind of object and payload, and the reasons for what they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from gearworker.encoders import (
    BYTES,
    TEXT,
    BytesEncoder,
    DataEncoder,
    JSONEncoder,
    MessagePackEncoder,
    find_encoder,
)
from gearworker.errors import PayloadError


class Point(msgspec.Struct):
    x: int


@dataclass
class Named:
    name: str


def nested(depth: int) -> list[Any]:
    whole: list[Any] = []
    for _ in range(depth):
        whole = [whole]
    return whole


@pytest.mark.parametrize(
    ("obj", "data"),
    [
        (b"raw\0", b"raw\0"),
        (None, b""),
        ("größe", "größe".encode()),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
    ],
)
@pytest.mark.parametrize("encoder", [BYTES, TEXT, DataEncoder])
def test_bytes_and_text_become_bytes(encoder: Any, obj: Any, data: bytes) -> None:
    encoded = encoder.encode(obj)
    assert encoded == data
    assert type(encoded) is bytes


def test_a_subclass_of_bytes_becomes_plain_bytes() -> None:
    class Mine(bytes):
        pass

    assert type(BYTES.encode(Mine(b"x"))) is bytes


@pytest.mark.parametrize("obj", [1, 1.5, {"a": 1}, [b"x"], object()])
def test_other_objects_are_no_bytes(obj: Any) -> None:
    with pytest.raises(PayloadError, match=f"can't send {type(obj).__name__} as bytes"):
        BYTES.encode(obj)


def test_text_that_utf8_cannot_carry_is_a_payload_error() -> None:
    with pytest.raises(PayloadError, match=r"can't send this text as UTF-8: .*surrogates not allowed"):
        TEXT.encode("\ud800")


def test_bytes_are_given_back_and_text_is_decoded() -> None:
    assert BYTES.decode(b"\xff") == b"\xff"
    assert TEXT.decode("größe".encode()) == "größe"
    assert DataEncoder.decode(b"\xff") == b"\xff"
    with pytest.raises(PayloadError, match="not UTF-8 text: 'utf-8' codec can't decode byte 0xff in position 0"):
        TEXT.decode(b"\xff")


@pytest.mark.parametrize("encoder", [JSONEncoder(), MessagePackEncoder()], ids=["json", "msgpack"])
@pytest.mark.parametrize("obj", [{"a": [1, 2.5, None, True, "ü"]}, [], "text", 0, False])
def test_structures_round_trip(encoder: Any, obj: Any) -> None:
    assert encoder.decode(encoder.encode(obj)) == obj


@pytest.mark.parametrize("encoder", [JSONEncoder(), MessagePackEncoder()], ids=["json", "msgpack"])
class TestStructured:
    def test_bytes_count_as_encoded_and_none_is_empty(self, encoder: Any) -> None:
        assert encoder.encode(b"as it is") == b"as it is"
        assert encoder.encode(None) == b""
        assert encoder.decode(b"") is None

    def test_what_has_no_such_encoding_is_refused(self, encoder: Any) -> None:
        with pytest.raises(PayloadError, match=f"can't encode object as {encoder.name}"):
            encoder.encode(object())

    def test_nesting_without_end_is_refused(self, encoder: Any) -> None:
        with pytest.raises(PayloadError, match=f"can't encode list as {encoder.name}"):
            encoder.encode(nested(100_000))
        with pytest.raises(PayloadError, match=f"not the {encoder.name} expected"):
            encoder.decode(b"[" * 100_000 if encoder.name == "json" else b"\x91" * 100_000)

    def test_malformed_bytes_are_refused_with_the_reason(self, encoder: Any) -> None:
        with pytest.raises(PayloadError, match=f"the payload is not the {encoder.name} expected: "):
            encoder.decode(b"{" if encoder.name == "json" else b"\xc1")


def test_a_payload_type_is_decoded_to_and_checked() -> None:
    assert JSONEncoder(Point).decode(b'{"x":1}') == Point(1)
    assert JSONEncoder(Named).decode(b'{"name":"n"}') == Named("n")
    assert MessagePackEncoder(Point).decode(MessagePackEncoder().encode({"x": 2})) == Point(2)
    with pytest.raises(PayloadError, match=r"Expected `int`, got `str` - at `\$.x`"):
        JSONEncoder(Point).decode(b'{"x":"one"}')
    with pytest.raises(PayloadError, match="Expected `object`, got `null`"):
        JSONEncoder(Point).decode(b"")


@pytest.mark.parametrize(
    ("asked", "payload", "found"),
    [
        (None, None, BytesEncoder),
        ("bytes", None, BytesEncoder),
        ("text", None, type(TEXT)),
        ("json", None, JSONEncoder),
        ("json", Point, JSONEncoder),
        (None, Point, JSONEncoder),
        ("msgpack", Point, MessagePackEncoder),
    ],
)
def test_an_encoder_is_found_by_name(asked: Any, payload: Any, found: type) -> None:
    assert type(find_encoder(asked, payload)) is found


def test_objects_and_classes_serve_as_encoders() -> None:
    class Mine(DataEncoder):
        pass

    own = BytesEncoder()
    assert find_encoder(own) is own
    assert find_encoder(Mine) is Mine


@pytest.mark.parametrize(
    ("asked", "payload", "reason"),
    [
        ("yaml", None, "no encoder 'yaml'; there are bytes, text, json and msgpack"),
        (5, None, "5 is no encoder: it needs encode"),
        ("text", Point, "a payload type goes with the encoders json and msgpack, not with 'text'"),
        (BYTES, Point, "a payload type goes with"),
    ],
)
def test_what_is_no_encoder_is_refused(asked: Any, payload: Any, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        find_encoder(asked, payload)
