"""Slots in Docker: one warm container each, spoken to over its attached standard input and output.

Attached streams work over a socket of this machine and with a remote engine alike, and they tie the container's life
to ours: when this process dies, the engine closes the container's standard input, the server in it ends, and the
container is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import Any, cast

import docker
import docker.errors
from docker.models.containers import Container
from docker.types import LogConfig, Ulimit

from sandbox import shipping
from sandbox.config import Profile, SandboxConfig, slot_memory_bytes
from sandbox.errors import SlotDiedError
from sandbox.interpreter import this_interpreter
from sandbox.languages.definition import Language
from sandbox.roots import PYTHON
from sandbox.slot import Connection, Slot, last_line
from sandbox.verdict import Isolation

LABEL = "crucible.sandbox"
OWNER_LABEL = "crucible.owner"
POOL_LABEL = "crucible.pool"
_CAPABILITIES = {
    Profile.FAST: ["SETUID", "SETGID", "KILL", "SYS_ADMIN"],
    Profile.LEAN: ["SETUID", "SETGID", "KILL", "CHOWN"],
}
_COVER = "ro,noexec,nosuid,nodev,size=4k,mode=555"
_FOLDERS = {
    "/tmp": "rw,noexec,nosuid,nodev,size=32m,nr_inodes=4096,mode=755",
    # What an engine or a runtime puts there by itself, for anybody to write to.
    "/dev/mqueue": _COVER,
    "/dev/shm": _COVER,
}
_MAX_PROCESSES = 512
_STDOUT, _STDERR = 1, 2
_STDERR_TAIL = 2000


def owner() -> str:
    """Names this process among all that may use the engine: boot of the machine and pid namespace, pid, start."""
    return f"{_where()}:{os.getpid()}:{_start_of(os.getpid())}"


def _where() -> str:
    """In what pids are told apart: containers of one machine share its boot, and each counts for itself."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"


def _start_of(pid: int) -> str:
    """When the process started, in ticks since boot; "" if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""


def _is_orphan(label: str) -> bool:
    """True if the owner was a process that would be in sight here, and is no more."""
    try:
        where, pid, start = label.split(":")
        return where == _where() and _start_of(int(pid)) != start
    except ValueError:
        return False


def sweep(client: docker.DockerClient) -> None:
    """Removes containers that dead processes left."""
    for container in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        if _is_orphan(str(cast(Any, container).labels.get(OWNER_LABEL, ""))):
            _remove(container)


def sweep_pool(client: docker.DockerClient, pool: str) -> None:
    """Removes containers of a pool that is being closed: of slots that ended while the engine did not answer, say.

    Where it does not answer now either, the next process's sweep finds them.
    """
    with contextlib.suppress(docker.errors.DockerException, OSError):
        label = f"{POOL_LABEL}={pool}"
        for container in client.containers.list(all=True, filters={"label": label}, ignore_removed=True):
            _remove(container)


def _remove(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):  # gone, or on its way
            raise


class DockerSlot(Slot):
    """A container that lives as long as its standard input."""

    def __init__(
        self,
        config: SandboxConfig,
        client: docker.DockerClient,
        image: str,
        language: Language | None = None,
        pool: str = "",
    ) -> None:
        """``pool``: names the pool that the slot is of, for ``sweep_pool``."""
        super().__init__(config, language)
        self._pool = pool
        self._python = PYTHON if language else this_interpreter().executable_in_root
        self._client = client
        self._image = image
        self._container: Container | None = None
        self._tail = b""
        self._pump: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> Connection:
        try:
            raw = await asyncio.to_thread(self._create)
        except (docker.errors.DockerException, OSError) as error:
            raise SlotDiedError(f"the engine did not start a container: {str(error)[:300]}") from None
        source, self._writer = await asyncio.open_connection(sock=raw)
        reader = asyncio.StreamReader()
        self._pump = asyncio.create_task(self._demultiplex(source, reader))
        return Connection(reader, self._writer)

    def _create(self) -> socket.socket:
        """Creates, attaches, then starts: so no byte is lost."""
        config = self.config
        memory = slot_memory_bytes(config)
        security = ["no-new-privileges:true"]
        if config.profile is Profile.FAST:
            security.append("apparmor=unconfined")  # its default profile forbids all mounts
        self._container = self._client.containers.create(
            self._image,
            [self._python, *shipping.INTERPRETER_FLAGS, "-c", shipping.START_UP],
            stdin_open=True,
            auto_remove=True,
            labels={LABEL: config.profile.value, OWNER_LABEL: owner(), POOL_LABEL: self._pool},
            # An empty network namespace either way. "none" alone is an end point that Docker's network library has to
            # give up, whose locks containers that end together bring to a standstill (20.10); not every engine of that
            # interface knows the other.
            network_mode="none",
            network_disabled=True,
            ipc_mode="none",
            read_only=True,
            tmpfs=_FOLDERS,
            cap_drop=["ALL"],
            cap_add=_CAPABILITIES[config.profile],
            security_opt=security,
            mem_limit=memory,
            memswap_limit=memory,
            pids_limit=_MAX_PROCESSES,
            ulimits=[Ulimit(name="core", soft=0, hard=0)],
            log_config=LogConfig(type=LogConfig.types.NONE, config={}),
            runtime=config.runtime,
        )
        attach = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        api: Any = self._client.api  # the library's own types leave this method open
        stream: Any = api.attach_socket(self._container.id, params=attach)
        raw = getattr(stream, "_sock", stream)
        assert isinstance(raw, socket.socket)
        owned = raw.dup()  # the client library closes its own object when it is collected
        owned.setblocking(False)
        self._stream: Any = stream
        self._container.start()
        return owned

    async def _demultiplex(self, source: asyncio.StreamReader, output: asyncio.StreamReader) -> None:
        """Takes the engine's stream apart: eight bytes of kind and length, then bytes of that kind."""
        try:
            while True:
                kind, size = struct.unpack("!B3xI", await source.readexactly(8))
                chunk = await source.readexactly(size)
                if kind == _STDOUT:
                    output.feed_data(chunk)
                elif kind == _STDERR:
                    self._tail = (self._tail + chunk)[-_STDERR_TAIL:]
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            output.feed_eof()

    def settings(self) -> dict[str, Any]:
        return {"namespaces": self.config.profile is Profile.FAST, "own_users": False, "hard_memory": True}

    def isolation(self, holds: frozenset[str]) -> Isolation:
        is_bounded = self.hello is not None and self.hello.memory_limit_bytes > 0
        return Isolation(
            backend="docker",
            profile=self.config.profile.value,
            memory="hard" if is_bounded else "soft",
            network="network" in holds,
            pid_namespace="pid_namespace" in holds,
            seccomp="seccomp" in holds,
        )

    def last_words(self) -> str:
        return last_line(self._tail)

    async def end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._container is not None:
            container, self._container = self._container, None
            try:
                await asyncio.to_thread(_remove, container)
            except (docker.errors.DockerException, OSError) as error:
                # The engine is gone; what it leaves is swept by label when the pool is closed.
                self._tail += f" {error}".encode()[:200]
        if self._pump is not None:
            self._pump.cancel()
