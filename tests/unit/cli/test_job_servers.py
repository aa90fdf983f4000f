"""The --job-server option."""

from __future__ import annotations

import click
import pytest

from gearworker.cli.job_servers import job_servers_option


@click.command()
@job_servers_option
def show(job_servers: list[str]) -> list[str]:
    return job_servers


@pytest.mark.parametrize(
    ("args", "variable", "expected"),
    [
        ([], None, ["127.0.0.1:4730"]),
        ([], "", ["127.0.0.1:4730"]),
        ([], "a:1, b:2,c", ["a:1", "b:2", "c"]),
        ([], " a:1 a:1 ", ["a:1"]),
        (["--job-server", "x", "--job-server", "y,x"], "a:1", ["x", "y"]),
    ],
)
def test_where_job_servers_come_from(
    args: list[str], variable: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEARWORKER_JOB_SERVERS", raising=False)
    if variable is not None:
        monkeypatch.setenv("GEARWORKER_JOB_SERVERS", variable)
    assert show.main(args, standalone_mode=False) == expected
