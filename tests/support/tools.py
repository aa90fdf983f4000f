"""Programs that a test needs and a machine may not have."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test for want of something; where the environment variable CI is set, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def find_tool(name: str, *, package: str) -> str:
    """The path of a program; without it the test is skipped, or fails under CI.

    Args:
        package: Debian's, which has it.
    """
    return shutil.which(name) or missing(f"{name} is not installed (Debian: {package})")
