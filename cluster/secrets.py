"""Secrets of the user: they go to the driver, which alone fetches models and writes to W&B, and nowhere else.

Ray writes a job's ``env_vars`` into its logs and shows them in its API; so ``crucible submit`` lays the values down in
the memory of Ray's head under a random name, only the name travels with the job, and the driver takes them away.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
PLACE_VARIABLE = "CRUCIBLE_SECRETS_AT"


def deposit(client: Any) -> dict[str, str]:
    """Lays this process's secrets down in a job client's cluster; returns the job's environment that says where."""
    values = {name: os.environ[name] for name in SECRETS if os.environ.get(name)}
    if not values:
        return {}
    place = f"crucible-{os.urandom(16).hex()}.zip"  # Ray takes packages only, and asks no more of one than its name
    answer = client._do_request("PUT", f"/api/packages/gcs/{place}", data=json.dumps(values).encode())
    answer.raise_for_status()
    return {PLACE_VARIABLE: f"gcs://{place}"}


def take() -> None:
    """In the driver of a submitted job: takes what was laid down into this process's environment, and removes it."""
    place = os.environ.pop(PLACE_VARIABLE, None)
    if place is None:
        return
    raylet: Any = importlib.import_module("ray._raylet")  # compiled: no type checker sees into it
    head = raylet.GcsClient(address=os.environ["RAY_ADDRESS"])
    content = head.internal_kv_get(place.encode(), None)
    if content is not None:
        head.internal_kv_del(place.encode(), False, None)
        os.environ.update(json.loads(content))


@contextmanager
def hidden() -> Iterator[None]:
    """Takes the secrets out of the environment while processes are started that would inherit them."""
    values = {name: os.environ.pop(name) for name in SECRETS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)
