"""Chooses a backend and opens an executor on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from uuid import uuid4

from sandbox.caching import CachingExecutor
from sandbox.config import Backend, Profile, SandboxConfig
from sandbox.embedded import EmbeddedSlot
from sandbox.errors import EngineMissingError, ImageMissingError, IsolationError, SlotDiedError
from sandbox.java.pool import JavaPool
from sandbox.languages import JAVA, PYTHON, Language, language_of
from sandbox.polyglot import Polyglot
from sandbox.pool import SlotPool
from sandbox.python_pool import PythonPool
from sandbox.slot import Slot
from sandbox.verdict import Executor


async def open_executor(config: SandboxConfig | None = None) -> Executor:
    """An executor with warm slots, its walls tried. Close it when done.

    Raises:
        EngineMissingError, ImageMissingError: docker was asked for and is not there; the message names the way out.
        IsolationError: programs cannot be held here as strongly as asked.
    """
    config = config or SandboxConfig()
    executor = Polyglot(lambda language: _open_pool(config, language))
    try:
        for language in config.languages:
            await executor.pool(language)
    except BaseException:
        await executor.close()
        raise
    return CachingExecutor(executor, config.cache_entries) if config.cache_entries else executor


async def _open_pool(config: SandboxConfig, name: str) -> SlotPool:
    pool = await asyncio.to_thread(_docker_pool, config, _definition(name))
    if pool is None:
        return await open_embedded(config, name)
    try:
        await pool.start()
    except SlotDiedError as error:
        if config.runtime and config.profile is Profile.FAST:
            raise IsolationError(
                f"profile fast cannot be had under the runtime {config.runtime}: {error}. gVisor, for one, has no "
                "namespaces of that kind inside; use profile lean"
            ) from None
        raise
    return pool


def _pool(config: SandboxConfig, make_slot: Callable[[], Slot], language: Language | None) -> SlotPool:
    if language is JAVA:
        return JavaPool(config, make_slot)
    if language is None:
        return PythonPool(config, make_slot)
    return SlotPool(config, make_slot, language)


def _definition(name: str) -> Language | None:
    """None for Python, whose slots need no root."""
    return None if name == PYTHON else language_of(name)


def _docker_pool(config: SandboxConfig, language: Language | None) -> SlotPool | None:
    """None if ``auto`` finds no engine, or no image, to run in; what is asked for explicitly must be there."""
    if config.backend is Backend.EMBEDDED:
        return None
    # Imported here: the embedded backend does without Docker's library.
    from sandbox.containers import DockerSlot, sweep, sweep_pool
    from sandbox.images import engine, find_image

    try:
        client = engine()
        image = find_image(client, language)
    except (EngineMissingError, ImageMissingError):
        if config.backend is Backend.DOCKER:
            raise
        return None
    sweep(client)
    name = uuid4().hex
    pool = _pool(config, lambda: DockerSlot(config, client, image, language, name), language)
    pool.sweep = partial(sweep_pool, client, name)
    return pool


async def open_embedded(
    config: SandboxConfig, name: str, slot_type: Callable[..., EmbeddedSlot] = EmbeddedSlot
) -> SlotPool:
    """Started slots of a language without an engine. Raises as ``open_executor`` does."""
    language = _definition(name)
    pool = _pool(config, lambda: slot_type(config, language), language)
    try:
        await pool.start()
    except SlotDiedError as error:
        raise IsolationError(
            f"the embedded sandbox cannot be set up here: {error}. It needs namespaces (as root, or as an ordinary "
            "user where the kernel allows user namespaces); use the docker backend instead"
        ) from None
    return pool
