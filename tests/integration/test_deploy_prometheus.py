"""Prometheus' rules and the dashboard, as files: promtool's own tests pass, and nothing is left untold or untested."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tools import find_tool

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus"
RULE_FILES = [RULES / "recording-rules.yaml", RULES / "alerts.yaml"]
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"

Rule = dict[str, Any]


def rules(kind: str) -> list[Rule]:
    """All rules of a kind: "alert" or "record"."""
    groups = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [find_tool("promtool", package="prometheus"), *arguments]
    return subprocess.run(command, cwd=RULES, capture_output=True, text=True, timeout=60)


def test_the_rules_are_well_formed() -> None:
    checked = promtool("check", "rules", "--lint-fatal", *(path.name for path in RULE_FILES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtools_own_tests_pass() -> None:
    tested = promtool("test", "rules", "rules.test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_rule_has_a_test() -> None:
    tests = (RULES / "rules.test.yaml").read_text()
    for rule in rules("alert"):
        assert re.search(rf"\balertname(: |=~?\"){rule['alert']}\b|\bname: .*\b{rule['alert']}\b", tests), rule["alert"]
    for rule in rules("record"):
        assert rule["record"] in tests


@pytest.mark.parametrize("alert", rules("alert"), ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_is_wrong_and_what_to_do(alert: Rule) -> None:
    assert alert["annotations"].keys() == {"summary", "description", "action"}
    assert "{{" not in alert["annotations"]["summary"]
    assert "{{ $labels." in alert["annotations"]["description"]
    assert len(alert["annotations"]["action"]) > 60
    assert alert["labels"]["severity"] in ("critical", "warning")


def test_alerts_speak_of_each_other_by_their_names() -> None:
    names = {rule["alert"] for rule in rules("alert")}
    for rule in rules("alert"):
        mentioned = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", rule["annotations"]["action"]))
        assert mentioned - {"NetworkPolicy"} <= names, rule["alert"]


def test_alerts_use_only_recorded_series_that_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    for rule in rules("alert"):
        assert set(re.findall(r"\b\w+:\w+:\w+\b", rule["expr"])) <= recorded, rule["alert"]


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def test_the_dashboard_asks_the_chosen_data_source_only() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "task"]
    assert variables["datasource"]["type"] == "datasource"
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == source
            assert all(target["datasource"] == source for target in panel["targets"])


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in dashboard()["panels"]:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_every_query_keeps_to_the_chosen_jobs_and_instances() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            chosen = target["expr"].count('job=~"$job", instance=~"$instance"')
            assert chosen >= 1, panel["title"]


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
