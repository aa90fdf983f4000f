"""What people see when something is wrong: one paragraph that names the guilty one, and the right exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gearworker

GOOD_TASKS = "from gearworker import task\n\n\n@task\ndef resize(job):\n    return b''\n"
GOOD_CONFIG = "tasks: [app_tasks]\n"
HERE = "processes: 0\nhttp: off\n"


class App:
    """A user's application in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def environ(self, extra: dict[str, str]) -> dict[str, str]:
        package = str(Path(gearworker.__file__).parents[1])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GEARWORKER")}
        return {**kept, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1", **extra}

    def start(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "gearworker", *args],
            cwd=self.directory,
            env=self.environ(environ),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*args, **environ)
        try:
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
        return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)

    def fails(self, code: int, *args: str, **environ: str) -> str:
        """Run a command that has to fail; give its paragraph."""
        result = self.run(*args, **environ)
        assert "Traceback" not in result.stderr
        assert (result.returncode, result.stdout) == (code, ""), result.stderr
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("gearworker: ")
        return lines[0].removeprefix("gearworker: ")


@pytest.fixture
def app(tmp_path: Path) -> App:
    made = App(tmp_path)
    made.write("app_tasks.py", GOOD_TASKS)
    made.write("c.yaml", GOOD_CONFIG)
    return made


class TestConfiguration:
    @pytest.mark.parametrize("command", ["run", "check", "tasks"])
    def test_missing_file(self, app: App, command: str) -> None:
        assert app.fails(2, command, "no.yaml") == "no.yaml: can't be read: No such file or directory"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "tasks: [app_tasks\nhttp: null\n",
                "c.yaml:2: is not valid YAML: while parsing a flow sequence, expected ',' or ']', but got ':'",
            ),
            (
                GOOD_CONFIG + "pools: {a: {concurency: 1}}\n",
                "c.yaml:2: pools.a.concurency: unknown key; did you mean concurrency?",
            ),
            (
                GOOD_CONFIG + "http: null\nprefix: x\nhttp: null\n",
                "c.yaml:4: http: is there twice, in line 2 and line 4",
            ),
            (
                GOOD_CONFIG + "job_servers:\n  - ${JOB_SERVER}\n",
                "c.yaml:3: job_servers[0]: needs the environment variable JOB_SERVER, which is not set",
            ),
            (
                GOOD_CONFIG + 'client_id: "\\e[31m{x\\ny}"\n',
                "c.yaml:2: client_id: may hold {hostname} and {pid}, no other {...}",
            ),
            (
                GOOD_CONFIG + 'pools: {"a\\nb\\e": {}}\n',
                r"c.yaml:2: pools.a\nb\x1b: a pool's name may hold letters, digits and _.- only, 64 at most",
            ),
        ],
    )
    def test_unusable(self, app: App, text: str, message: str) -> None:
        app.write("c.yaml", text)
        assert app.fails(2, "check", "c.yaml") == message
        assert app.fails(2, "run", "c.yaml") == message

    def test_secrets_of_the_environment_are_not_shown(self, app: App) -> None:
        app.write("c.yaml", GOOD_CONFIG + "processes: ${SECRET}\n")
        message = app.fails(2, "run", "c.yaml", SECRET="hunter2")
        assert message == (
            'c.yaml:2: processes: must be a number of processes from 0 to 1024, or "auto", '
            "and what the environment gave is not"
        )

    def test_pools(self, app: App) -> None:
        app.write("c.yaml", GOOD_CONFIG + "pools:\n  a: {tasks: ['re*']}\n  b: {tasks: ['*ize']}\n")
        assert app.fails(2, "check", "c.yaml") == "c.yaml:4: pools.b.tasks: the task resize is in the pool a as well"
        app.write("app_tasks.py", GOOD_TASKS.replace("@task", "@task(pool='images')"))
        app.write("c.yaml", GOOD_CONFIG + HERE)
        assert app.fails(2, "run", "c.yaml") == "c.yaml: pools: has no pool images, which the task resize asks for"

    def test_http_port_in_use(self, app: App) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            app.write("c.yaml", GOOD_CONFIG + f"http: {{listen: '{address}'}}\n")
            message = app.fails(2, "run", "c.yaml", "--log-level", "error")
        assert message.startswith("c.yaml:2: http.listen: ")
        assert address in message


