"""A child process that never outlives its owner, even when the owner is killed and can tell nobody."""

from __future__ import annotations

import os
import select
import threading

OWNER_VARIABLE = "CRUCIBLE_ENGINE_OWNER_PID"


def own_children() -> None:
    """Names this process the owner of the processes that it starts from now on."""
    os.environ[OWNER_VARIABLE] = str(os.getpid())


def end_with_owner() -> None:
    """Called in a child, at any depth: from now on it ends when the owner does. Without an owner, nothing happens."""
    owner = os.environ.get(OWNER_VARIABLE, "")
    if owner and int(owner) != os.getpid():
        threading.Thread(target=_end_after, args=(int(owner),), name="end-with-owner", daemon=True).start()


def _end_after(owner_pid: int) -> None:
    """Consumes nothing; waits for the owner's end, which alone unblocks it; ends this process."""
    try:
        owner = os.pidfd_open(owner_pid)
    except ProcessLookupError:
        os._exit(1)  # it was killed while we were still importing
    select.select([owner], [], [])
    os._exit(1)
