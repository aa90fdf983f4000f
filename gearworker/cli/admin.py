"""``status``, ``workers``, ``jobs``, ``cancel``, ``maxqueue`` and ``version``: the admin commands of job servers.

Each asks every job server that it is given. One that doesn't answer has its say on stderr and in the exit code, and the
answers of the others are shown all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from gearworker.cli.check import json_option
from gearworker.cli.job_servers import job_servers_option, silence_log
from gearworker.errors import GearmanError
from gearworker.version import __version__

if TYPE_CHECKING:
    from gearworker.client.admin import GearmanAdminClient

Row = dict[str, Any]


@click.command()
@job_servers_option
@json_option
def status(job_servers: list[str], as_json: bool) -> None:
    """List the tasks: jobs that wait and run, and their workers."""

    def ask(client: GearmanAdminClient) -> Iterable[Row]:
        for row in sorted(client.get_status(), key=lambda row: str(row["task"])):
            total, running = row["queued"], row["running"]
            yield {
                "task": row["task"],
                "waiting": max(0, total - running),
                "running": running,
                "workers": row["workers"],
            }

    _list(job_servers, as_json, ("task", "waiting", "running", "workers"), ask)


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Show connections without tasks too: clients, and this command.")
@job_servers_option
@json_option
def workers(show_all: bool, job_servers: list[str], as_json: bool) -> None:
    """List the workers' connections with their tasks."""

    def ask(client: GearmanAdminClient) -> Iterable[Row]:
        for row in client.get_workers():
            if row["tasks"] or show_all:
                yield {"client_id": row["client_id"], "ip": row["ip"], "tasks": list(row["tasks"])}

    _list(job_servers, as_json, ("client_id", "ip", "tasks"), ask)


@click.command()
@job_servers_option
@json_option
def jobs(job_servers: list[str], as_json: bool) -> None:
    """List the jobs, waiting and running. "Ignored" ones were cancelled or left by their clients."""
    _list(job_servers, as_json, ("handle", "retries", "ignored", "background"), lambda client: client.get_jobs())


@click.command(short_help="Cancel a job.")
@click.argument("handle")
@job_servers_option
@json_option
def cancel(handle: str, job_servers: list[str], as_json: bool) -> None:
    """Cancel the job HANDLE: waiting, it is never run; of a running one the clients hear that it failed."""
    if len(job_servers) > 1:
        raise click.UsageError("a handle belongs to one job server; name one with --job-server")

    def ask(client: GearmanAdminClient) -> Iterable[Row]:
        client.cancel_job(handle)
        yield {"handle": handle, "cancelled": True}

    _say(job_servers, as_json, f"cancelled {handle}", ask)


@click.command()
@click.argument("task")
@click.argument("size", metavar="N", type=click.IntRange(0))
@job_servers_option
@json_option
def maxqueue(task: str, size: int, job_servers: list[str], as_json: bool) -> None:
    """Refuse jobs of TASK while N of them wait or run; 0 is no limit.

    A job server that has never heard of TASK takes no limit for it, and says nothing.
    """

    def ask(client: GearmanAdminClient) -> Iterable[Row]:
        client.send_maxqueue(task, size)
        yield {"task": task, "max_jobs": size}

    _say(job_servers, as_json, f"{task}: {f'at most {size} jobs' if size else 'no limit'}", ask)


@click.command()
@job_servers_option
@json_option
def version(job_servers: list[str], as_json: bool) -> None:
    """Show the versions of gearworker and of the job servers."""
    from gearworker.cli.output import print_json
    from gearworker.logs import escape

    rows, error = _ask_all(job_servers, lambda client: [{"version": client.get_version()}])
    if as_json:
        print_json({"gearworker": __version__, "job_servers": {row["job_server"]: row["version"] for row in rows}})
    else:
        click.echo(f"gearworker {__version__}")
        for row in rows:
            click.echo(f"{row['job_server']} {escape(row['version'])}")
    if error is not None:
        raise error


COMMANDS = (status, workers, jobs, cancel, maxqueue, version)


def _ask_all(
    job_servers: list[str], ask: Callable[[GearmanAdminClient], Iterable[Row]]
) -> tuple[list[Row], GearmanError | None]:
    """The rows of every job server, each with its ``job_server``; the last error, the ones before it being shown."""
    from gearworker.client.admin import GearmanAdminClient
    from gearworker.logs import escape

    silence_log()
    rows: list[Row] = []
    last: GearmanError | None = None
    for job_server in job_servers:
        try:
            with GearmanAdminClient(job_server) as client:
                rows.extend({"job_server": str(client.address), **row} for row in ask(client))
        except GearmanError as error:
            if last is not None:
                click.echo(f"gearworker: {escape(str(last))}", err=True)
            last = error
    return rows, last


def _list(
    job_servers: list[str],
    as_json: bool,
    columns: Sequence[str],
    ask: Callable[[GearmanAdminClient], Iterable[Row]],
) -> None:
    """Show the rows; whose they are only where several job servers were asked."""
    from gearworker.cli.output import print_json, print_table

    rows, error = _ask_all(job_servers, ask)
    if as_json:
        print_json(rows)
    elif rows or error is None:
        shown = ("job_server", *columns) if len(job_servers) > 1 else columns
        headings = [column.upper().replace("_", " ") for column in shown]
        print_table(headings, [[_cell(row[column]) for column in shown] for row in rows])
    if error is not None:
        raise error


def _say(job_servers: list[str], as_json: bool, text: str, ask: Callable[[GearmanAdminClient], Iterable[Row]]) -> None:
    from gearworker.cli.output import print_json
    from gearworker.logs import escape

    rows, error = _ask_all(job_servers, ask)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(escape(f"{row['job_server']}: {text}" if len(job_servers) > 1 else text))
    if error is not None:
        raise error


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(value) if isinstance(value, list) else value
