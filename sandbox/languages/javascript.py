"""JavaScript by Node.js."""

from __future__ import annotations

import re

from problems.problem import Limits
from sandbox.languages.definition import Language, diagnostic
from sandbox.verdict import Diagnostic

NODE = "/usr/bin/node"
# The heap's bound is the memory limit, which a process passes before its heap does: so the limit ends it, not V8.
RUN = (NODE, "--max-old-space-size={memory_mb}", "--v8-pool-size=1", "--single-threaded-gc", "--stack-size=900")
PACKAGES = ("nodejs",)
DROPPED = ("usr/lib/*/libicudata.so.*.a", "usr/share/nodejs/npm", "usr/share/nodejs/corepack")

# /tmp/program.js:3 / the line / carets under the place / / SyntaxError: Unexpected token ';'
_PLACE = re.compile(r"[^\s:]*program\.js:(\d+)$")
_CARETS = re.compile(r"( *)\^+$")
_ERROR = re.compile(r"(\w*Error): (.*)")


def read_diagnostics(text: str) -> tuple[Diagnostic, ...]:
    """V8 stops at the first error, and shows where it is by carets."""
    line, column = "0", 0
    for written in text.split("\n"):
        if place := _PLACE.match(written):
            line = place[1]
        elif carets := _CARETS.match(written.replace("\t", " ")):
            column = len(carets[1]) + 1
        elif error := _ERROR.match(written):
            return (diagnostic(error[1], error[2], line, column),)
    return ()


JAVASCRIPT = Language(
    name="javascript",
    packages=PACKAGES,
    source_name="program.js",
    compile=(NODE, "--check", "{source}"),
    run=(*RUN, "{source}"),
    read_diagnostics=read_diagnostics,
    num_threads=16,
    needs_proc=True,  # for /dev/stdin, which most programs for contests read
    compile_floor=Limits(cpu_s=10.0, wall_s=60.0, memory_bytes=256 << 20),
    dropped=DROPPED,
)
