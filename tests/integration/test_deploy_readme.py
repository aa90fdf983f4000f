"""What deploy/README.md names is there, and what is there is named."""

from __future__ import annotations

import re
from pathlib import Path

from gearworker.config import Shutdown

DEPLOY = Path(__file__).parents[2] / "deploy"
README = (DEPLOY / "README.md").read_text()


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 5
    for link in links:
        assert (DEPLOY / link).exists(), link


def test_everything_here_has_its_part() -> None:
    for path in DEPLOY.iterdir():
        if path.name != "README.md":
            assert f"]({path.name}" in README, path.name


def test_every_kustomization_is_told() -> None:
    for path in (DEPLOY / "kubernetes").rglob("kustomization.yaml"):
        assert f"`{path.parent.relative_to(DEPLOY / 'kubernetes')}`" in README


def test_the_grace_is_the_codes() -> None:
    assert f"`shutdown.grace_s` ({Shutdown().grace_s:g} s)" in README
