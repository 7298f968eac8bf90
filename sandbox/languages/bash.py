"""Bash, with the small tools that scripts lean on."""

from __future__ import annotations

from problems.problem import Limits
from sandbox.languages.definition import Language, by_pattern

BASH = Language(
    name="bash",
    packages=("bash", "coreutils", "grep", "sed", "gawk", "bc", "findutils"),
    source_name="program.sh",
    compile=("/usr/bin/bash", "-n", "{source}"),
    run=("/usr/bin/bash", "{source}"),
    # Bash names no column.
    read_diagnostics=by_pattern(
        r"program\.sh: line (?P<line>\d+): (?P<message>(?P<kind>syntax error|unexpected EOF).*)"
    ),
    address_space=4,
    num_threads=32,
    compile_floor=Limits(memory_bytes=64 << 20),
    links={"usr/bin/awk": "gawk", "usr/bin/sh": "bash"},
)
