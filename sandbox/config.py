"""Settings of the sandbox."""

from __future__ import annotations

import os
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Backend(StrEnum):
    """Where programs run."""

    AUTO = "auto"
    DOCKER = "docker"
    EMBEDDED = "embedded"


class Profile(StrEnum):
    """How a slot in Docker holds a program; see docs/sandbox.md."""

    FAST = "fast"
    LEAN = "lean"


class SandboxConfig(BaseModel):
    """How untrusted programs are run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    backend: Backend = Backend.AUTO
    """``docker`` needs an engine; ``embedded`` makes its own namespaces; ``auto`` takes docker where an engine answers
    and the image is there, else embedded."""
    profile: Profile = Profile.FAST
    """Docker only. ``fast``: the server keeps SYS_ADMIN to give each run its own namespaces, and the program never has
    it. ``lean``: no SYS_ADMIN; each run has a uid of its own instead."""
    languages: tuple[str, ...] = ("python",)
    """Languages whose slots are started at once; those of another language are when its first program comes."""
    slots: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=1024)
    """Programs of one language run at once; each slot is one warm server."""
    max_queued: int = Field(default=256, ge=0)
    """Runs that may wait for a slot of a language; the caller of a further one waits before anything is made for it."""
    recycle_after: int = Field(default=2000, ge=1)
    """Runs after which a slot is replaced, as soon as its successor is warm."""
    memory_bytes: int = Field(default=1 << 30, ge=64 << 20)
    """Largest ``Limits.memory_bytes`` that a run may ask for."""
    judge_memory_bytes: int = Field(default=1 << 30, ge=64 << 20)
    """Address space of the judge, beside the program's memory."""
    cache_entries: int = Field(default=0, ge=0)
    """Verdicts remembered, so that a program which comes again is not run again; 0: each is run."""
    max_source_bytes: int = Field(default=1 << 20, ge=1)
    """A longer program is refused as a compile error."""
    refuse_merged: bool = False
    """Refuse suites that run in the program's own process, whose passes can be forged (``trust="merged"``)."""
    runtime: str | None = None
    """Docker only: the container runtime, such as ``runsc`` for gVisor; the engine's default if not given."""
    start_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds that a slot may take to start."""


_SERVER_BYTES = 128 << 20


def slot_memory_bytes(config: SandboxConfig) -> int:
    """What a slot's control group allows: the program, a judge of the usual size, and the server."""
    return config.memory_bytes + config.judge_memory_bytes // 4 + _SERVER_BYTES
