"""Two lanes for ``make test`` (pytest-xdist): tests that start Ray mostly wait, and do so beside all others."""

from __future__ import annotations

from pathlib import Path

import pytest

_CLUSTER = Path(__file__).parent / "cluster"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts each test into its lane; a lane's tests run one after the other in one process."""
    for item in items:
        lane = "cluster" if item.path.is_relative_to(_CLUSTER) else "parts"
        item.add_marker(pytest.mark.xdist_group(lane))
