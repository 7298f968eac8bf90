"""Weight transport: how the trainer's weights reach a running generator. Four phases, as vLLM's own.

    trainer:    publish(version, buckets) -> ticket                                  retire(version)
    generator:                              verify(ticket)?  start  update(ticket)  finish
                                            (still sampling) |---- nothing sampled ----|

A published version is a folder: its buckets as safetensors, and ``manifest.json`` with size and checksum of each. The
folder appears under its name only when it is complete. ``shm`` is meant for the memory file system of one host, and
works on any folder that both sides see.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from actors.errors import WeightsCorruptedError, WeightsMissingError, WeightTransportError
from problems.identity import WeightsVersion

if TYPE_CHECKING:
    import torch

    Bucket = list[tuple[str, torch.Tensor]]

SHARED_MEMORY = Path("/dev/shm")
_FOLDER_PREFIX = "crucible-weights-"
_MANIFEST = "manifest.json"
_READ_BYTES = 1 << 22


class WeightSender(Protocol):
    """The trainer's side. Publishes a version once; receivers are told where it lies."""

    def publish(self, version: WeightsVersion, buckets: Iterable[Bucket]) -> dict[str, str]:
        """Writes all buckets (Hugging Face parameter names, contiguous tensors) and returns a *ticket*: plain strings
        that tell a receiver where and what it is, its checksum included."""
        ...

    def retire(self, version: WeightsVersion) -> None:
        """Frees a version that no receiver needs any more."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...


class WeightReceiver(Protocol):
    """A generator's side. The phases are called in this order, each under a time-out of the caller."""

    async def init(self) -> None: ...

    async def start(self, version: WeightsVersion) -> None:
        """Requests in flight are paused; no token is sampled until ``finish`` returns."""
        ...

    async def update(self, ticket: dict[str, str]) -> None:
        """Loads the published buckets into the engine's weights, in place; verifies the checksum."""
        ...

    async def finish(self, version: WeightsVersion) -> None:
        """The engine now samples with ``version``; requests in flight go on."""
        ...


def bucketed(tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int = 256 << 20) -> Iterator[Bucket]:
    """Groups named tensors, in order, into buckets of at most ``bucket_bytes`` (a larger tensor has one to itself)."""
    bucket: Bucket = []
    size = 0
    for name, tensor in tensors:
        if bucket and size + tensor.nbytes > bucket_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += tensor.nbytes
    if bucket:
        yield bucket


