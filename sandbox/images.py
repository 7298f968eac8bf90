"""The sandbox image: the machine's own CPython and nothing else, made without any registry.

``python -m sandbox.images`` (``make images``) builds it where it is missing or stale, and does nothing without an
engine. The image carries a label with a hash of its definition and of the interpreter; it holds no code of ours.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any, cast

import docker
import docker.errors

from sandbox import shipping
from sandbox.errors import EngineMissingError, ImageMissingError, SandboxError
from sandbox.interpreter import Interpreter, this_interpreter

BUILD_COMMAND = "make images"
_REPOSITORY = "crucible-sandbox"
_LABEL = "crucible.definition"
# Raise it when what is put into the image, or how, changes.
_DEFINITION = "2"
_FOLDERS = ("dev", "etc", "proc", "sys", "tmp", "usr", "usr/bin")
_PASSWD = b"root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"


def engine() -> docker.DockerClient:
    """The engine that DOCKER_HOST names, or the local one. Raises EngineMissingError with the way to one."""
    try:
        client = docker.from_env(timeout=60, max_pool_size=64)
        cast(Any, client).ping()
    except (docker.errors.DockerException, OSError) as error:
        raise EngineMissingError(
            f"no Docker engine answers ({type(error).__name__}): start one with `deploy/docker/engine.sh up`, "
            "or set the sandbox's backend to embedded"
        ) from None
    return client


def definition_hash(interpreter: Interpreter) -> str:
    """Of what goes into the image, and of the interpreter's version, build and libraries."""
    return hashlib.sha256(f"{_DEFINITION} {interpreter.fingerprint}".encode()).hexdigest()[:16]


def image_name(interpreter: Interpreter) -> str:
    """Repository and tag. The hash is part of it, so that two interpreters of a machine do not fight for one name."""
    return f"{_REPOSITORY}:{interpreter.name}-{definition_hash(interpreter)}"


def find_image(client: docker.DockerClient) -> str:
    """The id of the fitting image. Raises ImageMissingError, naming the command that builds it."""
    interpreter = this_interpreter()
    name = image_name(interpreter)
    try:
        image = client.images.get(name)
    except docker.errors.ImageNotFound:
        state = "is stale" if client.images.list(name=_REPOSITORY) else "is missing"
        raise ImageMissingError(
            f"the sandbox image for {interpreter.name} {state}: build it with `{BUILD_COMMAND}`"
        ) from None
    assert image.id is not None
    return image.id


def _add_bytes(archive: tarfile.TarFile, place: str, content: bytes) -> None:
    entry = tarfile.TarInfo(place)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, place: str, source: Path) -> None:
    """Root's, readable by all. The time of change stays: compiled modules are checked against it."""
    status = source.stat()
    entry = tarfile.TarInfo(place.lstrip("/"))
    entry.size, entry.mtime = status.st_size, int(status.st_mtime)
    entry.mode = 0o755 if status.st_mode & 0o111 else 0o644
    with source.open("rb") as content:
        archive.addfile(entry, content)


def _write_root(interpreter: Interpreter, target: IO[bytes]) -> None:
    with tarfile.open(fileobj=target, mode="w") as archive:
        for folder in _FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        _add_bytes(archive, "etc/passwd", _PASSWD)
        _add_file(archive, interpreter.executable_in_root, interpreter.executable)
        for place, source in (*interpreter.shared_objects.items(), *interpreter.library_files()):
            _add_file(archive, place, source)


def build_image(client: docker.DockerClient) -> str:
    """Builds the image and returns its name."""
    interpreter = this_interpreter()
    name = image_name(interpreter)
    repository, tag = name.split(":")
    environment = {**shipping.ENVIRONMENT, **interpreter.environment}
    changes = [f"LABEL {_LABEL}={definition_hash(interpreter)}"]
    changes += [f'ENV {key}="{value}"' for key, value in environment.items()]
    with tempfile.TemporaryFile() as root:
        _write_root(interpreter, root)
        root.seek(0)
        answer: Any = cast(Any, client.api).import_image_from_data(
            root, repository=repository, tag=tag, changes=changes
        )
    if "error" in str(answer):
        raise SandboxError(f"the engine did not take the image: {answer}")
    return name


def main() -> int:
    """Builds what is missing or stale; says what it did."""
    try:
        client = engine()
    except EngineMissingError:
        print("images: no Docker engine answers, nothing to build (the embedded backend needs no image)")
        return 0
    try:
        find_image(client)
    except ImageMissingError as reason:
        print(f"images: {str(reason).split(':')[0]}; building")
        print(f"images: built {build_image(client)}")
    else:
        print(f"images: {image_name(this_interpreter())} is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
