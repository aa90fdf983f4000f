"""Logging: lines for people or JSON objects for machines, one record a line, repetitions counted instead of written.

Whatever a record holds (a task's name, an exception's text) may come from a stranger: control characters are escaped,
lengths are bounded, and what follows a text line, such as a traceback, is indented, so that nothing can pass for a
record of its own. Records carry what they are about as extras: ``log.warning("...", extra={"task": name})``.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Final, Literal, TextIO

import msgspec

LOGGER: Final = "gearworker"
EXTRAS: Final = ("task", "handle", "unique", "pool", "job_server")
"""What a record may say of its job; in JSON they are keys, in text they follow the message where it lacks them."""

MAX_MESSAGE_CHARS: Final = 8 * 1024
MAX_EXCEPTION_CHARS: Final = 64 * 1024

_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in (*_CONTROLS, *range(0xD800, 0xE000))
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_LINE_ESCAPES: Final = {code: text for code, text in _ESCAPES.items() if code not in (ord("\n"), ord("\t"))}
_JSON_ESCAPES: Final = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 0x7F}
_SURROGATES: Final = {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}
_COLOURS: Final = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[31;1m",
}


def escape(text: str) -> str:
    """A text on one line, for terminals and logs: control characters, line ends and the like as backslash escapes."""
    return text if text.isascii() and text.isprintable() else text.translate(_ESCAPES)


def _bounded(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} characters more)"


def _message(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # a wrong format string must not cost the record; its arguments stay out
        message = f"{record.msg} (with arguments that do not fit)"
    left_out = getattr(record, "left_out", 0)
    return _bounded(message, MAX_MESSAGE_CHARS) + (f" ({left_out} like it left out)" if left_out else "")


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else [record.exc_text or ""]
    if record.stack_info:
        parts.append(record.stack_info)
    return _bounded("\n".join(part for part in parts if part), MAX_EXCEPTION_CHARS)


def _stack(record: logging.LogRecord) -> str:
    """The stack, or several, that a record shows: ``extra={"stack": text}``."""
    return _bounded(str(getattr(record, "stack", "")), MAX_EXCEPTION_CHARS)


class TextFormatter(logging.Formatter):
    """Time, level and message on one line; a traceback follows, indented.

    Args:
        colour: whether levels from warning on stand out in colour.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, and below it what it carries of a traceback."""
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        message = escape(_message(record))
        if record.name.partition(".")[0] != LOGGER:
            message = f"{escape(record.name)}: {message}"
        extras = ((name, getattr(record, name, None)) for name in EXTRAS)
        shown = ((name, escape(_bounded(str(value), 255))) for name, value in extras if value is not None)
        message += "".join(f" {name}={value}" for name, value in shown if value not in message)
        start, end = (_COLOURS.get(record.levelno, ""), "\x1b[0m") if self._colour else ("", "")
        level = f"{start}{record.levelname:<7}{end if start else ''}"
        line = f"{clock}.{int(record.msecs):03d} {level} {message}"
        below = "\n".join(part for part in (_exception(self, record), _stack(record)) if part).translate(_LINE_ESCAPES)
        return line + "".join(f"\n    {part}" for part in below.split("\n")) if below else line


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, pid, the extras, exception and stack as text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, without a line end."""
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        fields: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "pid": record.process,
        }
        for name in EXTRAS:
            value = getattr(record, name, None)
            if value is not None:
                fields[name] = _bounded(str(value), MAX_MESSAGE_CHARS)
        exception = _exception(self, record)
        if exception:
            fields["exception"] = exception
        if stack := _stack(record):
            fields["stack"] = stack
        return _encode(fields).translate(_JSON_ESCAPES)


def _encode(fields: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(fields).decode()
    except UnicodeEncodeError:  # lone surrogates have no UTF-8
        plain = {key: value.translate(_SURROGATES) if type(value) is str else value for key, value in fields.items()}
        return msgspec.json.encode(plain).decode()


class RateLimit(logging.Filter):
    """Lets ``burst`` records of one kind pass in ``interval_s``; the next one after that tells how many were left out.

    Of one kind are records of one logger with the same level, message template, task and job server. Only
    gearworker's own loggers are limited, and never their debug records.

    Args:
        burst: how many pass; a record's own ``extra={"burst": 1}`` goes before it.
        interval_s: in how many seconds.
        clock: a monotonic clock.
        max_kinds: how many kinds are remembered; the one that came first is forgotten for a further one.
    """

    def __init__(
        self,
        burst: int = 20,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        max_kinds: int = 1000,
    ) -> None:
        super().__init__()
        self._burst, self._interval_s, self._clock, self._max_kinds = burst, interval_s, clock, max_kinds
        self._kinds: dict[tuple[object, ...], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes."""
        if record.levelno <= logging.DEBUG or record.name.partition(".")[0] != LOGGER:
            return True
        now = self._clock()
        of_whom = getattr(record, "task", None), getattr(record, "job_server", None)
        kind = self._kind((record.name, record.levelno, str(record.msg), *of_whom), now)
        if now - kind.since >= self._interval_s:
            kind.since, kind.passed = now, 0
        if kind.passed >= getattr(record, "burst", self._burst):
            kind.left_out += 1
            return False
        record.left_out, kind.left_out = kind.left_out, 0
        kind.passed += 1
        return True

    def _kind(self, key: tuple[object, ...], now: float) -> _Kind:
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= self._max_kinds:
                del self._kinds[next(iter(self._kinds))]
            kind = self._kinds[key] = _Kind(now)
        return kind


class _Kind:
    __slots__ = ("left_out", "passed", "since")

    def __init__(self, since: float) -> None:
        self.since, self.passed, self.left_out = since, 0, 0


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it takes none at run time before 3.11
    """The handler that ``configure_logging`` installs, and by which it knows its own."""


def configure_logging(
    level: str = "info", format: Literal["text", "json"] = "text", stream: TextIO | None = None
) -> None:
    """Send the log of the whole process to one stream. A second call replaces what the first one set.

    Args:
        level: "debug", "info", "warning" or "error".
        format: "text" or "json".
        stream: stderr by default.
    """
    stream = sys.stderr if stream is None else stream
    handler = LogHandler(stream)
    handler.setFormatter(JSONFormatter() if format == "json" else TextFormatter(colour=stream.isatty()))
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, LogHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger(LOGGER).setLevel(level.upper())
    logging.captureWarnings(True)
