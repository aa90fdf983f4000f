"""Tables and JSON on stdout."""

from __future__ import annotations

import io
import json

import pytest

from gearworker.cli.output import print_json, print_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("TASK", "JOBS", "NOTE"), [("resize", 12, None), ("a\n\x1b[31mb", 3, "x")])
    assert capsys.readouterr().out.splitlines() == [
        "TASK          JOBS  NOTE",
        "resize          12  -",
        r"a\n\x1b[31mb     3  x",
    ]


def test_without_rows_the_columns_stand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("TASK", "JOBS"), [])
    assert capsys.readouterr().out == "TASK  JOBS\n"


def test_on_a_terminal_markup_of_strangers_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    print_table(("TASK", "JOBS"), [("[bold]a[/bold]\x1b]0;title\x07", 1)])
    printed = terminal.getvalue()
    assert r"[bold]a[/bold]\x1b]0;title\x07" in printed
    assert "\x07" not in printed


def test_json_is_ascii_and_takes_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    value = [{"task": "ü\x1b\udcff", "jobs": 1}]
    print_json(value)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "\x1b" not in printed
    assert json.loads(printed) == value
