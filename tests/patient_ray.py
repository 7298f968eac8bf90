"""Ray gives a node 30 s to come up, and its agents as little: on a machine with other work that is not enough."""

from __future__ import annotations

import os
import time
from typing import Any

from ray._private import services

from cluster.session import choose_agent_ports

_PATIENCE_S = 240.0


def be_patient() -> None:
    """From now on nodes that this process starts may take minutes."""
    choose_agent_ports()
    os.environ["RAY_agent_register_timeout_ms"] = str(int(_PATIENCE_S * 1000))  # noqa: SIM112 (Ray's own spelling)
    impatient = services.get_node

    def get_node(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return impatient(*arguments, **options)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    services.get_node = get_node
