"""Sends the resident server into a slot: nothing of ours has to be in the image, or on a remote machine."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

from sandbox.resident.protocol import with_length

# In the order of their imports of each other.
SERVER = (
    "wire", "protocol", "shelf", "seccomp", "lockdown", "accounts", "cleaning", "ending", "proxies", "checkers",
    "foreign", "script", "judge", "candidate", "pair", "server",
)  # fmt: skip
COMPILER = ("wire", "seccomp", "lockdown", "accounts", "protocol", "compiler")
JAIL = ("seccomp", "lockdown", "jail")
_PACKAGE = "resident"

# Runs as ``python -c`` in the slot: reads the modules from standard input, then hands over to the server.
START_UP = f"""
import json, os, struct, sys, types
def read(size):
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            sys.exit(0)
        data += part
    return data
bundle = json.loads(read(struct.unpack("!Q", read(8))[0]))
package = sys.modules["{_PACKAGE}"] = types.ModuleType("{_PACKAGE}")
package.__path__ = []
for name, source in bundle["modules"]:
    full = "{_PACKAGE}." + name
    module = sys.modules[full] = types.ModuleType(full)
    module.__package__ = "{_PACKAGE}"
    setattr(package, name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
module.main(bundle["settings"])
"""

OWN_PYTHON = "{python}"
"""Stands in the words of a compiler for the interpreter that the slot's server runs on."""

# -s -S: no site folders. Settings of the environment are ours alone; hashing is repeatable, so that a program which
# prints a set gives the same text each time.
INTERPRETER_FLAGS = ("-s", "-S", "-B", "-P")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": "/tmp"}


@functools.cache
def _source(name: str) -> str:
    return importlib.resources.files("sandbox.resident").joinpath(f"{name}.py").read_text()


def bundle(modules: tuple[str, ...], settings: dict[str, Any]) -> bytes:
    """What the start-up code reads: SERVER, COMPILER or JAIL, and the settings for the ``main`` of the last module."""
    sources = [(name, _source(name)) for name in modules]
    payload = json.dumps({"modules": sources, "settings": settings}).encode()
    return with_length(payload)
