"""Loops beside the work: they end with it, and it ends with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def background(loop: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs a loop beside the body and ends it with the body. A loop that ends by itself ends the body.

    Raises the body's error, or the loop's.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(_endless(loop))
            yield
            task.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from errors


async def _endless(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await loop()
    raise RuntimeError("a background loop of the run has ended, which it never should")


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
