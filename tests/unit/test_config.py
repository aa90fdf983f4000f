"""The configuration: defaults, values from the environment, every error with its exact words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import pytest

from gearworker.config import Config, Http, JobServer, Pool, Tls, assign_pools, load_config, parse_config
from gearworker.errors import ConfigError
from gearworker.net.address import Address

TASKS = "tasks: [app.tasks]\n"


def parse(text: str, **environ: str) -> Config:
    return parse_config(TASKS + text, file="c.yaml", environ=environ)


def error_of(text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, **environ)
    return str(caught.value)


def test_defaults() -> None:
    config = parse("")
    assert config.job_servers == ["127.0.0.1:4730"]
    assert config.tasks == ["app.tasks"]
    assert (config.client_id, config.prefix, config.processes) == ("{hostname}-{pid}", "", 1)
    assert config.pools == {"default": Pool(concurrency=100, tasks=[])}
    assert config.http == Http(listen="127.0.0.1:9191")
    assert config.shutdown.grace_s == 25
    assert (config.recycle.max_jobs, config.recycle.max_rss, config.recycle.max_age_s) == (0, 0, 0)
    assert (config.watchdog.warn_s, config.watchdog.blocked_s) == (1, 30)
    assert (config.log.level, config.log.format) == ("info", "text")
    connection = config.connection
    assert (connection.connect_timeout_s, connection.heartbeat_s, connection.heartbeat_timeout_s) == (5, 15, 10)
    assert (connection.reconnect_max_s, connection.poll_s, connection.max_packet_bytes) == (10, 10, 64 * 2**20)
    assert config.max_in_flight_bytes == 64 * 2**20


def test_made_in_python_it_has_the_same_defaults_and_checks() -> None:
    parsed = parse_config(TASKS, environ={})
    made = Config(tasks=["app.tasks"], lines=parsed.lines)
    assert made == parsed
    with pytest.raises(ConfigError, match=r"^job_servers: must name at least one job server$"):
        Config(tasks=["app.tasks"], job_servers=[])


def test_everything_set() -> None:
    config = parse(
        'job_servers: ["[::1]:4730", "unix:/run/g", "embedded", {host: g, tls: {ca: ca.pem}}, {host: h, port: 1}]\n'
        'processes: auto\npools: {images: {concurrency: 4, tasks: ["resize", "video.*"]}}\n'
        "recycle: {max_jobs: 10, max_rss: 1.5GiB, max_age_s: 0.5}\nmax_in_flight_bytes: 2048\n"
    )
    assert config.job_servers[3:] == [JobServer(host="g", tls=Tls(ca="ca.pem")), JobServer(host="h", port=1)]
    assert config.processes == "auto"
    assert config.pools["images"] == Pool(concurrency=4, tasks=["resize", "video.*"])
    assert list(config.pools) == ["default", "images"]
    assert config.recycle.max_rss == 3 * 2**29
    assert config.max_in_flight_bytes == 2048


def test_addresses_are_what_the_network_floor_parses() -> None:
    config = parse(
        'job_servers: ["g:1", "[::1]", "unix:/run/g", {host: h, tls: {ca: a}}, {host: i, tls: true}, {host: j}]'
    )
    addresses = [Address.parse(form) for form in config.addresses()]
    assert [str(address) for address in addresses] == ["g:1", "[::1]:4730", "unix:/run/g", "h:4730", "i:4730", "j:4730"]
    assert [address.tls is not None for address in addresses] == [False, False, False, True, True, False]


@pytest.mark.parametrize("off", ["null", "false", "", "~", "off"])
def test_http_off(off: str) -> None:
    assert parse(f"http: {off}").http is None


def test_http_true_and_empty_sections_are_the_defaults() -> None:
    config = parse("http: true\nshutdown:\npools:\nlog:\n")
    assert config.http == Http()
    assert config.shutdown.grace_s == 25
    assert config.pools == {"default": Pool()}


@pytest.mark.parametrize(
    ("written", "size"),
    [("1024", 1024), ("64MiB", 64 * 2**20), ("512MB", 512 * 10**6), ("2 GiB", 2**31), ("5000B", 5000), ("2KB", 2000)],
)
def test_sizes(written: str, size: int) -> None:
    assert parse(f"max_in_flight_bytes: {written}").max_in_flight_bytes == size
    assert parse("max_in_flight_bytes: ${SIZE}", SIZE=written).max_in_flight_bytes == size


class TestEnvironment:
    def test_whole_value_is_read_as_yaml(self) -> None:
        config = parse('processes: ${N}\nhttp: ${HTTP}\npools: {a: {concurrency: "${C}"}}', N="3", HTTP="off", C="7")
        assert (config.processes, config.http, config.pools["a"].concurrency) == (3, None, 7)

    def test_text_stays_text_where_text_is_wanted(self) -> None:
        assert parse("prefix: ${P}", P="007").prefix == "007"
        assert parse("prefix: ${P}", P="").prefix == ""
        assert parse("prefix: ${P}", P="null").prefix == "null"

    def test_parts_of_a_value(self) -> None:
        assert parse("client_id: a-${A}-${B:-b}-{pid}", A="1").client_id == "a-1-b-{pid}"

    @pytest.mark.parametrize("environ", [{}, {"LEVEL": ""}])
    def test_default_for_unset_and_empty(self, environ: dict[str, str]) -> None:
        assert parse("log: {level: '${LEVEL:-debug}'}", **environ).log.level == "debug"
        assert parse("prefix: ${P:-}", **environ).prefix == ""

    def test_nothing_in_a_value_is_substituted_again(self) -> None:
        assert (
            error_of("prefix: ${P}", P="${Q}")
            == "c.yaml:2: prefix: may hold letters, digits and _.:/@- only, 200 at most"
        )

    def test_escape(self) -> None:
        assert parse("client_id: 'a$b'").client_id == "a$b"
        assert error_of("client_id: $${x}") == "c.yaml:2: client_id: may hold {hostname} and {pid}, no other {...}"
        assert parse("client_id: $${pid}").client_id == "${pid}"

    def test_missing_variable_is_named(self) -> None:
        assert error_of("log:\n  level: ${LEVEL}") == (
            "c.yaml:3: log.level: needs the environment variable LEVEL, which is not set"
        )

    def test_malformed(self) -> None:
        reason = "has a ${ that is neither ${NAME} nor ${NAME:-default}; write $${ for ${"
        for text in ("${", "${1}", "${A-b}", "${A:b}"):
            assert error_of(f"client_id: '{text}'", A="x") == f"c.yaml:2: client_id: {reason}"

    def test_values_are_never_shown(self) -> None:
        for key in ("processes", "http", "log", "pools", "max_in_flight_bytes", "job_servers"):
            message = error_of(f"{key}: ${{X}}", X="s3cret")
            assert message.startswith(f"c.yaml:2: {key}: must be ")
            assert message.endswith(", and what the environment gave is not")
            assert "s3cret" not in message
        for text in ("job_servers: ['a b ${X}']", "tasks: ['${X}']", "http: {listen: '${X}'}", "log: {level: 'x${X}'}"):
            assert "s3cret" not in error_of(text.replace("tasks", "prefix"), X="s3cret ü")

    def test_the_process_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GEARWORKER_TEST_PREFIX", "from.env.")
        assert parse_config(TASKS + "prefix: ${GEARWORKER_TEST_PREFIX}").prefix == "from.env."


TOP = [
    *("job_servers", "tasks", "client_id", "prefix", "processes", "pools", "http", "shutdown", "recycle", "watchdog"),
    *("log", "connection", "max_in_flight_bytes", "on_exception"),
]
COUNT = "must be a whole number from 1 to 100000"
NOT_YAML = "is not valid YAML"
SIZE = 'must be a size of at least 1024 bytes, such as 65536 or "64MiB"'
LISTEN = 'must be "host:port", such as "127.0.0.1:9191" or "[::1]:9191"'
JOB_SERVER = 'must be "host:port", "[IPv6]:port", "unix:/path" or "embedded"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # unknown and doubled keys
        ("pool: {}", "c.yaml:2: pool: unknown key; did you mean pools?"),
        ("pools:\n  a:\n    concurency: 3", "c.yaml:4: pools.a.concurency: unknown key; did you mean concurrency?"),
        ("log: {colour: 1}", "c.yaml:2: log.colour: unknown key; known here: level, format"),
        ("file: x", "c.yaml:2: file: unknown key; known here: " + ", ".join(TOP)),
        ("job_servers: [{host: a, tsl: {}}]", "c.yaml:2: job_servers[0].tsl: unknown key; did you mean tls?"),
        ("prefix: a\nhttp: null\nprefix: b", "c.yaml:4: prefix: is there twice, in line 2 and line 4"),
        ("pools:\n  a: {}\n  a: {}", "c.yaml:4: pools.a: is there twice, in line 3 and line 4"),
        ("log: {level: info, level: info}", "c.yaml:2: log.level: is there twice, in line 2 and line 2"),
        ("job_servers: [a, b, a]", "c.yaml:2: job_servers[2]: is there twice"),
        # types and ranges
        ("pools: {a: {concurrency: 0}}", f"c.yaml:2: pools.a.concurrency: {COUNT}, not 0"),
        ("pools: {a: {concurrency: true}}", f"c.yaml:2: pools.a.concurrency: {COUNT}, not true"),
        ("pools: {a: {concurrency: '4'}}", f"c.yaml:2: pools.a.concurrency: {COUNT}, not '4'"),
        ("pools: {a: {concurrency: 1.5}}", f"c.yaml:2: pools.a.concurrency: {COUNT}, not 1.5"),
        ("pools: {a: {concurrency: }}", f"c.yaml:2: pools.a.concurrency: {COUNT}, not empty"),
        ("pools: {a: {tasks: resize}}", "c.yaml:2: pools.a.tasks: must be a list, not 'resize'"),
        ("pools: {a: {tasks: [1]}}", "c.yaml:2: pools.a.tasks[0]: must be text, not 1"),
        ("pools: [a]", "c.yaml:2: pools: must be a mapping, not a list"),
        ("pools: {a: 4}", "c.yaml:2: pools.a: must be a mapping, not 4"),
        ("prefix: {}", "c.yaml:2: prefix: must be text, not a mapping"),
        ("prefix: 2024-12-15", "c.yaml:2: prefix: must be text, not 2024-12-15"),
        ("http: 7", "c.yaml:2: http: must be a mapping, not 7"),
        ("shutdown: {grace_s: -1}", "c.yaml:2: shutdown.grace_s: must be a number of seconds, not -1"),
        ("shutdown: {grace_s: .nan}", "c.yaml:2: shutdown.grace_s: must be a number of seconds, not nan"),
        ("shutdown: {grace_s: .inf}", "c.yaml:2: shutdown.grace_s: must be a number of seconds, not inf"),
        ("connection: {poll_s: 0}", "c.yaml:2: connection.poll_s: must be a number of seconds above 0, not 0"),
        ("recycle: {max_jobs: -1}", "c.yaml:2: recycle.max_jobs: must be a whole number; 0 is off, not -1"),
        (
            "recycle: {max_rss: 5XB}",
            "c.yaml:2: recycle.max_rss: must be a size, such as 536870912 or \"512MiB\"; 0 is off, not '5XB'",
        ),
        (
            "connection: {max_packet_bytes: 3}",
            f"c.yaml:2: connection.max_packet_bytes: {SIZE}, not 3",
        ),
        (
            "processes: all",
            "c.yaml:2: processes: must be a number of processes from 0 to 1024, or \"auto\", not 'all'",
        ),
        ("log: {level: loud}", "c.yaml:2: log.level: must be one of debug, info, warning, error, not 'loud'"),
        ("log: {format: xml}", "c.yaml:2: log.format: must be one of text, json, not 'xml'"),
        (
            "prefix: [" + "x" * 100 + "]\nlog: {level: " + "x" * 100 + "}",
            "c.yaml:2: prefix: must be text, not a list",
        ),
        (
            "log: {level: " + "x" * 100 + "}",
            f"c.yaml:2: log.level: must be one of debug, info, warning, error, not '{'x' * 56}...",
        ),
        # addresses
        ("job_servers: []", "c.yaml:2: job_servers: must name at least one job server"),
        ("job_servers: a", "c.yaml:2: job_servers: must be a list, not 'a'"),
        (
            "job_servers: [4730]",
            'c.yaml:2: job_servers[0]: must be text such as "127.0.0.1:4730", or a mapping, not 4730',
        ),
        ("job_servers:\n  - a\n  - 'a b:1'", f"c.yaml:4: job_servers[1]: {JOB_SERVER}"),
        ("job_servers: ['a@b']", f"c.yaml:2: job_servers[0]: {JOB_SERVER}"),
        ("job_servers: ['::1']", f"c.yaml:2: job_servers[0]: {JOB_SERVER}"),
        ("job_servers: [{host: '[::1]'}]", "c.yaml:2: job_servers[0].host: must be a host name or an IP address"),
        ("job_servers: ['a:0']", f"c.yaml:2: job_servers[0]: {JOB_SERVER}"),
        ("job_servers: ['a:65536']", f"c.yaml:2: job_servers[0]: {JOB_SERVER}"),
        ("job_servers: ['unix:g.sock']", f"c.yaml:2: job_servers[0]: {JOB_SERVER}"),
        ("job_servers: [{port: 1}]", "c.yaml:2: job_servers[0].host: is missing"),
        ("job_servers: [{host: 'a b'}]", "c.yaml:2: job_servers[0].host: must be a host name or an IP address"),
        (
            "job_servers: [{host: a, port: 70000}]",
            "c.yaml:2: job_servers[0].port: must be a port from 1 to 65535, not 70000",
        ),
        ("job_servers: [{host: a, tls: {key: k}}]", "c.yaml:2: job_servers[0].tls.key: needs cert as well"),
        ("http: {listen: 9191}", "c.yaml:2: http.listen: must be text, not 9191"),
        ("http: {listen: '9191'}", f"c.yaml:2: http.listen: {LISTEN}"),
        ("http: {listen: 'a:99999'}", f"c.yaml:2: http.listen: {LISTEN}"),
        # rules across values
        ("watchdog: {warn_s: 5, blocked_s: 2}", "c.yaml:2: watchdog.blocked_s: must not be below warn_s"),
        ("client_id: '{host}'", "c.yaml:2: client_id: may hold {hostname} and {pid}, no other {...}"),
        ('client_id: "a\\nb"', "c.yaml:2: client_id: must be printable, of 127 bytes at most"),
        ("client_id: " + "x" * 128, "c.yaml:2: client_id: must be printable, of 127 bytes at most"),
        ("client_id: ''", "c.yaml:2: client_id: must be text, not ''"),
        (
            "pools: {'a b': {}}",
            "c.yaml:2: pools.a b: a pool's name may hold letters, digits and _.- only, 64 at most",
        ),
        # not YAML
        (
            "prefix: [",
            f"c.yaml:2: {NOT_YAML}: while parsing a flow node, expected the node content, but found '<stream end>'",
        ),
        (
            "prefix: a: b",
            "c.yaml:2: is not valid YAML: mapping values are not allowed here",
        ),
        ("prefix: !!python/object:os.system x", None),
        (
            "---\na: 1",
            "c.yaml:2: is not valid YAML: expected a single document in the stream, but found another document",
        ),
        ("prefix: *a", "c.yaml:2: is not valid YAML: found undefined alias 'a'"),
        ("on: 4", "c.yaml:2: has a key that is not text; put it in quotes"),
        ("log: {<<: {level: debug}}", "c.yaml:2: log: has a key that is not text; put it in quotes"),
        ("prefix: 2024-13-45", "c.yaml:2: prefix: is not the number or date that it looks like; put it in quotes"),
        (
            "prefix: \x01",
            "c.yaml: is not valid YAML: unacceptable character #x0001: special characters are not allowed",
        ),
    ],
)
def test_errors(text: str, message: str | None) -> None:
    if message is None:
        message = (
            "c.yaml:2: is not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'"
        )
    assert error_of(text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yaml: tasks: is missing"),
        ("# nothing\n", "c.yaml: tasks: is missing"),
        ("tasks: []", "c.yaml:1: tasks: must name at least one module that registers tasks"),
        ("tasks: [a, 'my-app']", "c.yaml:1: tasks[1]: must be a module's dotted name, such as myapp.tasks"),
        ("tasks: [app/tasks.py]", "c.yaml:1: tasks[0]: must be a module's dotted name, such as myapp.tasks"),
        ("- tasks", "c.yaml:1: must be a mapping of keys to values"),
        ("tasks", "c.yaml:1: must be a mapping of keys to values"),
    ],
)
def test_errors_of_the_whole_file(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="c.yaml", environ={})
    assert str(caught.value) == message


def test_errors_carry_their_parts() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("pools: {a: {concurrency: 0}}")
    error = caught.value
    assert (error.file, error.line, error.key) == ("c.yaml", 2, "pools.a.concurrency")
    assert error.reason == f"{COUNT}, not 0"


def test_hostile_yaml_ends_quickly() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    assert "has more than 100000 values, its aliases counted" in error_of(laughs)
    assert "is nested too deeply" in error_of("a: &a [*a]")
    assert error_of("a: " + "[" * 50_000) == "c.yaml: is nested too deeply"
    assert "is nested too deeply" in error_of("a: " + "{a: " * 30 + "1" + "}" * 30)


class TestFile:
    def test_load(self, tmp_path: Path) -> None:
        path = tmp_path / "c.yaml"
        path.write_bytes(b"\xef\xbb\xbf" + TASKS.encode())
        config = load_config(path)
        assert (config.tasks, config.file, config.lines["tasks"]) == (["app.tasks"], str(path), 1)
        assert str(config.error("http.listen", "is taken")) == f"{path}: http.listen: is taken"
        assert str(config.error("tasks[0]", "is odd")) == f"{path}:1: tasks[0]: is odd"

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / "no.yaml")
        assert str(caught.value) == f"{tmp_path}/no.yaml: can't be read: No such file or directory"

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path)
        assert str(caught.value) == f"{tmp_path}: can't be read: Is a directory"

    def test_nul_in_the_name(self) -> None:
        with pytest.raises(ConfigError, match="can't be read: embedded null byte"):
            load_config("a\0b")

    def test_too_large(self, tmp_path: Path) -> None:
        path = tmp_path / "c.yaml"
        path.write_text(TASKS + "#" * 1024 * 1024)
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value) == f"{path}: is larger than 1048576 bytes"

    def test_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "c.yaml"
        path.write_bytes(TASKS.encode() + b"prefix: \xff")
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value) == f"{path}:2: is not UTF-8 text"


class TestExample:
    PATH = Path(__file__).parents[2] / "configs" / "gearworker.yaml"
    EXAMPLES: ClassVar = {"tasks", "pools"}

    def test_every_value_is_the_default_where_it_is_no_example(self) -> None:
        example, plain = load_config(self.PATH), parse("")
        names = [name for name in Config.__struct_fields__ if name not in {*self.EXAMPLES, "file", "lines"}]
        assert {name: getattr(example, name) for name in names} == {name: getattr(plain, name) for name in names}
        assert example.pools == {"default": Pool(), "images": Pool(concurrency=4, tasks=["resize", "video.*"])}

    def test_every_key_is_there(self) -> None:
        written = {key for key in load_config(self.PATH).lines if "[" not in key and not key.startswith("pools.")}
        known = set()
        for field in Config.__struct_fields__:
            value = getattr(parse(""), field)
            known |= {f"{field}.{name}" for name in getattr(value, "__struct_fields__", ())}
            known.add(field)
        assert written == known - {"file", "lines"}


class TestClientId:
    def test_placeholders(self) -> None:
        config = parse("client_id: '{hostname}/{pid}/{pid}'")
        pid = os.getpid()
        assert config.client_id_for() == f"{os.uname().nodename}/{pid}/{pid}"

    def test_cut_to_what_job_servers_keep(self) -> None:
        config = parse("client_id: '" + "ü" * 63 + "'\npools: {images: {}}")
        assert config.client_id_for() == "ü" * 59


class TestAssignPools:
    POOLS: ClassVar = {
        "default": Pool(tasks=["video.tiny"]),
        "images": Pool(tasks=["resize", "video.*"]),
        "slow": Pool(tasks=["re[ps]*", "video.long"]),
    }

    def test_most_specific_wins(self) -> None:
        names = ["video.a", "report", "resize", "mail", "video.long", "video.tiny"]
        assert assign_pools(names, self.POOLS) == {
            "default": ["mail", "video.tiny"],
            "images": ["video.a", "resize"],
            "slow": ["report", "video.long"],
        }

    def test_without_pools_all_are_in_the_default(self) -> None:
        assert assign_pools(["a", "b"], {}) == {"default": ["a", "b"]}
        assert assign_pools([], {"x": Pool()}) == {"x": [], "default": []}

    def test_a_task_asks_for_its_pool(self) -> None:
        own = {"video.a": "slow", "resize": "slow", "mail": "images", "b": None}
        assert assign_pools(["video.a", "resize", "mail", "b"], self.POOLS, own) == {
            "default": ["b"],
            "images": ["resize", "mail"],
            "slow": ["video.a"],
        }

    @pytest.mark.parametrize(
        ("pools", "message"),
        [
            (
                {"a": Pool(tasks=["x*"]), "b": Pool(tasks=["*y"])},
                "pools.b.tasks: the task xy is in the pool a as well",
            ),
            (
                {"a": Pool(tasks=["xy"]), "b": Pool(tasks=["xy", "x*"])},
                "pools.b.tasks: the task xy is in the pool a as well",
            ),
        ],
    )
    def test_two_pools_claim_a_task(self, pools: dict[str, Pool], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            assign_pools(["other", "xy"], pools)
        assert str(caught.value) == message

    def test_a_task_asks_for_a_pool_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError) as caught:
            assign_pools(["a"], {"default": Pool()}, {"a": "images"})
        assert str(caught.value) == "pools: has no pool images, which the task a asks for"

    def test_of_a_configuration_patterns_leave_the_prefix_out(self) -> None:
        config = parse("prefix: dev.\npools:\n  images: {tasks: ['re*']}\n  texts: {tasks: ['*ort']}")
        assert config.assign_pools({"dev.resize": None, "mail": "texts", "dev.dev.resize": None}) == {
            "default": ["dev.dev.resize"],
            "images": ["dev.resize"],
            "texts": ["mail"],
        }
        with pytest.raises(ConfigError) as caught:
            config.assign_pools({"dev.report": None})
        assert str(caught.value) == "c.yaml:5: pools.texts.tasks: the task report is in the pool images as well"
