"""The dashboard and the rules on a real Prometheus that scrapes a real worker with real jobs from a real gearmand."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.prometheus import PrometheusServer
from support.servers import HOST, Gearmand, wait_until
from support.wire import Wire
from support.workers import WorkerProcess

from gearworker.protocol.packets import PacketType

pytestmark = [pytest.mark.gearmand, pytest.mark.slow]

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
RECORDING_RULES = DEPLOY / "prometheus" / "recording-rules.yaml"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
SCALED_OBJECT = DEPLOY / "kubernetes" / "overlays" / "keda" / "scaledobject.yaml"

JOB = "gearworker"
DATA_DEADLINE_S = 30.0
VARIABLES = {"$job": ".+", "$instance": ".+", "$task": ".+", "$__rate_interval": "1m"}

TASKS = """
    import gevent
    from gearworker import FailJob, task

    @task
    def work(job):
        gevent.sleep(0.005)
        job.send_status(1, 2)
        job.send_data(b"half")
        job.send_warning(b"nearly")
        return job.data

    @task
    def refuse(job):
        raise FailJob("as it does")
"""


@dataclass
class Scene:
    """All that runs."""

    gearmand: Gearmand
    worker: WorkerProcess
    prometheus: PrometheusServer

    def feed(self) -> None:
        """Submit some jobs, without waiting for them."""
        wire = Wire(self.gearmand.port)
        for number in range(20):
            task = b"refuse" if number % 4 == 0 else b"work"
            created = wire.ask(PacketType.SUBMIT_JOB_BG, task, b"", b"x" * 100)
            assert created.type == PacketType.JOB_CREATED
        wire.sock.close()

    def wait_for_numbers(self, expressions: list[str]) -> None:
        """Feed jobs until each expression gives a number."""
        waiting = list(expressions)

        def all_answered() -> bool:
            self.feed()
            waiting[:] = [expression for expression in waiting if not self.prometheus.numbers(expression)]
            return not waiting

        wait_until(all_answered, DATA_DEADLINE_S, what=f"data for {waiting}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A gearmand, a worker of two processes, and a Prometheus whose alerts wait for a second only."""
    directory = tmp_path_factory.mktemp("prometheus")
    alerts = directory / "alerts.yaml"
    alerts.write_text(re.sub(r"\bfor: \w+", "for: 1s", ALERTS.read_text()))
    with ExitStack() as stack:
        gearmand = Gearmand(directory / "gearmand")
        stack.callback(gearmand.stop)
        gearmand.start()
        worker = WorkerProcess(directory / "worker", [gearmand], TASKS, {"processes": 2})
        stack.callback(worker.stop)
        worker.start()
        targets = {JOB: f"{HOST}:{worker.http_port}"}
        prometheus = PrometheusServer(directory / "prometheus", targets, [RECORDING_RULES, alerts])
        stack.callback(prometheus.stop)
        prometheus.start()
        yield Scene(gearmand, worker, prometheus)


def filled_in(expression: str) -> str:
    """A query of the dashboard with values for its variables, "All" for those that people choose."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def dashboard_queries() -> list[str]:
    """Every query of every panel."""
    targets = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [filled_in(target["expr"]) for target in targets]


def recording_rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RECORDING_RULES.read_text())["groups"]
    return list(group["rules"])


def test_every_query_of_the_dashboard_gives_numbers(scene: Scene) -> None:
    assert len(dashboard_queries()) > 25
    scene.wait_for_numbers(dashboard_queries())


def test_every_recorded_series_gives_numbers(scene: Scene) -> None:
    scene.wait_for_numbers([rule["record"] for rule in recording_rules()])
    assert scene.prometheus.numbers('job_task:gearworker_jobs_failed:ratio_rate5m{task="refuse"}') == [1.0]
    assert scene.prometheus.numbers('job_task:gearworker_jobs_failed:ratio_rate5m{task="work"}') == [0.0]


def test_the_autoscalers_query_gives_one_number(scene: Scene) -> None:
    (trigger,) = yaml.safe_load(SCALED_OBJECT.read_text())["spec"]["triggers"]
    scene.wait_for_numbers([trigger["metadata"]["query"]])
    assert len(scene.prometheus.numbers(trigger["metadata"]["query"])) == 1


def test_the_dashboards_variables_offer_what_there_is(scene: Scene) -> None:
    offered = {}
    for variable in DASHBOARD["templating"]["list"][1:]:
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert match, variable["query"]
        expression, label = filled_in(match[1]), match[2]
        wait_until(lambda: scene.prometheus.query(expression), DATA_DEADLINE_S, what=expression)  # noqa: B023
        offered[variable["name"]] = {series["metric"][label] for series in scene.prometheus.query(expression)}
    instance = f"{HOST}:{scene.worker.http_port}"
    assert offered == {"job": {JOB}, "instance": {instance}, "task": {"work", "refuse"}}


def test_all_that_the_worker_exposes_is_on_the_dashboard(scene: Scene) -> None:
    exposed = set(re.findall(r"^# TYPE (gearworker_\w+) ", scene.worker.get("/metrics")[1], re.MULTILINE))
    shown = " ".join(dashboard_queries())
    assert {name for name in exposed if name not in shown} == set()
    known = {name + suffix for name in exposed for suffix in ("", "_bucket", "_sum", "_count")}
    used = f"{shown} {ALERTS.read_text()} {RECORDING_RULES.read_text()}"
    names = set(re.findall(r"(?<![\w:-])gearworker_[a-z_]+(?![\w:])", used))
    assert names <= known


def test_every_rule_is_evaluated_without_an_error(scene: Scene) -> None:
    wait_until(
        lambda: all(rule["health"] != "unknown" for rule in scene.prometheus.rules().values()),
        DATA_DEADLINE_S,
        what="every rule to be evaluated",
    )
    for name, rule in scene.prometheus.rules().items():
        assert rule["health"] == "ok", f"{name}: {rule.get('lastError')}"


def test_a_process_that_is_killed_shows_as_an_annotation(scene: Scene) -> None:
    (annotation,) = DASHBOARD["annotations"]["list"]
    expression = filled_in(annotation["expr"])
    scene.wait_for_numbers(["gearworker_process_heartbeat_age_seconds"])
    victim = scene.prometheus.query("gearworker_process_heartbeat_age_seconds")[0]["metric"]["process"]
    os.kill(int(victim), signal.SIGKILL)
    scene.wait_for_numbers([expression])
    assert scene.prometheus.query(expression)[0]["metric"]["reason"] == "crash"


def test_the_alert_fires_when_the_job_server_goes_and_ends_when_it_is_back(scene: Scene) -> None:
    def state() -> str:
        return str(scene.prometheus.rules()["JobServerDown"]["state"])

    wait_until(lambda: state() == "inactive", DATA_DEADLINE_S, what="no alert")
    scene.gearmand.stop()
    wait_until(lambda: state() == "firing", DATA_DEADLINE_S, what="the alert to fire")
    (alert,) = scene.prometheus.rules()["JobServerDown"]["alerts"]
    assert alert["labels"]["job_server"] == scene.gearmand.address
    assert alert["labels"]["severity"] == "critical"
    assert scene.gearmand.address in alert["annotations"]["description"]
    scene.gearmand.start()
    wait_until(lambda: state() == "inactive", DATA_DEADLINE_S, what="the alert to end")
