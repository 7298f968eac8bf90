"""Calls to Ray actors under a time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError

from actors.errors import EngineDiedError, EngineUnavailableError
from cluster.errors import ActorError, LostActorError
from cluster.roster import Report, sentence_of

T = TypeVar("T")

MAX_CONCURRENCY = 4096
"""Calls that an actor of a pool answers at the same time."""

STORE_ERRORS = (ObjectStoreFullError, OutOfDiskError)
"""Ray's errors that say the same of the driver as of an actor: they are nobody's death."""

FULL_STORE = (
    "Ray's object store is full, and so is the disk that it spills to; give its nodes more (ray start "
    "--object-store-memory), or the disk under /tmp/ray"
)


def was_raised_as(error: BaseException | None, *kinds: type[BaseException]) -> bool:
    """Whether what an actor raised, which Ray hides behind errors of its own, is of one of these kinds."""
    while error is not None and not isinstance(error, kinds):
        error = getattr(error, "cause", None) or error.__cause__
    return error is not None


async def again_when_lost(work: Callable[[], Awaitable[T]], *, who: str, times: int, report: Report) -> T:
    """What ``work`` returns; it is begun anew when the actor that it is done by was lost, ``times`` times in all."""
    for _ in range(times - 1):
        try:
            return await work()
        except LostActorError as error:
            report(who, "lost", str(error))
    return await work()


async def within(awaitable: Awaitable[Any], timeout_s: float, who: str, what: str) -> Any:
    """Awaits, and turns a time-out or an actor's error into one sentence that names the actor.

    LostActorError says that it died, does not answer, or has no engine any more; any other ActorError that it lives
    and refused.
    """
    try:
        # Never asyncio.wait_for: before Python 3.12 it forgets a cancellation that comes together with the answer, and
        # whoever cancels a loop then waits for it for good.
        async with asyncio.timeout(timeout_s):
            return await awaitable
    except TimeoutError:
        raise LostActorError(f"{who} did not {what} within {timeout_s:g} s") from None
    except STORE_ERRORS as error:
        raise ActorError(f"{who} could not {what}: {FULL_STORE}") from error
    except RayTaskError as error:
        kind = LostActorError if was_raised_as(error, EngineDiedError, EngineUnavailableError) else ActorError
        raise kind(f"{who} could not {what}: {sentence_of(error)}") from error
    except RayError as error:
        raise LostActorError(f"{who} could not {what}: {type(error).__name__}") from error
