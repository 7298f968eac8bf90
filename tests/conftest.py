"""What pytest-xdist runs side by side: tests that start Ray, and attacks on the sandbox, mostly wait.

`make test` has three lanes: the cluster's tests, the attacks, and all others. `make soak` has one for the attacks on
each way of holding programs, and one for each other file.
"""

from __future__ import annotations

import re
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
            room = next((room for room in ("cluster", "sandbox/attacks") if nodeid.startswith(f"tests/{room}/")), "")
            if not is_soak(config):
                return room or "rest"
            backend = re.search(r"\[(embedded-user|embedded|docker-fast|docker-lean)\b", nodeid)
            return backend[1] if room and backend else nodeid.split("::")[0]

    return Lanes(config, log)


def is_soak(config: pytest.Config) -> bool:
    """Whether the long tests are asked for."""
    chosen = config.getoption("markexpr")
    return "soak" in chosen and "not soak" not in chosen
