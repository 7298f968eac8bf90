"""Slots without an engine: the resident server in namespaces that we make ourselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

from sandbox import shipping
from sandbox.config import SandboxConfig, slot_memory_bytes
from sandbox.control_groups import ControlGroup, new_control_group
from sandbox.interpreter import this_interpreter
from sandbox.languages.definition import Language
from sandbox.roots import PYTHON, find_root
from sandbox.slot import Connection, Slot, last_line
from sandbox.verdict import Isolation

_STDERR_TAIL = 2000
_END_S = 5.0


class EmbeddedSlot(Slot):
    """Root makes the namespaces directly, and a control group; an ordinary user by way of a user namespace."""

    def __init__(self, config: SandboxConfig, language: Language | None = None) -> None:
        """``language``: the slot gets its root; that of the machine's Python if not given. Raises ImageMissingError."""
        super().__init__(config, language)
        self._root = find_root(language) if language else None

    _group: ControlGroup | None = None
    _process: Process | None = None
    _errors: asyncio.Task[None] | None = None
    _tail: bytes = b""

    @property
    def own_users(self) -> bool:
        return os.geteuid() != 0

    async def connect(self) -> Connection:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-B", "-c", shipping.START_UP,
            stdin=PIPE, stdout=PIPE, stderr=PIPE, env={}, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        # First, so that a process that has ended before it is taken in leaves its last words.
        self._errors = asyncio.create_task(self._collect_errors(process))
        # It waits for what to do, so whatever it starts will be in the group too.
        self._group = None if self.own_users else new_control_group(slot_memory_bytes(self.config))
        if self._group is not None:
            self._group.take_in(process.pid)
        return Connection(process.stdout, process.stdin)

    def preamble(self) -> bytes:
        plan = self._root_plan(self._root) if self._root else self._interpreter_plan()
        if self._group is not None:
            plan["files"] += self._group.files()
        return shipping.bundle(shipping.JAIL, {**plan, "own_users": self.own_users})

    def _root_plan(self, root: Path) -> dict[str, Any]:
        return {
            "files": [],
            "folders": [(str(root / name), f"/{name}") for name in ("usr", "etc")],
            "links": [(str(path.readlink()), path.name) for path in root.iterdir() if path.is_symlink()],
            "masked": [],
            "command": [PYTHON, *shipping.INTERPRETER_FLAGS, "-c", shipping.START_UP],
            "environment": shipping.ENVIRONMENT,
        }

    def _interpreter_plan(self) -> dict[str, Any]:
        interpreter = this_interpreter()
        return {
            "files": [
                (str(interpreter.executable), interpreter.executable_in_root),
                *((str(source), place) for place, source in interpreter.shared_objects.items()),
            ],
            "folders": [(str(interpreter.library), interpreter.library_in_root)],
            "links": [],
            "masked": [f"{interpreter.library_in_root}/{name}" for name in ("site-packages", "dist-packages")],
            "command": [
                interpreter.executable_in_root, *shipping.INTERPRETER_FLAGS, "-c", shipping.START_UP,
            ],
            "environment": {**shipping.ENVIRONMENT, **interpreter.environment},
        }  # fmt: skip

    def settings(self) -> dict[str, Any]:
        return {"namespaces": True, "own_users": self.own_users, "hard_memory": self._group is not None}

    def isolation(self, holds: frozenset[str]) -> Isolation:
        return Isolation(
            backend="embedded",
            profile="user" if self.own_users else "root",
            memory="hard" if self.hello is not None and self.hello.memory_limit_bytes > 0 else "soft",
            network="network" in holds,
            pid_namespace="pid_namespace" in holds,
            seccomp="seccomp" in holds,
        )

    def last_words(self) -> str:
        return last_line(self._tail)

    async def end(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()  # the server ends with its input, and the keeper with the server
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # the server has asked the kernel to end it together with its keeper
            await self._process.wait()
        if self._errors is not None:
            await self._errors
        if self._group is not None:
            await self._group.remove()

    async def _collect_errors(self, process: Process) -> None:
        """Consumes standard error; ends with it."""
        assert process.stderr is not None
        while chunk := await process.stderr.read(4096):
            self._tail = (self._tail + chunk)[-_STDERR_TAIL:]
