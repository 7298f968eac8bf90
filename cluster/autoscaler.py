"""What a run has asked of Ray's autoscaler.

A request stands in the cluster, not in the process: nodes are kept for it, and paid for, until it is withdrawn. So it
is noted in the run's folder while it stands, and the next start of a run whose driver was killed withdraws it. Where
there is no autoscaler nothing comes of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.autoscaler.sdk import request_resources

if TYPE_CHECKING:
    from cluster.placement import Bundle

_NOTE = "autoscaler_request"  # a file that holds the address of the cluster that was asked
_notes: list[Path] = []  # of the run that this process drives


@contextlib.contextmanager
def autoscaler_asked_for(folder: Path) -> Iterator[None]:
    """Around a run: what is asked within is noted in its folder, and withdrawn at the end."""
    _notes.append(folder / _NOTE)
    try:
        yield
    finally:
        _withdraw(_notes.pop())


def ask_autoscaler(bundles: Sequence[Bundle]) -> None:
    """For nodes that hold these, in place of what was asked before."""
    for note in _notes:
        note.write_text(_cluster())  # first: a note without a request does no harm
    request_resources(bundles=[dict(bundle.resources) for bundle in bundles])


def _withdraw(note: Path) -> None:
    """Lets go of the nodes.

    A run that asked for nothing, or asked another cluster, leaves the request as it is: all of a cluster's users share
    one.
    """
    with contextlib.suppress(Exception):  # the cluster may be gone, and the request with it
        if note.exists() and note.read_text() == _cluster():
            request_resources(bundles=[])
    note.unlink(missing_ok=True)


def _cluster() -> str:
    return ray.get_runtime_context().gcs_address
