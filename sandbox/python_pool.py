"""Python's executor: function and stdin suites as in any slot, and a resident check for programs that are not run."""

from __future__ import annotations

import asyncio
import base64
import functools
import importlib.resources
import json
import zlib
from collections.abc import Callable

from problems.problem import Limits
from sandbox import shipping
from sandbox.compiling import checked
from sandbox.config import SandboxConfig
from sandbox.java.compiling import CompilerPool
from sandbox.pool import SlotPool
from sandbox.slot import Slot
from sandbox.verdict import Program, Verdict

_SOURCE_FILE = "solution.py"
_PROBE = (_SOURCE_FILE, b"def f(x):\n    return x + 1\n")
# In the order of their imports of each other. They travel as an argument: nothing of ours has to be in the image.
_MODULES = (("pyflakes", "__init__"), ("pyflakes", "messages"), ("pyflakes", "checker"))
_START_UP = """
import base64, json, sys, types, zlib
for full, source in json.loads(zlib.decompress(base64.b64decode(sys.argv.pop()))):
    module = types.ModuleType(full)
    module.__path__ = []
    sys.modules[full] = module
    parent, _, name = full.rpartition(".")
    if parent:
        setattr(sys.modules[parent], name, module)
    exec(compile(source, full, "exec"), module.__dict__)
"""


@functools.cache
def checker_words() -> list[str]:
    """How the check is started in a slot, by the slot's own Python."""
    modules = [
        (package if name == "__init__" else f"{package}.{name}", _source(package, name)) for package, name in _MODULES
    ]
    modules.append(("__main__", _source("sandbox.resident", "python_check")))
    payload = base64.b64encode(zlib.compress(json.dumps(modules).encode(), 9)).decode()
    return [shipping.OWN_PYTHON, *shipping.INTERPRETER_FLAGS, "-c", _START_UP, payload]


def _source(package: str, name: str) -> str:
    return importlib.resources.files(package).joinpath(f"{name}.py").read_text()


class PythonPool(SlotPool):
    """Executor for Python. The slots of the check are started when the first program comes that is only compiled."""

    def __init__(self, config: SandboxConfig, make_slot: Callable[[], Slot]) -> None:
        super().__init__(config, make_slot)
        self._checkers = CompilerPool(config, make_slot, checker_words(), shipping.ENVIRONMENT, _PROBE)
        self._starting = asyncio.Lock()
        self._has_checkers = False

    async def close(self) -> None:
        await asyncio.gather(super().close(), self._checkers.close())

    async def _check(self, program: Program, limits: Limits) -> Verdict:  # noqa: ARG002 - the check has its own
        async with self._starting:
            if not self._has_checkers:
                await self._checkers.start()
                self._has_checkers = True
        return checked(await self._checkers.compile([(_SOURCE_FILE, program.source)]))
