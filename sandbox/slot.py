"""One warm server and the connection to it."""

from __future__ import annotations

import abc
import asyncio
import hashlib
import json
import random
import secrets
from dataclasses import dataclass, replace
from typing import Any

from sandbox import shipping
from sandbox.config import SandboxConfig
from sandbox.errors import SlotDiedError
from sandbox.languages.definition import Language
from sandbox.resident.protocol import LENGTH, NO_SUITE, RESULT_BYTES, Order, Result, with_length
from sandbox.resident.shelf import LEAST_BYTES, MAX_BYTES, Shelf
from sandbox.verdict import Isolation

# Far above what machines use: a uid counts its processes over all slots and containers of a machine.
_FIRST_UID, _UIDS_PER_SLOT, _NUM_UID_RANGES = 0x40000000, 0x10000, 0x2000


@dataclass(frozen=True, slots=True)
class Hello:
    """What the server says of itself when it is ready."""

    memory_limit_bytes: int
    python: str


@dataclass(frozen=True, slots=True)
class Connection:
    """Streams to and from a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


def last_line(written: bytes) -> str:
    """Of what a server wrote before it ended; of a trace, that is the error itself."""
    lines = written.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Slot(abc.ABC):
    """A place in which one program runs at a time. Subclasses start the server and end it."""

    def __init__(self, config: SandboxConfig, language: Language | None = None) -> None:
        """``language``: what the slot's root is for; Python if not given."""
        self.config = config
        self.language = language
        self.num_runs = 0
        self.is_odd = False
        """Something happened here that should not: to be replaced before the next run."""
        self._modules, self._added_settings = shipping.SERVER, dict[str, Any]()
        self._shelf = Shelf()
        self._digest_key = secrets.token_bytes(32)
        self._connection: Connection | None = None
        self.hello: Hello | None = None

    @abc.abstractmethod
    async def connect(self) -> Connection:
        """Starts the process that runs ``shipping.START_UP`` and connects to it."""

    @abc.abstractmethod
    async def end(self) -> None:
        """Ends the server and everything in it. May be called twice, and for a slot that never started."""

    @abc.abstractmethod
    def last_words(self) -> str:
        """What the server wrote to standard error, if it can be known."""

    @abc.abstractmethod
    def isolation(self, holds: frozenset[str]) -> Isolation:
        """How the program is held; ``holds`` names what the canary found to hold."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """The server's settings, but for those common to all."""

    def ship(self, modules: tuple[str, ...], settings: dict[str, Any]) -> None:
        """Before the start: which server is sent in, and settings of its own."""
        self._modules, self._added_settings = modules, settings

    @property
    def has_ended(self) -> bool:
        """True if the server is known to be gone."""
        return self._connection is None or self._connection.reader.at_eof()

    def preamble(self) -> bytes:
        """What is sent before the server's own bundle."""
        return b""

    async def start(self) -> None:
        """Starts the server. Raises SlotDiedError with its last words if it does not come up in time."""
        try:
            async with asyncio.timeout(self.config.start_timeout_s):
                self._connection = await self.connect()
                await self._greet(self._connection)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            await self.end()
            raise SlotDiedError(
                f"a sandbox slot did not start ({self.last_words() or type(error).__name__})"
            ) from error
        except BaseException:
            await self.end()
            raise

    async def _greet(self, connection: Connection) -> None:
        settings = {
            "first_uid": _FIRST_UID + random.randrange(_NUM_UID_RANGES) * _UIDS_PER_SLOT,
            "judge_memory_bytes": self.config.judge_memory_bytes,
            "shows_proc": self.language is not None and self.language.needs_proc,
            **self.settings(),
            **self._added_settings,
        }
        connection.writer.write(self.preamble() + shipping.bundle(self._modules, settings))
        await connection.writer.drain()
        (size,) = LENGTH.unpack(await connection.reader.readexactly(LENGTH.size))
        self.hello = Hello(**json.loads(await connection.reader.readexactly(size)))

    async def run(self, order: Order, job: bytes, patience_s: float, suite: bytes = b"") -> tuple[Result, bytes]:
        """Runs one job. ``suite``: the part of it that other programs share; both are JSON objects then.

        Raises SlotDiedError if the server ends, or says nothing for ``patience_s`` seconds.
        """
        assert self._connection is not None, "the slot has not been started"
        reader, writer = self._connection.reader, self._connection.writer
        self.num_runs += 1
        message = self._message(order, job, suite)
        try:
            async with asyncio.timeout(patience_s):
                writer.write(message)  # not waited for: a server may end without having read all of it, and says why
                result = Result.unpack(await reader.readexactly(RESULT_BYTES))
                report = await reader.readexactly(result.report_bytes)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            self.is_odd = True
            raise SlotDiedError(f"a sandbox slot died ({self.last_words() or type(error).__name__})") from error
        except BaseException:  # cancelled in the middle: the stream is out of step
            self.is_odd = True
            raise
        return result, report

    def _message(self, order: Order, job: bytes, suite: bytes) -> bytes:
        """The order and all that must follow it. A large suite is sent if the slot does not hold it."""
        if not LEAST_BYTES <= len(suite) <= MAX_BYTES:
            whole = suite[:-1] + b"," + job[1:] if suite else job
            return order.pack() + with_length(whole)
        # Without the key, a digest would tell candidates, who see orders, whether a guess at the tests is right.
        digest = hashlib.blake2b(suite, key=self._digest_key, digest_size=len(NO_SUITE)).digest()
        order = replace(order, suite_digest=digest)
        if self._shelf.holds(digest):
            return order.pack() + with_length(job)
        order = replace(order, suite_follows=1, suites_dropped=self._shelf.put(digest, len(suite)))
        return order.pack() + with_length(suite) + with_length(job)