class TestTaskModules:
    def test_missing(self, app: App) -> None:
        app.write("c.yaml", "tasks:\n  - app_tasks\n  - app.nowhere\n" + HERE)
        message = f"c.yaml:3: tasks[1]: can't import app.nowhere: there is no module %s, neither in {app.directory} "
        assert app.fails(2, "run", "c.yaml") == message % "app" + "nor installed"
        app.write("app/__init__.py", "")
        assert app.fails(2, "check", "c.yaml") == message % "app.nowhere" + "nor installed"

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("import os\nimport nowhere\n", "ModuleNotFoundError: No module named 'nowhere' (app_tasks.py:2)"),
            ("def broken(:\n", "SyntaxError: invalid syntax (app_tasks.py:1)"),
            ("\n\nraise ValueError('why\\n\\x1b[31m')\n", r"ValueError: why\n\x1b[31m (app_tasks.py:3)"),
            ("import helper\n", "ZeroDivisionError: division by zero (helper.py:2)"),
            ("import sys\nsys.exit(0)\n", "SystemExit: 0 (app_tasks.py:2)"),
            ("import json\njson.loads('{')\n", None),
            (
                GOOD_TASKS + "\n\n@task('resize')\ndef other(job):\n    return b''\n",
                "task 'resize' is registered twice: in app_tasks.py:4 and in app_tasks.py:9",
            ),
            (
                "from gearworker import task\n\n@task(retries=-1)\ndef resize(job):\n    return b''\n",
                "task 'resize' (app_tasks.py:3): retries is -1, not a whole number from 0",
            ),
        ],
    )
    def test_can_not_be_imported(self, app: App, source: str, reason: str | None) -> None:
        app.write("c.yaml", GOOD_CONFIG + HERE)
        app.write("app_tasks.py", source)
        app.write("helper.py", "def f():\n    return 1 / 0\n\n\nf()\n")
        message = app.fails(2, "check", "c.yaml")
        start = "c.yaml:1: tasks[0]: can't import app_tasks: "
        assert message.startswith(start)
        if reason is None:
            assert message.startswith(start + "JSONDecodeError: Expecting property name")
        else:
            assert message == start + reason
        assert app.fails(2, "run", "c.yaml") == message

    def test_under_a_supervisor_the_paragraph_is_a_line_of_the_log(self, app: App) -> None:
        app.write("c.yaml", GOOD_CONFIG + "http: off\n")
        app.write("app_tasks.py", "import nowhere\n")
        result = app.run("run", "c.yaml")
        message = "can't import app_tasks: ModuleNotFoundError: No module named 'nowhere' (app_tasks.py:1)"
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert f"gearworker: c.yaml:1: tasks[0]: {message}" in result.stderr.splitlines()

    def test_none_registered(self, app: App) -> None:
        app.write("c.yaml", GOOD_CONFIG + HERE)
        app.write("app_tasks.py", "def resize(job):\n    return b''\n")
        assert app.fails(2, "run", "c.yaml") == (
            "c.yaml:1: tasks: no task is registered by app_tasks; decorate a function with @gearworker.task"
        )

    def test_verbose_shows_the_traceback(self, app: App) -> None:
        app.write("app_tasks.py", "raise ValueError('why')\n")
        result = app.run("check", "c.yaml", "-v")
        assert result.returncode == 2
        assert result.stderr.startswith("Traceback (most recent call last):\n")
        last = "gearworker: c.yaml:1: tasks[0]: can't import app_tasks: ValueError: why (app_tasks.py:1)"
        assert result.stderr.splitlines()[-1] == last


