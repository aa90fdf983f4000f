"""The images' build files, read as instructions: who runs, what is copied, what the last stage must not have."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest
from support.servers import Gearmand
from support.workers import WorkerProcess

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
DOCKERFILES = sorted((ROOT / "deploy").rglob("Dockerfile"))
COMPILERS = re.compile(r"\b(gcc|g\+\+|cc|clang|make|build-essential|[\w.+-]+-dev|rustc|cargo)\b")


class Instruction(NamedTuple):
    name: str
    arguments: str


def stages(path: Path) -> list[list[Instruction]]:
    """The instructions of each stage, with build arguments filled in."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    arguments: dict[str, str] = {}
    found: list[list[Instruction]] = []
    for line in filter(str.strip, lines):
        name, _, rest = line.strip().partition(" ")
        rest = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], match[0]), rest.strip())
        if name == "ARG":
            arguments.update([rest.split("=", 1)])
        elif name == "FROM":
            found.append([Instruction(name, rest)])
        else:
            found[-1].append(Instruction(name, rest))
    return found


def only(stage: list[Instruction], name: str) -> str:
    """The arguments of an instruction that a stage has once."""
    (arguments,) = [instruction.arguments for instruction in stage if instruction.name == name]
    return arguments


@pytest.fixture(params=DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def dockerfile(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_every_image_is_built_on_one_with_a_version(dockerfile: Path) -> None:
    for stage in stages(dockerfile):
        image, _, tag = stage[0].arguments.split(" AS ")[0].partition(":")
        assert image in ("python", "debian")
        assert tag
        assert "latest" not in tag
        assert "$" not in tag


def test_the_last_stage_runs_as_a_numbered_user_that_is_not_root(dockerfile: Path) -> None:
    last = stages(dockerfile)[-1]
    user, group = only(last, "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    names = [instruction.name for instruction in last]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "RUN")


def test_the_last_stage_has_no_compiler(dockerfile: Path) -> None:
    last = stages(dockerfile)[-1]
    assert "slim" in last[0].arguments
    for instruction in last:
        if instruction.name == "RUN":
            assert not COMPILERS.search(instruction.arguments), instruction


def test_signals_reach_the_program_itself(dockerfile: Path) -> None:
    last = stages(dockerfile)[-1]
    assert only(last, "STOPSIGNAL") == "SIGTERM"
    assert isinstance(json.loads(only(last, "ENTRYPOINT")), list)  # no shell in between


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignore[0] == "*"
    kept = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    copied = []
    for stage in stages(DOCKERFILE):
        for instruction in stage:
            if instruction.name == "COPY":
                *sources, _ = shlex.split(instruction.arguments)
                assert all((ROOT / source).exists() for source in sources), sources
                copied.extend(sources)
    assert sorted(copied) == sorted(kept)
    assert any(fnmatch("gearworker/__pycache__", line.replace("**/", "*/")) for line in ignore)


def test_the_image_runs_the_configuration_at_its_place() -> None:
    last = stages(DOCKERFILE)[-1]
    assert json.loads(only(last, "ENTRYPOINT")) == ["gearworker"]
    assert json.loads(only(last, "CMD")) == ["run", "/etc/gearworker/config.yaml"]
    assert only(last, "EXPOSE") == "9191"


@pytest.mark.gearmand
def test_the_health_check_tells_a_living_worker_from_one_that_is_gone(
    gearmand: Gearmand, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker(gearmand, tasks="from gearworker import task\n\n@task\ndef echo(job):\n    return job.data\n")
    _, _, check = only(stages(DOCKERFILE)[-1], "HEALTHCHECK").partition("CMD ")
    _, *arguments = json.loads(check)
    arguments = [argument.replace(":9191/", f":{worker.http_port}/") for argument in arguments]
    assert str(worker.http_port) in arguments[-1]

    def healthy() -> bool:
        environ = {"http_proxy": "http://127.0.0.1:1"}
        return (
            subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, timeout=30).returncode == 0
        )

    assert healthy()
    worker.stop()
    assert not healthy()
