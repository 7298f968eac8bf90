# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
"""Checkpoints that are there whole or not at all.

    <folder>.partial/state/          every rank its shards (torch.distributed.checkpoint), fsynced
    <folder>.partial/manifest.json   sizes and digests, written last, fsynced
    rename -> <folder>/              parent fsynced

A kill at any moment leaves the last good checkpoint and perhaps a ``.partial`` folder beside it, which the next save
sweeps away.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import shutil
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from pydantic import BaseModel
from torch import nn
from torch.distributed import ProcessGroup

from learner.errors import CheckpointError
from learner.parallel import SINGLE, Ranks

FORMAT = 5
STATE_FOLDER, MANIFEST_FILE = "state", "manifest.json"
_CHUNK_BYTES = 1 << 22
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def save_checkpoint(
    folder: str | Path,
    *,
    kind: str,
    settings: BaseModel,
    state: dict[str, Any],
    origins: Mapping[str, str] | None = None,
    figures: Mapping[str, float] | None = None,
    ranks: Ranks = SINGLE,
    group: ProcessGroup | None = None,
) -> Path:
    """Writes ``state`` (tensors and plain values) so that ``folder`` appears complete or not at all.

    Args:
        folder: replaced if it exists; all ranks name the same, on storage that all reach.
        kind: what it is, such as ``ppo``; compared when it is loaded.
        settings: the config it was made under; compared when it is loaded.
        state: nested dicts of tensors (each rank its shards), numbers, strings and lists.
        origins: fingerprints of models that are not in it and that it is nothing without, by what they are (``reference
            policy``); compared when it is loaded.
        figures: written into the manifest, so that the best checkpoint can be told.
        ranks: all write their shards, the first publishes.
        group: over which the ranks talk about it; None: the one that training uses.

    Returns:
        ``folder``.
    """
    folder = Path(folder)
    aside = folder.with_name(f"{folder.name}.partial")
    if ranks.is_first:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left_over in folder.parent.glob(f"{folder.name}.partial*"):
            shutil.rmtree(left_over, ignore_errors=True)
        aside.mkdir()
    ranks.wait(group)
    with _torch_checkpoint(aside):
        writer = dcp.FileSystemWriter(aside / STATE_FOLDER)
        dcp.save(state, storage_writer=writer, process_group=group, no_dist=ranks.count == 1)
    if ranks.is_first:
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        manifest = {
            "format": FORMAT,
            "kind": kind,
            "settings": settings.model_dump(mode="json"),
            "origins": dict(origins or {}),
            "figures": dict(figures or {}),
            "tensors": _shapes(state),
            "files": {
                str(path.relative_to(aside)): {"bytes": path.stat().st_size, "blake2b": _digest(path)} for path in files
            },
        }
        (aside / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n")
        publish_folder(aside, folder)
    ranks.wait(group)
    return folder


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises CheckpointError if it is absent or not complete."""
    try:
        return json.loads((Path(folder) / MANIFEST_FILE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no complete checkpoint at {str(folder)!r}: {error}") from error


def load_checkpoint(
    folder: str | Path,
    *,
    kind: str,
    settings: BaseModel,
    state: dict[str, Any],
    origins: Mapping[str, str] | None = None,
    ranks: Ranks = SINGLE,
) -> dict[str, Any]:
    """Reads what ``save_checkpoint`` wrote, on as many ranks as there are now.

    Args:
        folder: as saved.
        kind: as saved.
        settings: as saved.
        state: of the same structure as what was saved: tensors are overwritten in place, the rest is replaced. A
            checkpoint that is refused changes nothing in it.
        origins: as saved.
        ranks: those that load.

    Returns:
        ``state``.

    Raises:
        CheckpointError: absent, cut short, damaged, of another kind, made under another config (field named), or of
            another model (tensor named).
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.get("format") != FORMAT or manifest.get("kind") != kind:
        raise CheckpointError(
            f"checkpoint {str(folder)!r} is {manifest.get('kind')!r} format {manifest.get('format')}, "
            f"wanted {kind!r} format {FORMAT}"
        )
    difference = first_difference(manifest["settings"], settings.model_dump(mode="json"))
    if difference:
        raise CheckpointError(f"checkpoint {str(folder)!r} was made under another config: {difference}")
    for name, fingerprint in (origins or {}).items():
        if manifest["origins"].get(name) != fingerprint:
            raise CheckpointError(f"checkpoint {str(folder)!r} was made with another {name}")
    difference = first_difference(manifest["tensors"], _shapes(state))
    if difference:  # torch reads what it finds, and would leave the layers that a smaller model lacks
        raise CheckpointError(f"checkpoint {str(folder)!r} holds another model: {difference}")
    for name, facts in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != facts["bytes"] or _digest(path) != facts["blake2b"]:
            raise CheckpointError(
                f"checkpoint file {str(path)!r} is cut short or damaged ({size} of {facts['bytes']} bytes)"
            )
    with _torch_checkpoint(folder):
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder / STATE_FOLDER), no_dist=ranks.count == 1)
    return state


def first_difference(saved: Any, wanted: Any, path: str = "") -> str | None:
    """Where two plain structures first differ, such as ``kl.coefficient: 0.02 there, 0.05 here``."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in [*saved, *(key for key in wanted if key not in saved)]:
            found = first_difference(saved.get(key), wanted.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    return None if saved == wanted else f"{path}: {saved!r} there, {wanted!r} here"


def publish_folder(aside: Path, folder: Path) -> None:
    """Makes a finished folder appear under its final name in one step, surviving a power cut."""
    for path in sorted(aside.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_file() or path.is_dir():
            _fsync(path)
    _fsync(aside)
    old = None
    if folder.exists() and _exchanged(aside, folder):
        old = aside
    elif folder.exists():  # a file system that can't exchange names: for a moment there is none under this one
        old = folder.with_name(f"{folder.name}.partial-old-{os.getpid()}")
        os.rename(folder, old)
        os.rename(aside, folder)
    else:
        os.rename(aside, folder)
    _fsync(folder.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two could change names in one step (Linux, most local file systems)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE) == 0


def random_state() -> dict[str, Any]:
    """States of every global random generator. The learner draws from none of them; a user's hook might.

    A checkpoint of several ranks holds them once: what is drawn there must be alike on all.
    """
    name, keys, position, has_gauss, gauss = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    version, internal, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # no tensors: those must be as many where a checkpoint is loaded
        "cuda": [s.numpy().tobytes() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), spare],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of ``random_state``. On another number of GPUs theirs stay as they are."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([torch.frombuffer(bytearray(s), dtype=torch.uint8) for s in state["cuda"]])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, spare = state["python"]
    random.setstate((version, tuple(internal), spare))


def weights_fingerprint(model: nn.Module) -> str:
    """Sixteen hex digits of all weights: two models have the same if they are bitwise the same."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shapes(state: Any) -> Any:
    """The shape of every tensor in a nested state, as plain data; what is no tensor is left out."""
    if isinstance(state, torch.Tensor):
        return list(state.shape)
    if not isinstance(state, dict | list):
        return None
    parts = state.items() if isinstance(state, dict) else enumerate(state)
    return {str(name): shapes for name, part in parts if (shapes := _shapes(part)) is not None}


@contextmanager
def _torch_checkpoint(folder: Path) -> Generator[None]:
    """Torch's own failure is no Exception: whoever catches those would let it end the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except dcp.api.CheckpointException as error:
            reasons = "; ".join(f"rank {rank}: {failure[0]}" for rank, failure in error.failures.items())
            raise CheckpointError(f"checkpoint {str(folder)!r}: {reasons}") from error


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
