"""Log lines: one record a line whatever it holds, JSON fields, and the limit on repetitions."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from gearworker.logs import (
    MAX_EXCEPTION_CHARS,
    MAX_MESSAGE_CHARS,
    JSONFormatter,
    LogHandler,
    RateLimit,
    TextFormatter,
    configure_logging,
    escape,
)

HOSTILE = "a\n2026-01-01 00:00:00 ERROR forged\r\x1b[31m\x00\x7f\x85\u2028\u202e\ud800\tü"


def record(message: str = "hello", *args: Any, name: str = "gearworker.worker", level: int = 20, **extras: Any) -> Any:
    made = logging.LogRecord(name, level, "file.py", 1, message, args, extras.pop("exc_info", None))
    made.__dict__.update(extras)
    return made


def raised(message: str) -> Any:
    try:
        raise ValueError(message)
    except ValueError:
        return sys.exc_info()


class TestText:
    def test_line(self) -> None:
        line = TextFormatter().format(record("job %s done", "x"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    job x done", line)

    def test_a_foreign_logger_is_named(self) -> None:
        assert TextFormatter().format(record(name="myapp.tasks")).endswith(" INFO    myapp.tasks: hello")
        assert TextFormatter().format(record(name="gearworkers")).endswith(" INFO    gearworkers: hello")

    def test_extras_follow_where_the_message_lacks_them(self) -> None:
        line = TextFormatter().format(record("job of resize failed", task="resize", handle="H:a:1", unique=None))
        assert line.endswith(" job of resize failed handle=H:a:1")

    def test_colour(self) -> None:
        assert "\x1b" not in TextFormatter().format(record(level=logging.ERROR))
        assert " \x1b[31mERROR  \x1b[0m hello" in TextFormatter(colour=True).format(record(level=logging.ERROR))
        assert "\x1b" not in TextFormatter(colour=True).format(record())

    def test_nothing_forges_a_line(self) -> None:
        line = TextFormatter().format(record("%s", HOSTILE, task=HOSTILE, name=HOSTILE))
        assert len(line.splitlines()) == 1
        assert all(character.isprintable() for character in line)
        assert "\\n2026-01-01" in line
        assert line.endswith("ü")

    def test_a_traceback_follows_indented(self) -> None:
        first, *rest = TextFormatter().format(record("failed", exc_info=raised(HOSTILE))).splitlines()
        assert first.endswith(" INFO    failed")
        assert rest[0] == "    Traceback (most recent call last):"
        assert all(line.startswith("    ") for line in rest)
        assert "    2026-01-01 00:00:00 ERROR forged\\r\\x1b[31m\\x00\\x7f\\x85\\u2028\\u202e\\ud800\tü" in rest

    def test_lengths_are_bounded(self) -> None:
        assert TextFormatter().format(record("x" * 10_000)).endswith("x... (1808 characters more)")
        lines = TextFormatter().format(record(exc_info=raised("x" * 10**6)))
        assert len(lines) < MAX_EXCEPTION_CHARS + 200

    def test_arguments_that_do_not_fit(self) -> None:
        line = TextFormatter().format(record("%d of %d", "secret"))
        assert line.endswith(" %d of %d (with arguments that do not fit)")


class TestJSON:
    def test_fields(self) -> None:
        made = record("job %s", "x", level=30, task="t", handle="H:a:1", unique="u", pool="p", job_server="s", other=1)
        made.created = 1_700_000_000.5
        assert json.loads(JSONFormatter().format(made)) == {
            "time": "2023-11-14T22:13:20.500Z",
            "level": "warning",
            "logger": "gearworker.worker",
            "message": "job x",
            "pid": os.getpid(),
            "task": "t",
            "handle": "H:a:1",
            "unique": "u",
            "pool": "p",
            "job_server": "s",
        }

    def test_exception_is_text(self) -> None:
        fields = json.loads(JSONFormatter().format(record(exc_info=raised("why"))))
        assert fields["exception"].startswith("Traceback (most recent call last):\n")
        assert fields["exception"].endswith("ValueError: why")

    def test_one_record_is_one_line(self) -> None:
        line = JSONFormatter().format(record("%s", HOSTILE, task=HOSTILE, exc_info=raised(HOSTILE)))
        assert len(line.splitlines()) == 1
        assert all(character.isprintable() for character in line)
        fields = json.loads(line)
        assert fields["message"] == fields["task"] == HOSTILE.replace("\ud800", "\\ud800")

    def test_without_surrogates_text_comes_back_as_it_was(self) -> None:
        text = HOSTILE.replace("\ud800", "")
        assert json.loads(JSONFormatter().format(record("%s", text)))["message"] == text

    def test_lengths_are_bounded(self) -> None:
        made = record("x" * 10**6, task="y" * 10**6, exc_info=raised("x" * 10**6))
        assert len(JSONFormatter().format(made)) < 2 * MAX_MESSAGE_CHARS + MAX_EXCEPTION_CHARS + 500


def test_escape() -> None:
    assert escape("plain") == "plain"
    assert escape("ü ñ 漢") == "ü ñ 漢"
    assert escape("a\tb\nc\x1b\x9b") == "a\\tb\\nc\\x1b\\x9b"


class TestRateLimit:
    def test_left_out_are_counted_in_the_next(self) -> None:
        now = [100.0]
        limit = RateLimit(burst=2, interval_s=5, clock=lambda: now[0])
        assert [limit.filter(record("lost %s", n)) for n in range(10)] == [True, True] + [False] * 8
        now[0] = 104.9
        assert not limit.filter(record("lost %s", 1))
        now[0] = 105.0
        late = record("lost %s", 7)
        assert limit.filter(late)
        assert TextFormatter().format(late).endswith(" lost 7 (9 like it left out)")
        assert json.loads(JSONFormatter().format(late))["message"] == "lost 7 (9 like it left out)"
        following = record("lost %s", 8)
        assert limit.filter(following)
        assert TextFormatter().format(following).endswith(" lost 8")

    def test_kinds_are_apart(self) -> None:
        limit = RateLimit(burst=1, clock=lambda: 0.0)
        kinds: list[dict[str, Any]] = [
            {},
            {"level": 30},
            {"name": "gearworker.client"},
            {"message": "other"},
            {"task": "a"},
            {"task": "b"},
            {"job_server": "a"},
        ]
        assert [limit.filter(record(**kind)) for kind in kinds + kinds] == [True] * 7 + [False] * 7

    def test_a_record_brings_its_own_burst(self) -> None:
        limit = RateLimit(burst=20, clock=lambda: 0.0)
        assert [limit.filter(record(burst=1)) for _ in range(3)] == [True, False, False]

    def test_debug_and_foreign_loggers_are_not_limited(self) -> None:
        limit = RateLimit(burst=1, clock=lambda: 0.0)
        assert all(limit.filter(record(level=logging.DEBUG)) for _ in range(3))
        assert all(limit.filter(record(name="myapp")) for _ in range(3))

    def test_memory_is_bounded(self) -> None:
        limit = RateLimit(burst=1, clock=lambda: 0.0, max_kinds=10)
        assert all(limit.filter(record(f"{n}")) for n in range(100))
        assert len(limit._kinds) == 10


@pytest.fixture
def _restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("gearworker")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.usefixtures("_restored")
class TestConfigure:
    def test_text_of_all_loggers_from_the_level_on(self) -> None:
        stream = io.StringIO()
        configure_logging("warning", "text", stream)
        logging.getLogger("gearworker.x").info("quiet")
        logging.getLogger("gearworker.x").warning("ours")
        logging.getLogger("myapp").error("theirs")
        lines = stream.getvalue().splitlines()
        assert [line[24:] for line in lines] == ["WARNING ours", "ERROR   myapp: theirs"]

    def test_json_and_warnings(self) -> None:
        stream = io.StringIO()
        configure_logging("debug", "json", stream)
        logging.getLogger("gearworker").debug("a\nb")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        first, second = map(json.loads, stream.getvalue().splitlines())
        assert (first["message"], first["level"]) == ("a\nb", "debug")
        assert second["logger"] == "py.warnings"

    def test_a_second_call_replaces_the_first(self) -> None:
        first, second = io.StringIO(), io.StringIO()
        configure_logging(stream=first)
        configure_logging(stream=second)
        logging.getLogger("gearworker").info("once")
        assert first.getvalue() == ""
        assert second.getvalue().count("once") == 1
        assert sum(isinstance(handler, LogHandler) for handler in logging.getLogger().handlers) == 1

    def test_repetitions_are_limited(self) -> None:
        stream = io.StringIO()
        configure_logging(stream=stream)
        for number in range(100):
            logging.getLogger("gearworker").warning("again %d", number)
        assert len(stream.getvalue().splitlines()) == 20