class TestServer:
    @pytest.fixture
    def taken(self) -> Iterator[str]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            yield f"127.0.0.1:{listener.getsockname()[1]}"

    def test_port_in_use(self, app: App, taken: str) -> None:
        message = app.fails(2, "server", "--listen", taken)
        assert message.startswith(f"--listen: {taken}: can't listen: Address already in use")

    def test_only_loopback(self, app: App) -> None:
        message = app.fails(2, "server", "--listen", "0.0.0.0:0")
        assert "listens on loopback addresses only, not on '0.0.0.0'" in message

    @pytest.mark.parametrize("listen", ["4730", "127.0.0.1:", "127.0.0.1:65536", ":1"])
    def test_no_address(self, app: App, listen: str) -> None:
        message = f"--listen: '{listen}' is no address; write it as host:port"
        assert app.fails(2, "server", "--listen", listen) == message

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_stops_it(self, app: App, number: signal.Signals) -> None:
        process = app.start("server", "--listen", "127.0.0.1:0")
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "for development only" in line
            process.send_signal(number)
            _, rest = process.communicate(timeout=10)
        finally:
            process.kill()
        assert (process.returncode, rest) == (0, "")


class TestUsage:
    @pytest.mark.parametrize(
        "args", [("bogus",), ("check",), ("run", "c.yaml", "--log-level", "loud"), ("run", "--no")]
    )
    def test_usage(self, app: App, args: tuple[str, ...]) -> None:
        result = app.run(*args)
        assert result.returncode == 2
        assert result.stderr.startswith("Usage: gearworker ")
        assert "Traceback" not in result.stderr

    def test_reader_that_leaves(self, app: App) -> None:
        tasks = "".join(f"task('t{number}')(lambda job: b'')\n" for number in range(5000))
        app.write("app_tasks.py", "from gearworker import task\n" + tasks)
        process = app.start("tasks", "c.yaml")
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("TASK")
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""
        process.stderr.close()


class TestListings:
    def test_check(self, app: App) -> None:
        app.write("app_tasks.py", "print('at import')\n" + GOOD_TASKS)
        app.write(
            "c.yaml", GOOD_CONFIG + "prefix: dev.\nhttp: off\npools: {images: {concurrency: 4, tasks: [resize]}}\n"
        )
        result = app.run("check", "c.yaml")
        assert (result.returncode, result.stderr) == (0, "at import\n")
        assert result.stdout == (
            "c.yaml: fine\njob servers: 127.0.0.1:4730\nprocesses: 1\nhttp: off\n"
            "POOL     CONCURRENCY  TASKS\ndefault          100  -\nimages             4  dev.resize\n"
        )
        assert json.loads(app.run("check", "c.yaml", "--json").stdout) == {
            "file": "c.yaml",
            "job_servers": ["127.0.0.1:4730"],
            "processes": 1,
            "http": None,
            "pools": [
                {"name": "default", "concurrency": 100, "tasks": []},
                {"name": "images", "concurrency": 4, "tasks": ["dev.resize"]},
            ],
        }

    def test_tasks(self, app: App) -> None:
        app.write("app_tasks.py", GOOD_TASKS.replace("@task", "@task('x', encoder='json', timeout_s=3, thread=True)"))
        result = app.run("tasks", "c.yaml")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == (
            "TASK  POOL     ENCODER  TIMEOUT_S  RETRIES  THREAD  SOURCE\n"
            "x     default  json             3        0  yes     app_tasks.py:4\n"
        )
        assert json.loads(app.run("tasks", "c.yaml", "--json").stdout) == [
            {
                "task": "x",
                "pool": "default",
                "encoder": "json",
                "timeout_s": 3,
                "retries": 0,
                "thread": True,
                "source": "app_tasks.py:4",
            }
        ]
