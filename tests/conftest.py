"""Three lanes for ``make test`` (pytest-xdist): tests that start Ray, and attacks, mostly wait, beside the others."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A lane's tests run one after the other in one process.

    Not by marks of a group: pytest-xdist 3.8 takes no notice of them under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next(
                (lane for lane in ("cluster", "sandbox/attacks") if nodeid.startswith(f"tests/{lane}/")), "rest"
            )

    return Lanes(config, log)
