"""C# by Mono: ``mcs``, then a fresh runtime for each run."""

from __future__ import annotations

from problems.problem import Limits
from sandbox.languages.definition import Language, by_pattern

_MONO = "/usr/bin/mono"

CSHARP = Language(
    name="csharp",
    packages=(
        "mono-mcs", "mono-runtime", "libmono-corlib4.5-cil", "libmono-system4.0-cil", "libmono-system-core4.0-cil",
        "libmono-system-numerics4.0-cil",
    ),
    source_name="program.cs",
    compile=(
        _MONO, "/usr/lib/mono/4.5/mcs.exe", "-nologo", "-warn:0", "-langversion:latest",
        "-r:System.Core.dll", "-r:System.Numerics.dll", "-out:program.exe", "{source}",
    ),
    run=(_MONO, "--gc=sgen", "program.exe"),
    read_diagnostics=by_pattern(
        r"(?:/tmp/)?program\.cs\((?P<line>\d+),(?P<column>\d+)\): error (?P<kind>CS\d+): (?P<message>.*)"
    ),
    artifacts=("program.exe",),
    # Without it, the runtime keeps files of its own for other processes to find.
    environment={"MONO_DISABLE_SHARED_AREA": "1"},
    num_threads=16,
    needs_proc=True,
    compile_floor=Limits(cpu_s=20.0, wall_s=60.0, memory_bytes=384 << 20),
)  # fmt: skip
