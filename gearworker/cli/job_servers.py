"""The option that says which job servers a command talks to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT = "127.0.0.1:4730"


def job_servers_option(command: F) -> F:
    """Give a command ``--job-server``, as the parameter ``job_servers``: a list of text, without doubles."""
    return click.option(
        "--job-server",
        "job_servers",
        multiple=True,
        metavar="HOST:PORT",
        envvar="GEARWORKER_JOB_SERVERS",
        callback=_split,
        help=f"Any number of them, or GEARWORKER_JOB_SERVERS, separated by commas or blanks.  [default: {DEFAULT}]",
    )(command)


def silence_log() -> None:
    """Keep the log of clients off stderr: what matters of it comes back as an error."""
    import logging

    logging.getLogger("gearworker").addHandler(logging.NullHandler())


def _split(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    parts = (part.strip() for value in values for part in value.split(","))
    return list(dict.fromkeys(part for part in parts if part)) or [DEFAULT]
