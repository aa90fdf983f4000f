"""Prometheus as a process for tests: it scrapes once a second, evaluates rules as often, and answers queries."""

from __future__ import annotations

import json
import math
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.servers import DEADLINE_S, HOST, free_port, wait_until
from support.tools import find_tool

Series = dict[str, Any]


class PrometheusServer:
    """Debian's Prometheus, on the loopback interface.

    Args:
        directory: for its storage and files.
        targets: what to scrape: job names, each with its "host:port".
        rule_files: rules to evaluate.
    """

    def __init__(self, directory: Path, targets: dict[str, str], rule_files: Sequence[Path] = ()) -> None:
        self._command = find_tool("prometheus", package="prometheus")
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
            ],
        }
        (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> PrometheusServer:
        """Start it and wait until it answers."""
        with (self.directory / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._command,
                    f"--config.file={self.directory}/prometheus.yml",
                    f"--storage.tsdb.path={self.directory}/data",
                    f"--web.listen-address={HOST}:{self.port}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, what="Prometheus")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        log = (self.directory / "prometheus.log").read_text(errors="replace")[-2000:]
        assert self._process.poll() is None, f"Prometheus ended:\n{log}"
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/-/ready", timeout=DEADLINE_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def api(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API; an error there fails the test with its words."""
        url = f"http://{HOST}:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[Series]:
        """The series that an expression gives now."""
        result: list[Series] = self.api("query", query=expression)["result"]
        return result

    def numbers(self, expression: str) -> list[float]:
        """The finite values that an expression gives now."""
        values = [float(series["value"][1]) for series in self.query(expression)]
        return [value for value in values if math.isfinite(value)]

    def rules(self) -> dict[str, dict[str, Any]]:
        """The state of every rule, by name."""
        return {rule["name"]: rule for group in self.api("rules")["groups"] for rule in group["rules"]}

    def stop(self) -> None:
        """End it. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(DEADLINE_S)
