"""The machine's own CPython as a set of files: what an image or an embedded root needs to run it.

Both place it at the same paths, under /usr, so that a program sees the same interpreter under each backend.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from sandbox.errors import SandboxError

_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages",
     "pydoc_data"}
)  # fmt: skip
_LIBRARY_PATTERN = re.compile(r"(/\S+) \(0x")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Files of one CPython.

    Attributes:
        version: of the language and the build, such as ``3.11.7 (main, ...)``.
        executable: the real file of the base interpreter.
        library: its standard library's folder.
        shared_objects: path in the root -> real file, of all that it is linked with.
    """

    version: str
    executable: Path
    library: Path
    shared_objects: dict[str, Path]

    @property
    def name(self) -> str:
        return f"python{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def executable_in_root(self) -> str:
        return f"/usr/bin/{self.name}"

    @property
    def library_in_root(self) -> str:
        return f"/usr/{sys.platlibdir}/{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """Makes the moved interpreter find its parts."""
        folders = dict.fromkeys(str(Path(path).parent) for path in self.shared_objects)
        return {"PYTHONHOME": "/usr", "LD_LIBRARY_PATH": ":".join(folders)}

    @property
    def fingerprint(self) -> str:
        """Changes with the interpreter's version, build and libraries."""
        digest = hashlib.sha256(self.version.encode())
        for path in [self.executable, *self.shared_objects.values()]:
            status = path.stat()
            digest.update(f"{path.name} {status.st_size}\n".encode())
        return digest.hexdigest()[:16]

    def library_files(self) -> list[tuple[str, Path]]:
        """(path in the root, real file) of the standard library, without tests, tools and packages of others."""
        found: list[tuple[str, Path]] = []
        for folder, folders, files in os.walk(self.library):
            folders[:] = sorted(
                name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith("config-")
            )
            for name in sorted(files):
                path = Path(folder, name)
                if path.suffix != ".a" and path.is_file():
                    found.append((f"{self.library_in_root}/{path.relative_to(self.library)}", path))
        return found


def _linked_with(files: list[Path]) -> dict[str, Path]:
    """Shared objects of these files, by the path under which the loader finds them."""
    try:
        # It answers 1 if one of the files is static, with the others' lines on standard output all the same.
        listing = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        raise SandboxError("ldd is missing: install the C library's tools (libc-bin on Debian)") from None
    found = dict.fromkeys(_LIBRARY_PATTERN.findall(listing))
    # Normal paths: an interpreter that finds its library relative to itself is listed with dots in the way.
    return {os.path.normpath(path): Path(os.path.realpath(path)) for path in sorted(found)}


@functools.cache
def this_interpreter() -> Interpreter:
    """The base interpreter of the running Python (not the virtual environment's link to it)."""
    base_executable = getattr(sys, "_base_executable", sys.executable)
    executable = Path(os.path.realpath(base_executable))
    library = Path(os.path.realpath(sysconfig.get_path("stdlib")))
    # Each library is a mount in embedded slots, copied in every run: those of the one graphical module are left out.
    extensions = [path for path in sorted(library.glob("lib-dynload/*.so")) if not path.name.startswith("_tkinter")]
    return Interpreter(sys.version, executable, library, _linked_with([executable, *extensions]))
