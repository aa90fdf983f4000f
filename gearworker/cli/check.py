"""``check`` and ``tasks``: what a configuration would run, without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gearworker.config import Config
    from gearworker.task import Task, TaskRegistry

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show the traceback of what can't be imported.")


@click.command()
@click.argument("config")
@json_option
@verbose_option
def check(config: str, as_json: bool, verbose: bool) -> None:
    """Validate CONFIG, import its tasks, say what would run."""
    loaded, registry = _load(config, verbose)
    from gearworker.cli.output import print_json, print_table

    facts = _facts(loaded, registry)
    if as_json:
        print_json(facts)
        return
    click.echo(f"{config}: fine")
    click.echo(f"job servers: {', '.join(facts['job_servers'])}")
    click.echo(f"processes: {facts['processes']}")
    click.echo(f"http: {facts['http'] or 'off'}")
    pools = facts["pools"]
    print_table(
        ("POOL", "CONCURRENCY", "TASKS"),
        [(pool["name"], pool["concurrency"], ", ".join(pool["tasks"]) or None) for pool in pools],
    )


@click.command()
@click.argument("config")
@json_option
@verbose_option
def tasks(config: str, as_json: bool, verbose: bool) -> None:
    """List the tasks of CONFIG with their options."""
    loaded, registry = _load(config, verbose)
    from gearworker.cli.output import print_json, print_table

    pools = loaded.assign_pools({task.name: task.pool for task in registry})
    pool_of = {name: pool for pool, names in pools.items() for name in names}
    rows = [_describe(task, pool_of[task.name]) for task in registry]
    if as_json:
        print_json(rows)
        return
    columns = ("task", "pool", "encoder", "timeout_s", "retries", "thread", "source")
    cells = [[{True: "yes", False: "no"}[row[c]] if c == "thread" else row[c] for c in columns] for row in rows]
    print_table([column.upper() for column in columns], cells)


def _load(config: str, verbose: bool) -> tuple[Config, TaskRegistry]:
    """Load as ``run`` does, patches included: a module that can't stand them should show it here."""
    from gearworker.patching import patch_standard_library

    patch_standard_library()

    from gearworker.cli.app import load_app

    return load_app(config, verbose=verbose)


def _facts(config: Config, registry: TaskRegistry) -> dict[str, Any]:
    from gearworker.net.address import Address

    assigned = config.assign_pools({task.name: task.pool for task in registry})
    addresses = config.addresses()
    return {
        "file": config.file,
        "job_servers": [form if form == "embedded" else str(Address.parse(form)) for form in addresses],
        "processes": config.processes,
        "http": config.http.listen if config.http else None,
        "pools": [
            {"name": name, "concurrency": config.pools[name].concurrency, "tasks": names}
            for name, names in assigned.items()
        ],
    }


def _describe(task: Task, pool: str) -> dict[str, Any]:
    return {
        "task": task.name,
        "pool": pool,
        "encoder": getattr(task.encoder, "name", None)
        or getattr(task.encoder, "__name__", type(task.encoder).__name__),
        "timeout_s": task.timeout_s,
        "retries": task.retries,
        "thread": task.thread,
        "source": task.source,
    }
