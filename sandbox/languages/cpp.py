"""C++ by GCC."""

from __future__ import annotations

import re

from problems.problem import Limits
from sandbox.languages.definition import NATIVE, Language, by_pattern

# GCC has no codes for its errors, so the class is told from the message; what fits none is an "error".
_KINDS = (
    ("missing-include", r"No such file or directory|Permission denied"),
    ("undeclared", r"not declared in this scope|does not name a type|not been declared|has no member|is not a member"),
    ("redefinition", r"redefinition of|redeclar|conflicting declaration|cannot be overloaded"),
    ("call", r"no matching function|too (few|many) arguments|call of overloaded .* is ambiguous|no match for call"),
    ("type", r"cannot convert|invalid conversion|no match for .operator|invalid operands|incompatible types|no viable"),
    ("template-depth", r"template instantiation depth|constexpr.*depth|operation count exceeds"),
    ("syntax", r"^expected|before|stray|missing terminat|unterminated|at end of input"),
)  # fmt: skip


def _kind_of(message: str) -> str:
    return next((kind for kind, pattern in _KINDS if re.search(pattern, message[:200])), "error")


CPP = Language(
    name="cpp",
    packages=("g++",),
    compile=(
        "/usr/bin/g++", "-std=c++20", "-O1", "-pipe", "-w", "-fmax-errors=20", "-fdiagnostics-color=never",
        "-fno-diagnostics-show-caret", "-o", "program", "{source}",
    ),
    run=(NATIVE,),
    read_diagnostics=by_pattern(
        r"(?:/tmp/)?program\.cpp:(?P<line>\d+):(?:(?P<column>\d+):)? (?:fatal )?error: (?P<message>.*)", _kind_of
    ),
    source_name="program.cpp",
    artifacts=("program",),
    # What is mapped is not yet used; what is used is watched. This bounds what can be missed between two looks.
    address_space=4,
    compile_floor=Limits(cpu_s=20.0, wall_s=60.0, memory_bytes=768 << 20, num_processes=16, file_bytes=32 << 20),
    dropped=(
        "usr/lib/gcc/*/*/lto1", "usr/lib/gcc/*/*/lto-wrapper", "usr/lib/gcc/*/*/lib?san*", "usr/lib/*/lib?san.so*",
        "usr/lib/*/libubsan*", "usr/lib/*/libhwasan*", "usr/lib/gcc/*/*/g++-mapper-server", "usr/bin/*gprof*",
        "usr/bin/*-dwp*", "usr/bin/*gold*", "usr/lib/*/libgprofng*", "usr/lib/*/gprofng*",
    ),
)  # fmt: skip
