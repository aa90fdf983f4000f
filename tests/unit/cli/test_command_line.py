"""Exit codes and paragraphs for errors; what a start of the program imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

import gearworker
from gearworker.cli import cli, exit_code, run_command_line
from gearworker.errors import (
    ConfigError,
    ConnectionLost,
    ExceededConnectionAttempts,
    GearmanError,
    JobLost,
    JobServerError,
    JobTimeout,
    PayloadError,
    ServerUnavailable,
    TaskError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (TaskError("x"), 2),
        (PayloadError("x"), 2),
        (JobTimeout(1), 3),
        (ServerUnavailable("a:1", "x"), 4),
        (ConnectionLost("a:1", "x"), 4),
        (ExceededConnectionAttempts("a:1", "x"), 4),
        (JobLost("H:a:1"), 1),
        (JobServerError("QUEUE_ERROR", "x"), 1),
        (GearmanError("x"), 1),
    ],
)
def test_exit_codes(error: GearmanError, code: int) -> None:
    assert exit_code(error) == code


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    @click.command()
    def breaks() -> None:
        raise error

    monkeypatch.setitem(cli.commands, "breaks", breaks)
    return run_command_line(["breaks"])


def test_an_error_is_one_paragraph(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(ServerUnavailable("a:1", "re\nfused\x1b[31m"), monkeypatch) == 4
    assert capsys.readouterr() == ("", "gearworker: a:1: re\\nfused\\x1b[31m\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_quiet(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(error, monkeypatch) == 130
    printed = capsys.readouterr()
    assert (printed.out.strip(), printed.err.strip()) == ("", "")


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_raising(ZeroDivisionError(), monkeypatch)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["--version"]) == 0
    assert capsys.readouterr().out == f"gearworker {gearworker.__version__}\n"


@pytest.mark.parametrize("args", [["--help"], *([name, "--help"] for name in cli.commands)])
def test_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(args) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Usage: gearworker ")
    assert max(map(len, printed.splitlines())) <= 100


def test_help_imports_nothing_heavy() -> None:
    heavy = ("gevent", "rich", "yaml", "prometheus_client", "socket", "ssl", "asyncio")
    program = (
        "import sys; from gearworker.cli import run_command_line; run_command_line(['--help']); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    root = Path(gearworker.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_public_names_are_all_there() -> None:
    for name in gearworker.__all__:
        assert getattr(gearworker, name) is not None or name == "PRIORITY_NONE"
        assert name in dir(gearworker)
    assert callable(gearworker.task)
    with pytest.raises(AttributeError, match=r"^module 'gearworker' has no attribute 'nothing'$"):
        _ = gearworker.nothing  # type: ignore[attr-defined]
