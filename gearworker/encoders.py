"""Encoders: a payload's way from Python objects to bytes and back.

An encoder is anything with ``encode(obj) -> bytes`` and ``decode(bytes) -> obj``. Bytes given to ``encode`` count as
encoded already and pass as they are, and None is the empty payload, so a handler may always return either.
Errors of an encoder are ``PayloadError`` with the reason, never a traceback of the library behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec

from gearworker.errors import PayloadError


class Encoder(Protocol):
    """What a task or client needs of an encoder. A python-gearman DataEncoder subclass is one as well."""

    def encode(self, obj: Any, /) -> bytes:
        """Turn an object into bytes."""

    def decode(self, data: bytes, /) -> Any:
        """Turn bytes into an object."""


class BytesEncoder:
    """Bytes as they are; text is sent as UTF-8."""

    name = "bytes"

    def encode(self, obj: Any, /) -> bytes:
        """Take bytes, a bytearray or memoryview, text or None.

        Raises:
            PayloadError: for any other type, and for text that UTF-8 can't carry.
        """
        if type(obj) is bytes:
            return obj
        if obj is None:
            return b""
        if isinstance(obj, str):
            return _utf8(obj)
        if isinstance(obj, (bytes, bytearray, memoryview)):
            return bytes(obj)
        raise PayloadError(f"can't send {type(obj).__name__} as bytes; return bytes, or give the task an encoder")

    def decode(self, data: bytes, /) -> Any:
        """Give the bytes back."""
        return data


class TextEncoder(BytesEncoder):
    """Text as UTF-8."""

    name = "text"

    def decode(self, data: bytes, /) -> Any:
        """Decode UTF-8.

        Raises:
            PayloadError: the bytes are not UTF-8.
        """
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise PayloadError(f"the payload is not UTF-8 text: {error}") from None


class _StructuredEncoder:
    """A msgspec encoder and decoder, untyped or for one type."""

    name: str

    def __init__(self, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
        self._encode, self._decode = encode, decode

    def encode(self, obj: Any, /) -> bytes:
        """Take what msgspec can encode; bytes count as encoded already, None is empty.

        Raises:
            PayloadError: for an object that has no such encoding.
        """
        if type(obj) is bytes:
            return obj
        if obj is None:
            return b""
        try:
            return self._encode(obj)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise PayloadError(f"can't encode {type(obj).__name__} as {self.name}: {error}") from None

    def decode(self, data: bytes, /) -> Any:
        """Decode, and where the encoder has a type, check against it. Empty bytes are None.

        Raises:
            PayloadError: the bytes are malformed or don't fit the type; the reason names the place.
        """
        if not data:
            data = self._empty
        try:
            return self._decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise PayloadError(f"the payload is not the {self.name} expected: {error}") from None

    _empty: bytes


class JSONEncoder(_StructuredEncoder):
    """JSON through msgspec.

    Args:
        type: what to decode to, such as a ``msgspec.Struct`` or dataclass; by default plain dicts, lists and scalars.
    """

    name = "json"
    _empty = b"null"

    def __init__(self, type: Any = Any) -> None:
        super().__init__(msgspec.json.Encoder().encode, msgspec.json.Decoder(type).decode)


class MessagePackEncoder(_StructuredEncoder):
    """MessagePack through msgspec.

    Args:
        type: what to decode to, such as a ``msgspec.Struct`` or dataclass; by default plain dicts, lists and scalars.
    """

    name = "msgpack"
    _empty = b"\xc0"

    def __init__(self, type: Any = Any) -> None:
        super().__init__(msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(type).decode)


class DataEncoder:
    """python-gearman's base class: subclass it and override the two classmethods."""

    @classmethod
    def encode(cls, encodable_object: Any) -> bytes:
        """Turn an object into bytes."""
        return BYTES.encode(encodable_object)

    @classmethod
    def decode(cls, decodable_string: bytes) -> Any:
        """Turn bytes into an object."""
        return BYTES.decode(decodable_string)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise PayloadError(f"can't send this text as UTF-8: {error}") from None


BYTES = BytesEncoder()
TEXT = TextEncoder()


def find_encoder(encoder: str | Encoder | type[Encoder] | None, payload: Any = None) -> Encoder:
    """The encoder that a task's options ask for.

    Args:
        encoder: "bytes", "text", "json", "msgpack", or an encoder; None is bytes, or JSON where a payload type is
            given.
        payload: the type that a JSON or MessagePack payload must have; None for any.

    Raises:
        PayloadError: no such encoder, or one that can't take a payload type.
    """
    if encoder in ("json", "msgpack") or (encoder is None and payload is not None):
        structured = MessagePackEncoder if encoder == "msgpack" else JSONEncoder
        return structured(Any if payload is None else payload)
    if payload is not None:
        raise PayloadError(f"a payload type goes with the encoders json and msgpack, not with {encoder!r}")
    if encoder is None or isinstance(encoder, str):
        try:
            return {None: BYTES, "bytes": BYTES, "text": TEXT}[encoder]
        except KeyError:
            raise PayloadError(f"no encoder {encoder!r}; there are bytes, text, json and msgpack") from None
    if not callable(getattr(encoder, "encode", None)) or not callable(getattr(encoder, "decode", None)):
        raise PayloadError(f"{encoder!r} is no encoder: it needs encode(obj) and decode(bytes)")
    return cast(Encoder, encoder)
