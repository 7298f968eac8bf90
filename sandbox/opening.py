"""Chooses a backend and opens an executor on it."""

from __future__ import annotations

import asyncio

from sandbox.caching import CachingExecutor
from sandbox.config import Backend, SandboxConfig
from sandbox.embedded import EmbeddedSlot
from sandbox.errors import EngineMissingError, ImageMissingError, IsolationError, SlotDiedError
from sandbox.pool import SlotPool
from sandbox.verdict import Executor


async def open_executor(config: SandboxConfig | None = None) -> Executor:
    """An executor with warm slots, its walls tried. Close it when done.

    Raises:
        EngineMissingError, ImageMissingError: docker was asked for and is not there; the message names the way out.
        IsolationError: programs cannot be held here as strongly as asked.
    """
    config = config or SandboxConfig()
    pool = await asyncio.to_thread(_docker_pool, config)
    if pool is None:
        pool = await _open_embedded(config)
    else:
        await pool.start()
    return CachingExecutor(pool, config.cache_entries) if config.cache_entries else pool


def _docker_pool(config: SandboxConfig) -> SlotPool | None:
    """None if ``auto`` finds no engine, or no image, to run in; what is asked for explicitly must be there."""
    if config.backend is Backend.EMBEDDED:
        return None
    # Imported here: the embedded backend does without Docker's library.
    from sandbox.containers import DockerSlot, sweep
    from sandbox.images import engine, find_image

    try:
        client = engine()
        image = find_image(client)
    except (EngineMissingError, ImageMissingError):
        if config.backend is Backend.DOCKER:
            raise
        return None
    sweep(client)
    return SlotPool(config, lambda: DockerSlot(config, client, image))


async def _open_embedded(config: SandboxConfig) -> SlotPool:
    pool = SlotPool(config, lambda: EmbeddedSlot(config))
    try:
        await pool.start()
    except SlotDiedError as error:
        raise IsolationError(
            f"the embedded sandbox cannot be set up here: {error}. It needs namespaces (as root, or as an ordinary "
            "user where the kernel allows user namespaces); use the docker backend instead"
        ) from None
    return pool
