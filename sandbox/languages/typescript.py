"""TypeScript by its own compiler, type errors included; what it makes is run by Node.js."""

from __future__ import annotations

from problems.problem import Limits
from sandbox.languages import javascript
from sandbox.languages.definition import Language, by_pattern

_LIBRARY = "/usr/share/nodejs"

TYPESCRIPT = Language(
    name="typescript",
    packages=(*javascript.PACKAGES, "node-typescript"),
    source_name="program.ts",
    compile=(
        javascript.NODE, f"{_LIBRARY}/typescript/lib/tsc.js", "--pretty", "false", "--target", "es2020",
        "--module", "commonjs", "--moduleResolution", "node", "--esModuleInterop", "--skipLibCheck", "--noEmitOnError",
        "--typeRoots", f"{_LIBRARY}/@types", "--types", "node", "{source}",
    ),
    run=(*javascript.RUN, "program.js"),
    read_diagnostics=by_pattern(
        r"program\.ts\((?P<line>\d+),(?P<column>\d+)\): error (?P<kind>TS\d+): (?P<message>.*)"
    ),
    artifacts=("program.js",),
    num_threads=16,
    needs_proc=True,
    compile_floor=Limits(cpu_s=30.0, wall_s=90.0, memory_bytes=512 << 20),
    dropped=javascript.DROPPED,
)  # fmt: skip
