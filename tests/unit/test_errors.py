"""The error tree: as drawn in its docstring, with what each error knows."""

from __future__ import annotations

import inspect
import re

import pytest

from gearworker import errors
from gearworker.errors import (
    ConfigError,
    ConnectionLost,
    FailJob,
    GearmanConnectionError,
    GearmanError,
    JobLost,
    JobServerError,
    JobTimeout,
    UnknownCommandError,
)


def drawn() -> dict[str, str]:
    """Each error's parent, read from the drawing in the module's docstring."""
    parents, path = {}, list[str]()
    for indent, name in re.findall(r"^    ([│├└─ ]*)(\w+)\b", errors.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 4
        path[depth:] = [name]
        if depth:
            parents[name] = path[depth - 1]
    return parents


def defined() -> dict[str, type]:
    own = {name: value for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    return {name: value for name, value in own.items() if inspect.isclass(value)}


def test_the_tree_is_as_it_is_drawn() -> None:
    tree = {name: value.__bases__[0].__name__ for name, value in defined().items() if value is not GearmanError}
    assert drawn() == tree
    assert GearmanError.__base__ is Exception


def test_every_error_is_caught_by_the_root() -> None:
    assert all(issubclass(error, GearmanError) for error in defined().values())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("bad"), "bad"),
        (ConfigError("bad", file="c.yaml", key="pools.a", line=3), "c.yaml:3: pools.a: bad"),
        (ConfigError("bad", key="k"), "k: bad"),
        (ConnectionLost("h:1", "gone"), "h:1: gone"),
        (ConnectionLost(None, "gone"), "gone"),
        (JobTimeout(2.50), "the job ran longer than its limit of 2.5 s"),
        (FailJob(), ""),
        (FailJob("why"), "why"),
        (UnknownCommandError(99), "packet type 99 is unknown"),
        (JobServerError("CODE", "text", "h:1"), "h:1: CODE: text"),
        (JobServerError("CODE", ""), "CODE"),
        (JobLost("H:1", "h:1"), "h:1 no longer knows job H:1"),
        (JobLost("H:1"), "the job server no longer knows job H:1"),
    ],
)
def test_an_error_says_what_it_knows(error: GearmanError, text: str) -> None:
    assert str(error) == text


def test_an_error_carries_what_it_knows() -> None:
    config = ConfigError("bad", file="c.yaml", key="k", line=3)
    assert (config.reason, config.file, config.key, config.line) == ("bad", "c.yaml", "k", 3)
    connection = GearmanConnectionError("h:1", "why")
    assert (connection.address, connection.reason) == ("h:1", "why")
    server = JobServerError("C", "t", "h:1")
    assert (server.code, server.text, server.address) == ("C", "t", "h:1")
    assert (JobLost("H", "h:1").handle, JobLost("H", "h:1").address) == ("H", "h:1")
    assert (FailJob("r").reason, JobTimeout(3).timeout_s, UnknownCommandError(7).number) == ("r", 3, 7)
