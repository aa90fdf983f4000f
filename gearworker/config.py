"""The configuration: what a config.yaml may say, checked, with every default.

Each section is a frozen struct whose fields are the file's keys. Rules that a type can't say stand in the structs'
``__post_init__`` and raise ``ConfigError`` with the guilty key; ``parse_config`` adds file and line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gearworker.config_source import SIZE, build, line_of, read_file, read_source
from gearworker.errors import ConfigError

MIB: Final = 1024 * 1024
DEFAULT_POOL: Final = "default"
MAX_CLIENT_ID_BYTES: Final = 127

_MAX_SECONDS: Final = 10_000_000
_MAX_SIZE: Final = 2**62
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_TASK_NAME_PART: Final = re.compile(r"[A-Za-z0-9_.:/@-]{0,200}", re.ASCII)
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s:\[\]/%@]+)(?::(\d{1,5}))?", re.ASCII)
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")

Text = Annotated[str, Meta(min_length=1, max_length=4096, description="text")]
AnyText = Annotated[str, Meta(max_length=4096, description="text")]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port from 1 to 65535")]
Count = Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")]
CountOrOff = Annotated[int, Meta(ge=0, le=2**53, description="a whole number; 0 is off")]
Seconds = Annotated[float, Meta(gt=0, le=_MAX_SECONDS, description="a number of seconds above 0")]
SecondsOrOff = Annotated[float, Meta(ge=0, le=_MAX_SECONDS, description="a number of seconds; 0 is off")]
Grace = Annotated[float, Meta(ge=0, le=_MAX_SECONDS, description="a number of seconds")]
Size = Annotated[
    int, Meta(ge=1024, le=_MAX_SIZE, extra=SIZE, description='a size of at least 1024 bytes, such as 65536 or "64MiB"')
]
SizeOrOff = Annotated[
    int, Meta(ge=0, le=_MAX_SIZE, extra=SIZE, description='a size, such as 536870912 or "512MiB"; 0 is off')
]
Processes = Annotated[
    Annotated[int, Meta(ge=0, le=1024)] | Literal["auto"],
    Meta(description='a number of processes from 0 to 1024, or "auto"'),
]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the file."""


class Tls(Section, frozen=True, kw_only=True):
    """TLS towards a job server; the certificates of the system verify it unless ``ca`` names others.

    Args:
        ca: file with the certificates to trust.
        cert: file with our own certificate.
        key: file with our own key.
    """

    ca: Text | None = None
    cert: Text | None = None
    key: Text | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.cert is None:
            raise ConfigError("needs cert as well", key="key")


class JobServer(Section, frozen=True, kw_only=True):
    """A job server with options. One without is just the text "host:port"."""

    host: Text
    port: Port = 4730
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if any(char.isspace() or not char.isprintable() or char in "/@[]" for char in self.host):
            raise ConfigError("must be a host name or an IP address", key="host")


JobServerItem = Annotated[Text | JobServer, Meta(description='text such as "127.0.0.1:4730", or a mapping')]


class Pool(Section, frozen=True, kw_only=True):
    """A bound on concurrency and the tasks under it.

    Args:
        concurrency: the most jobs of these tasks that run at once.
        tasks: their names, or patterns with ``*``, ``?`` and ``[...]``.
    """

    concurrency: Count = 100
    tasks: list[Text] = []


class Http(Section, frozen=True, kw_only=True):
    """The endpoint for metrics and health."""

    listen: Text = "127.0.0.1:9191"

    def __post_init__(self) -> None:
        match = _HOST_PORT.fullmatch(self.listen)
        if match is None or match[3] is None or int(match[3]) > 65535:
            raise ConfigError('must be "host:port", such as "127.0.0.1:9191" or "[::1]:9191"', key="listen")


class Shutdown(Section, frozen=True, kw_only=True):
    """How the worker stops: running jobs get ``grace_s`` to finish."""

    grace_s: Grace = 25.0


class Recycle(Section, frozen=True, kw_only=True):
    """When a process is drained and replaced; 0 is never."""

    max_jobs: CountOrOff = 0
    max_rss: SizeOrOff = 0
    max_age_s: SecondsOrOff = 0.0


