"""The sandbox images, one for each language, made without any registry.

Python's holds the machine's own CPython and nothing else; the others' hold the tree that ``sandbox/roots.py`` makes of
Debian packages, which is also the root of their embedded slots. ``python -m sandbox.images [LANGUAGE ..]``
(``make images``) builds what is missing or stale: images where an engine answers, else the trees. An image carries a
label with a hash of its definition, and its tag that of the packages' versions; it holds no code of ours.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any, cast

import docker
import docker.errors

from sandbox import roots, shipping
from sandbox.errors import EngineMissingError, ImageMissingError, SandboxError
from sandbox.interpreter import Interpreter, this_interpreter
from sandbox.languages import PYTHON, Language, language_of

BUILD_COMMAND = "make images"
_PATIENCE_S = 180  # with an engine's answer, which was seen to take over a minute at many times a machine's work
_REPOSITORY = "crucible-sandbox"
_LABEL, _LANGUAGE_LABEL = "crucible.definition", "crucible.language"
USUAL = (PYTHON, "java", "cpp", "javascript")
# Raise it when what is put into the image, or how, changes.
_DEFINITION = "2"
_FOLDERS = ("dev", "etc", "proc", "sys", "tmp", "usr", "usr/bin")
_PASSWD = b"root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"


def engine() -> docker.DockerClient:
    """The engine that DOCKER_HOST names, or the local one. Raises EngineMissingError with the way to one."""
    try:
        client = docker.from_env(timeout=_PATIENCE_S, max_pool_size=64)
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


def find_image(client: docker.DockerClient, language: Language | None = None) -> str:
    """The id of the fitting image; of the machine's Python if no language is given.

    Raises ImageMissingError, naming the command that builds it.
    """
    if language is not None:
        return _find_language_image(client, language)
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


def _import(
    client: docker.DockerClient, root: IO[bytes], name: str, labels: dict[str, str], environment: dict[str, str]
) -> str:
    repository, tag = name.split(":")
    changes = [f"LABEL {key}={value}" for key, value in labels.items()]
    changes += [f'ENV {key}="{value}"' for key, value in environment.items()]
    answer: Any = cast(Any, client.api).import_image_from_data(root, repository=repository, tag=tag, changes=changes)
    if "error" in str(answer):
        raise SandboxError(f"the engine did not take the image: {answer}")
    return name


def build_image(client: docker.DockerClient, language: Language | None = None) -> str:
    """Builds the image of a language, or of the machine's Python, and returns its name."""
    with tempfile.TemporaryFile() as content:
        if language is None:
            interpreter = this_interpreter()
            name, labels = image_name(interpreter), {_LABEL: definition_hash(interpreter)}
            environment = {**shipping.ENVIRONMENT, **interpreter.environment}
            _write_root(interpreter, content)
        else:
            root = roots.build_root_if_missing(language)
            name, labels = f"{_REPOSITORY}:{root.name}", _labels(language)
            environment = shipping.ENVIRONMENT
            with tarfile.open(fileobj=content, mode="w") as archive:
                archive.add(root, arcname=".", filter=_as_root)
        content.seek(0)
        return _import(client, content, name, labels, environment)


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _labels(language: Language) -> dict[str, str]:
    return {_LANGUAGE_LABEL: language.name, _LABEL: language.definition_hash}


def _find_language_image(client: docker.DockerClient, language: Language) -> str:
    """The newest image of this definition."""
    fitting = client.images.list(filters={"label": [f"{key}={value}" for key, value in _labels(language).items()]})
    if not fitting:
        others = client.images.list(filters={"label": f"{_LANGUAGE_LABEL}={language.name}"})
        raise ImageMissingError(
            f"the sandbox image for {language.name} {'is stale' if others else 'is missing'}: "
            f"build it with `{roots.build_command(language)}`"
        )
    newest: Any = max(fitting, key=lambda image: str(cast(Any, image).attrs["Created"]))
    return str(newest.id)


def _build_for(client: docker.DockerClient | None, name: str) -> str:
    """Builds what is missing of one language; says what it did."""
    language = None if name == PYTHON else language_of(name)
    if client is None:
        if language is None:
            return "no Docker engine answers, and the embedded backend needs no image"
        return f"root {roots.build_root_if_missing(language).name} is there"
    try:
        find_image(client, language)
    except ImageMissingError:
        return f"built {build_image(client, language)}"
    if language is not None:  # the embedded backend, chosen explicitly, wants the tree
        roots.build_root_if_missing(language)
    return "is up to date"


def dockerfile(language: Language) -> str:
    """For an engine that reaches a registry: an image of the same definition, which the docker backend finds by label.

    It is larger than that of ``build_image``: nothing that is installed is dropped.
    """
    packages = " ".join(["python3", *language.packages])
    lines = [
        "FROM debian:bookworm-slim",
        f"RUN apt-get update && apt-get install --yes --no-install-recommends {packages}",
        *(f'ENV {key}="{value}"' for key, value in language.environment.items()),
        *(f"RUN ln -sf {target} /{place}" for place, target in language.links.items()),
    ]
    for place, content in language.files().items():
        encoded = base64.b64encode(content).decode()
        lines.append(f"RUN mkdir -p $(dirname /{place}) && echo {encoded} | base64 -d > /{place}")
    for words in (*language.finish, *language.finish_inside):
        lines.append("RUN " + " ".join(words).replace("{root}", ""))
    lines += [f"LABEL {key}={value}" for key, value in _labels(language).items()]
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> int:
    """Builds what is missing or stale for these languages; exit code. ``--dockerfile LANGUAGE`` prints one instead.

    Without names, the usual ones as far as they can be had: a machine without Debian's tools still has Python.
    """
    if names[:1] == ["--dockerfile"]:
        try:
            print(_dockerfile_of(names[1:]), end="")
        except ValueError as error:
            print(f"images: {error}", file=sys.stderr)
            return 1
        return 0
    try:
        client = engine()
    except EngineMissingError:
        client = None
    for name in names or USUAL:
        try:
            print(f"images: {name}: {_build_for(client, name)}", flush=True)
        except (SandboxError, ValueError) as error:
            print(f"images: {name}: {error}", file=sys.stderr, flush=True)
            if names:
                return 1
    return 0


def _dockerfile_of(names: list[str]) -> str:
    if len(names) != 1:
        raise ValueError("--dockerfile takes one language")
    if names == [PYTHON]:
        raise ValueError(f"Python's image holds this machine's own interpreter; `{BUILD_COMMAND}` needs no registry")
    return dockerfile(language_of(names[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
