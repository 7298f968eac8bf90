"""Calls to Ray actors under a time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from ray.exceptions import RayError, RayTaskError

from cluster.errors import ActorError, LostActorError
from cluster.roster import sentence_of

MAX_CONCURRENCY = 4096
"""Calls that an actor of a pool answers at the same time."""


async def within(awaitable: Awaitable[Any], timeout_s: float, who: str, what: str) -> Any:
    """Awaits, and turns a time-out or an actor's error into one sentence that names the actor.

    LostActorError says that it died or does not answer, any other ActorError that it lives and refused.
    """
    try:
        return await asyncio.wait_for(awaitable, timeout_s)
    except TimeoutError:
        raise LostActorError(f"{who} did not {what} within {timeout_s:g} s") from None
    except RayTaskError as error:
        raise ActorError(f"{who} could not {what}: {sentence_of(error)}") from error
    except RayError as error:
        raise LostActorError(f"{who} could not {what}: {type(error).__name__}") from error
