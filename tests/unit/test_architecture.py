"""The plan of the house, as data, held against the code: floors, direction of imports, purity, documentation.

``FLOORS`` lists every module, lowest first. A module imports only from modules listed above it here, so there can be no
cycle. Imports under ``if TYPE_CHECKING:`` are for names in annotations and are left out, because nothing is executed.
Imports inside functions count like all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gearworker"

FLOORS: dict[str, list[str]] = {
    "0 words": ["version", "errors"],
    "1 protocol": [
        "protocol", "protocol.packets", "protocol.codec", "protocol.text", "protocol.worker", "protocol.client",
        "protocol.queue", "protocol.server_text", "protocol.server",
    ],
    "2 users' words": ["encoders", "request", "job", "task", "middleware", "config_source", "config"],
    "3 net": ["net", "net.address", "net.backoff", "net.connection"],
    "4 roles": [
        "worker", "worker.pool", "worker.runner", "worker.heartbeat", "worker.thread_updates", "worker.session",
        "worker.link", "worker.worker",
        "client.updates", "client.waiting", "client.hub", "client.link", "client.admin", "client.uniques",
        "client.exchange", "client.submission", "client.streams", "client.client", "client",
        "gearman_shift", "gearman_worker", "queues", "jobserver", "counts", "metrics",
        "http", "http.page", "http.app", "http.server", "testing", "pytest_plugin",
    ],
    "5 process": [
        "patching", "logs", "systemd",
        "service", "service.assembly", "service.stopping", "service.single", "service.channel",
        "service.child", "service.process", "service.fleet", "service.recycling", "service.starts",
        "service.supervisor", "service.announcer", "service.exposition", "service.main",
    ],
    "6 door": [
        "", "cli.output", "cli.app", "cli.check", "cli.job_servers", "cli.admin", "cli.submit", "cli.watch", "cli.run",
        "cli.server", "cli", "__main__", "compat.constants", "compat.errors", "compat.job", "compat.connection_manager",
        "compat.client", "compat.worker", "compat.admin_client", "compat",
    ],
    "7 demo, as a user would write it": [
        "demo", "demo.tasks", "demo.pictures", "demo.service", "demo.figures", "demo.acts", "demo.__main__",
    ],
}  # fmt: skip

ORDER = {module: place for place, module in enumerate(name for floor in FLOORS.values() for name in floor)}

UPWARDS: set[tuple[str, str]] = set()
"""(importer, imported) pairs that run upwards all the same, each with its reason in the importer."""

IMPURE = {
    "asyncio", "gevent", "greenlet", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading",
    "time",
}  # fmt: skip
"""What floors 0 to 2 know nothing of: sockets, clocks, greenlets, threads, processes."""

KNOWS_SOCKETS = {"net.connection", "jobserver", "systemd", "service.child", "service.process"}
"""Besides the net floor: the embedded job server, which listens, and the talk between processes."""

KNOWS_THE_HOUR = {
    "client.link", "client.exchange",  # a status's time_received, as python-gearman's users know it
    "http.app",  # since when a job runs, as a person reads it
    "jobserver",  # epoch jobs fall due by the calendar
}  # fmt: skip
"""Modules that read the wall clock, which jumps; all the others measure by monotonic clocks."""

MAX_LINES = 400


def module_of(path: Path) -> str:
    """A file's module, without the package's name: "" is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, str]:
    return {module_of(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module])


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that can be executed, leaving out what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from statements(other)
            continue
        yield child
        yield from statements(child)


def imported(module: str) -> Iterator[str]:
    """The full names of what a module imports; of the package itself, the modules meant."""
    for node in statements(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("gearworker.") in sources() else node.module


def imported_here(module: str) -> set[str]:
    found = {name for name in imported(module) if name.split(".")[0] == "gearworker"}
    return {name.removeprefix("gearworker").removeprefix(".") for name in found}


def floor_of(module: str) -> int:
    return next(int(floor[0]) for floor, modules in FLOORS.items() if module in modules)


def test_every_module_is_in_the_table_and_every_entry_is_a_module() -> None:
    listed = [module for modules in FLOORS.values() for module in modules]
    assert len(listed) == len(set(listed))
    assert set(sources()) - set(listed) == set(), "modules without a floor"
    assert set(listed) - set(sources()) == set(), "entries without a module"


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_downwards_only(module: str) -> None:
    upwards = {name for name in imported_here(module) if ORDER[name] >= ORDER[module] and name != module}
    assert {(module, name) for name in upwards} <= UPWARDS


def test_the_exceptions_are_still_needed() -> None:
    assert {(module, name) for module, name in UPWARDS if name not in imported_here(module)} == set()


@pytest.mark.parametrize("module", [module for module in ORDER if floor_of(module) <= 2])
def test_the_lower_floors_know_no_socket_clock_or_greenlet(module: str) -> None:
    assert {name for name in imported(module) if name.split(".")[0] in IMPURE} == set()


@pytest.mark.parametrize("module", [module for module in ORDER if 3 <= floor_of(module) <= 5])
def test_only_the_net_floor_and_those_that_listen_know_sockets(module: str) -> None:
    sockets = {
        name for name in imported(module)
        if name.split(".")[0] in {"socket", "ssl"} or name in {"gevent.socket", "gevent.ssl", "gevent.server"}
    }  # fmt: skip
    assert not sockets or module in KNOWS_SOCKETS


@pytest.mark.parametrize("module", ORDER)
def test_only_a_few_modules_read_the_wall_clock(module: str) -> None:
    nodes = list(statements(tree(module)))
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    if any(isinstance(node, ast.ImportFrom) and node.module == "time" for node in nodes):
        called = {f"time.{name}" for name in called}
    assert bool(called & {"time.time", "datetime.now", "datetime.datetime.now"}) == (module in KNOWS_THE_HOUR)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_is_short_enough_to_be_read(module: str) -> None:
    assert sources()[module].count("\n") <= MAX_LINES


# ---------------------------------------------------------------------- documentation

_Definition = ast.FunctionDef | ast.ClassDef


@pytest.mark.parametrize("module", ORDER)
def test_a_module_says_what_lives_there(module: str) -> None:
    assert ast.get_docstring(tree(module))


@pytest.mark.parametrize("module", ORDER)
def test_what_is_public_is_documented(module: str) -> None:
    missing = [name for name, node in public(tree(module), "") if not ast.get_docstring(node)]
    assert missing == []


def public(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, _Definition]]:
    """Public functions, classes and methods, without overloads and without overrides of what is documented above."""
    for node in parent.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef) and (
            any(ast.unparse(decorator).endswith(("overload", ".setter")) for decorator in node.decorator_list)
            or (isinstance(parent, ast.ClassDef) and overrides(parent, node.name))
        ):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public(node, f"{prefix}{node.name}.")


_PLAIN_BASES = {"Protocol", "Generic", "Struct", "NamedTuple", "Exception", "IntEnum", "Enum", "Flag", "object"}


def overrides(owner: ast.ClassDef, method: str) -> bool:
    """Whether a class of ours above has this method documented, or a class that is not ours may have it."""
    for base in owner.bases:
        name = ast.unparse(base).split("[")[0].split(".")[-1]
        above = classes().get(name)
        if above is None and name not in _PLAIN_BASES:
            return True
        if above is not None and (method in documented(above) or overrides(above, method)):
            return True
    return False


def documented(node: ast.ClassDef) -> set[str]:
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef) and ast.get_docstring(item)}


@cache
def classes() -> dict[str, ast.ClassDef]:
    return {
        node.name: node for module in sources() for node in ast.walk(tree(module)) if isinstance(node, ast.ClassDef)
    }