class Watchdog(Section, frozen=True, kw_only=True):
    """What counts as a hub that does not turn: reported after ``warn_s``, replaced after ``blocked_s``; 0 is never."""

    warn_s: SecondsOrOff = 1.0
    blocked_s: SecondsOrOff = 30.0

    def __post_init__(self) -> None:
        if self.blocked_s and self.blocked_s < self.warn_s:
            raise ConfigError("must not be below warn_s", key="blocked_s")


class Log(Section, frozen=True, kw_only=True):
    """What is logged, and how it looks."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Connection(Section, frozen=True, kw_only=True):
    """The links to the job servers.

    Args:
        connect_timeout_s: for one attempt to connect.
        heartbeat_s: a link silent for so long is asked for an echo.
        heartbeat_timeout_s: without the echo after so long it counts as lost.
        reconnect_max_s: the longest delay between two attempts.
        max_packet_bytes: a job with more data is refused.
        poll_s: a sleeping worker asks for jobs unasked this often.
    """

    connect_timeout_s: Seconds = 5.0
    heartbeat_s: Seconds = 15.0
    heartbeat_timeout_s: Seconds = 10.0
    reconnect_max_s: Seconds = 10.0
    max_packet_bytes: Size = 64 * MIB
    poll_s: Seconds = 10.0


class Config(Section, frozen=True, kw_only=True):
    """A whole configuration.

    Attributes:
        file: where it was read; None for one made in Python. No key of the file.
        lines: the line of each key, by its path. No key of the file.
    """

    job_servers: list[JobServerItem] = msgspec.field(default_factory=lambda: ["127.0.0.1:4730"])
    tasks: list[Text]
    client_id: Text = "{hostname}-{pid}"
    prefix: AnyText = ""
    processes: Processes = 1
    pools: dict[str, Pool] = {}
    http: Http | None = Http()
    shutdown: Shutdown = Shutdown()
    recycle: Recycle = Recycle()
    watchdog: Watchdog = Watchdog()
    log: Log = Log()
    connection: Connection = Connection()
    max_in_flight_bytes: Size = 64 * MIB
    on_exception: Literal["exception", "fail"] = "exception"
    file: str | None = None
    lines: dict[str, int] = {}

    def __post_init__(self) -> None:
        _check_job_servers(self.job_servers)
        _check_modules(self.tasks)
        _check_client_id(self.client_id)
        if not _TASK_NAME_PART.fullmatch(self.prefix):
            raise ConfigError("may hold letters, digits and _.:/@- only, 200 at most", key="prefix")
        for name in self.pools:
            if not _NAME.fullmatch(name):
                reason = "a pool's name may hold letters, digits and _.- only, 64 at most"
                raise ConfigError(reason, key=f"pools.{name}")
        if DEFAULT_POOL not in self.pools:
            msgspec.structs.force_setattr(self, "pools", {DEFAULT_POOL: Pool(), **self.pools})

    def client_id_for(self) -> str:
        """The client id of this process, as job servers show it; cut so that they keep it with any pool's name."""
        values = {"hostname": os.uname().nodename, "pid": str(os.getpid())}
        text = _PLACEHOLDER.sub(lambda match: values[match[1]], self.client_id)
        room = MAX_CLIENT_ID_BYTES - 1 - max(map(len, self.pools))
        return text.encode()[:room].decode(errors="ignore")

    def addresses(self) -> list[str | dict[str, Any]]:
        """The job servers as ``Address.parse`` takes them; "embedded" stays as it is."""
        return [server if isinstance(server, str) else msgspec.to_builtins(server) for server in self.job_servers]

    def assign_pools(self, task_pools: Mapping[str, str | None]) -> dict[str, list[str]]:
        """``assign_pools`` for this configuration, whose patterns leave the prefix out.

        Args:
            task_pools: the pool that each task asks for, or None, by the task's whole name.

        Returns:
            The whole names of every pool's tasks.

        Raises:
            ConfigError: as ``assign_pools``, with file and line.
        """
        whole = {name.removeprefix(self.prefix): name for name in task_pools}
        own = {name: task_pools[whole_name] for name, whole_name in whole.items()}
        try:
            assigned = assign_pools(own, self.pools, own)
        except ConfigError as error:
            raise self.error(error.key or "pools", error.reason) from None
        return {pool: [whole[name] for name in names] for pool, names in assigned.items()}

    def error(self, key: str, reason: str) -> ConfigError:
        """The error for a value of this configuration that turned out to be unusable, with its file and line."""
        return ConfigError(reason, file=self.file, key=key, line=line_of(key, self.lines))


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: it can't be used; with file, key, line and reason.
    """
    return parse_config(read_file(path), file=os.fspath(path))


def parse_config(text: str, file: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Check a configuration's text.

    Args:
        text: YAML.
        file: its name, for errors.
        environ: where ``${NAME}`` is looked up; the process's environment by default.

    Raises:
        ConfigError: it can't be used; with file, key, line and reason.
    """
    source = read_source(text, file=file, environ=os.environ if environ is None else environ)
    return build(source, Config, file=file, lines=source.lines)


