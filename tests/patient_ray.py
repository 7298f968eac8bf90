"""Ray gives a node 30 s to come up, and the node its agents 15 s: on a machine with other work that is too little."""

from __future__ import annotations

import os
import time
from typing import Any

from ray._private import services

_PATIENCE_S = 240.0


def be_patient() -> None:
    """From now on nodes that this process starts may take minutes."""
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