class ShmSender:
    """Publishes under ``root``, by default the host's shared memory.

    Its own folder is locked as long as this process lives. What a killed sender left behind is unlocked, and swept when
    the next one starts.

    Args:
        run: name of the run, a part of the folder's name.
        root: where to publish; must exist.
        keep: versions that stay; an older one is retired when the next is published.
    """

    def __init__(self, run: str, root: Path = SHARED_MEMORY, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        if not root.is_dir():
            raise WeightTransportError(f"weights cannot be published under {root}: no such folder")
        sweep(root)
        self._keep = keep
        self._published: list[WeightsVersion] = []
        self._folder, self._lock = _make_locked_folder(root, f"{_as_file_name(run)}-{os.urandom(4).hex()}")

    def publish(self, version: WeightsVersion, buckets: Iterable[Bucket]) -> dict[str, str]:
        """Writes one version and returns its ticket. Raises WeightTransportError where it does not fit."""

        def write(folder: Path) -> bytes:
            files = [_write_bucket(folder, index, bucket) for index, bucket in enumerate(buckets)]
            return json.dumps({"version": str(version), "files": files}).encode()

        return self._complete(version, write)

    def copy(self, ticket: dict[str, str], contents: Iterable[bytes | memoryview]) -> dict[str, str]:
        """Publishes on this node what ``read_published`` gave on the ticket's; returns the ticket for here.

        Manifest and digest are the publisher's own: what was damaged on the way is refused where it is loaded.
        """

        def write(folder: Path) -> bytes:
            manifest, *files = contents
            for (name, _, _), content in zip(json.loads(bytes(manifest))["files"], files, strict=True):
                _check_room(folder, len(content))
                (folder / name).write_bytes(content)
            return bytes(manifest)

        return self._complete(WeightsVersion.parse(ticket["version"]), write)

    def _complete(self, version: WeightsVersion, write: Callable[[Path], bytes]) -> dict[str, str]:
        """The folder that ``write`` fills appears under its name when it is whole. Returns its ticket."""
        partial = self._folder / f"{version}.partial"
        final = self._folder / str(version)
        for folder in (partial, final):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            partial.mkdir()
            manifest = write(partial)
            (partial / _MANIFEST).write_bytes(manifest)
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._published = [*(published for published in self._published if published != version), version]
        for old in self._published[: -self._keep]:
            self.retire(old)
        return {
            "transport": "shm",
            "version": str(version),
            "folder": str(final),
            "files": str(len(json.loads(manifest)["files"])),
            "digest": _digest(manifest),
        }

    def retire(self, version: WeightsVersion) -> None:
        """Frees a version; a receiver that has its files open already is not disturbed."""
        shutil.rmtree(self._folder / str(version), ignore_errors=True)
        self._published = [published for published in self._published if published != version]

    def close(self) -> None:
        """Frees everything."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def sweep(root: Path = SHARED_MEMORY) -> int:
    """Frees what senders that live no more have left under ``root``; returns how many folders that were."""
    return sum(_remove_if_abandoned(folder) for folder in root.glob(f"{_FOLDER_PREFIX}*") if folder.is_dir())


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """A verified version: its files are complete and unchanged."""

    version: WeightsVersion
    files: tuple[Path, ...]


def read_published(ticket: dict[str, str]) -> Iterator[memoryview]:
    """The manifest, then each file, of a version on this node: what ``ShmSender.copy`` needs on another one."""
    folder = Path(ticket["folder"])
    manifest = _read(folder / _MANIFEST, ticket["version"])
    yield memoryview(manifest)
    for name, _, _ in json.loads(manifest)["files"]:
        yield memoryview(_read(folder / name, ticket["version"]))


def verify_published(ticket: dict[str, str]) -> PublishedWeights:
    """Reads every published byte and compares it with the checksums that ``ticket`` vouches for.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptedError: a file is not what was published.
        WeightTransportError: this is no ticket of this transport.
    """
    if ticket.get("transport") != "shm" or not {"version", "folder", "digest"} <= ticket.keys():
        raise WeightTransportError(f"not a ticket of the shm transport: {ticket}")
    folder = Path(ticket["folder"])
    manifest = _read(folder / _MANIFEST, ticket["version"])
    if _digest(manifest) != ticket["digest"]:
        raise WeightsCorruptedError(
            f"{folder / _MANIFEST} is not the manifest that was published for {ticket['version']}"
        )
    content = json.loads(manifest)
    if content["version"] != ticket["version"]:
        raise WeightsCorruptedError(f"ticket says version {ticket['version']}, its files say {content['version']}")
    files = [_verify_file(folder / name, size, checksum) for name, size, checksum in content["files"]]
    return PublishedWeights(WeightsVersion.parse(ticket["version"]), tuple(files))


def _write_bucket(folder: Path, index: int, bucket: Bucket) -> tuple[str, int, int]:
    """Name, bytes and CRC-32 of the file written."""
    from safetensors.torch import save_file

    _check_room(folder, sum(tensor.nbytes for _, tensor in bucket))
    path = folder / f"bucket-{index:05d}.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in bucket}, path)
    return path.name, path.stat().st_size, _crc(path)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WeightTransportError(
            f"{needed >> 20} MiB of weights do not fit into {folder.parent}: {free >> 20} MiB are free"
        )


def _verify_file(path: Path, size: int, checksum: int) -> Path:
    try:
        found = path.stat().st_size, _crc(path)
    except FileNotFoundError:
        raise WeightsMissingError(f"{path} is gone: its version was retired, or published on another node") from None
    if found != (size, checksum):
        raise WeightsCorruptedError(
            f"{path} has {found[0]} bytes and CRC {found[1]:08x}, not {size} and {checksum:08x}"
        )
    return path


def _crc(path: Path) -> int:
    """CRC-32: it is there against torn and mixed-up files, not against an adversary, and costs 0.15 s a GB."""
    checksum = 0
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_READ_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _read(path: Path, version: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise WeightsMissingError(
            f"weights {version} are not at {path.parent}: retired, or on another node "
            "(generators.engine.weight_transport per_node brings them there)"
        ) from None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _as_file_name(text: str) -> str:
    return "".join(char if char.isalnum() or char in "._" else "_" for char in text)


def _make_locked_folder(root: Path, name: str) -> tuple[Path, IO[bytes]]:
    """A folder that no sweep takes for abandoned: it gets the name that sweeps look for only once it is locked."""
    unnamed = root / f".{name}"
    unnamed.mkdir(mode=0o700)
    lock = _lock_file(unnamed)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return unnamed.rename(root / f"{_FOLDER_PREFIX}{name}"), lock


def _lock_file(folder: Path) -> IO[bytes]:
    return (folder / "owner.lock").open("wb")


def _remove_if_abandoned(folder: Path) -> bool:
    """A lock that can be taken has no living owner: the kernel drops it with the process."""
    try:
        with _lock_file(folder) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            return True
    except OSError:
        return False