def assign_pools(
    task_names: Iterable[str], pools: Mapping[str, Pool], task_pools: Mapping[str, str | None] | None = None
) -> dict[str, list[str]]:
    """Say which pool each task runs in.

    The first of these that there is decides: the pool with the task's exact name, the pool that the task itself asks
    for, the pool with a matching pattern, the default pool.

    Args:
        task_names: every task, named as in the patterns.
        pools: by name.
        task_pools: the pool that a task itself asks for, by the task's name; None where it doesn't.

    Returns:
        The tasks of every pool, in the order given; a pool without tasks has an empty list.

    Raises:
        ConfigError: two pools claim a task alike, or a task asks for a pool that is not there.
    """
    assigned: dict[str, list[str]] = {name: [] for name in pools}
    assigned.setdefault(DEFAULT_POOL, [])
    for task in task_names:
        own = (task_pools or {}).get(task)
        if own is not None and own not in assigned:
            raise ConfigError(f"has no pool {own}, which the task {task} asks for", key="pools")
        exact = _only(task, [name for name, pool in pools.items() if task in pool.tasks])
        matching = [name for name, pool in pools.items() if any(fnmatchcase(task, part) for part in pool.tasks)]
        assigned[exact or own or _only(task, matching) or DEFAULT_POOL].append(task)
    return assigned


def _only(task: str, names: list[str]) -> str | None:
    if len(names) > 1:
        raise ConfigError(f"the task {task} is in the pool {names[0]} as well", key=f"pools.{names[1]}.tasks")
    return names[0] if names else None


def _check_job_servers(job_servers: list[str | JobServer]) -> None:
    if not job_servers:
        raise ConfigError("must name at least one job server", key="job_servers")
    seen: set[str | JobServer] = set()
    for index, server in enumerate(job_servers):
        if isinstance(server, str) and not _is_address(server):
            reason = 'must be "host:port", "[IPv6]:port", "unix:/path" or "embedded"'
            raise ConfigError(reason, key=f"job_servers[{index}]")
        if server in seen:
            raise ConfigError("is there twice", key=f"job_servers[{index}]")
        seen.add(server)


def _is_address(text: str) -> bool:
    if text.startswith("unix:"):
        return text.startswith("unix:/") and text.isprintable()
    match = _HOST_PORT.fullmatch(text)
    return match is not None and (match[3] is None or 1 <= int(match[3]) <= 65535)


def _check_modules(modules: list[str]) -> None:
    if not modules:
        raise ConfigError("must name at least one module that registers tasks", key="tasks")
    for index, module in enumerate(modules):
        if not _MODULE.fullmatch(module):
            raise ConfigError("must be a module's dotted name, such as myapp.tasks", key=f"tasks[{index}]")


def _check_client_id(client_id: str) -> None:
    unknown = [name for name in _PLACEHOLDER.findall(client_id) if name not in ("hostname", "pid")]
    if unknown:
        raise ConfigError("may hold {hostname} and {pid}, no other {...}", key="client_id")
    if not client_id.isprintable() or len(client_id.encode()) > MAX_CLIENT_ID_BYTES:
        raise ConfigError(f"must be printable, of {MAX_CLIENT_ID_BYTES} bytes at most", key="client_id")
