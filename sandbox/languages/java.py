"""Java by OpenJDK: ``javac``, then a fresh virtual machine for each run."""

from __future__ import annotations

import platform

from problems.problem import Limits
from sandbox.java.machine import archive_commands, image_commands, sources
from sandbox.languages.definition import Files, Language, by_pattern

HOME = f"/usr/lib/jvm/java-17-openjdk-{ {'aarch64': 'arm64'}.get(platform.machine(), 'amd64') }"
# Small and quick to start: one collector thread, one compiler, no files of its own, no look at control groups.
VIRTUAL_MACHINE = (
    f"{HOME}/bin/java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto",
    "-XX:-UseContainerSupport", "-XX:ReservedCodeCacheSize=64m", "-XX:CompressedClassSpaceSize=64m",
    "-XX:+ExitOnOutOfMemoryError", "-Xss2m", "-Xms16m",
)  # fmt: skip
JAVA_PROGRAM = f"{HOME}/bin/java"
ENVIRONMENT = {"LD_LIBRARY_PATH": f"{HOME}/lib:{HOME}/lib/server"}

# In a class file's table of names: the method's name and its type.
_MAIN = (b"\x01\x00\x04main", b"\x01\x00\x16([Ljava/lang/String;)V")


def main_class(files: Files) -> str:
    """The class to start: one with a ``main``, ``Main`` before others; "Main" if there is none."""
    names = [name.removesuffix(".class") for name, content in files if all(part in content for part in _MAIN)]
    outer = [name for name in names if "$" not in name] or names
    return ("Main" if "Main" in outer or not outer else outer[0]).replace("/", ".")


JAVA = Language(
    name="java",
    packages=("openjdk-17-jdk-headless",),
    compile=(
        f"{HOME}/bin/javac", "-J-XX:+UseSerialGC", "-J-XX:TieredStopAtLevel=1", "-J-XX:-UsePerfData",
        "-J-XX:-UseContainerSupport", "-J-Xshare:auto", "-J-Xmx512m", "-J-XX:ReservedCodeCacheSize=64m",
        "-J-XX:CompressedClassSpaceSize=64m", "-proc:none", "-nowarn", "-g:none", "-XDrawDiagnostics",
        "-implicit:none", "-encoding", "UTF-8", "-d", ".", "{source}",
    ),
    run=(*VIRTUAL_MACHINE, "-Xmx{memory_mb}m", "-cp", ".", "{entry}"),
    read_diagnostics=by_pattern(
        r"[^\s:]*\.java:(?P<line>\d+):(?P<column>\d+): (?P<kind>compiler\.err\.[\w.]+)(?P<message>.*)"
    ),
    source_name="Main.java",
    artifacts=("*.class",),
    entry=main_class,
    environment=ENVIRONMENT,
    num_threads=48,
    memory_words="Terminating due to java.lang.OutOfMemoryError",
    compile_floor=Limits(cpu_s=20.0, wall_s=60.0, memory_bytes=768 << 20, num_processes=16, file_bytes=8 << 20),
    dropped=(
        "usr/lib/jvm/*/jmods", "usr/lib/jvm/*/man", "usr/lib/jvm/*/lib/ct.sym", "usr/lib/jvm/*/lib/src.zip",
        "usr/share/fonts", "usr/share/X11", "usr/lib/*/libLLVM*", "usr/share/ca-certificates",
    ),
    files=sources,
    finish=((JAVA_PROGRAM, "-Xshare:dump"), *archive_commands(HOME)),
    finish_inside=image_commands(JAVA_PROGRAM),
)  # fmt: skip
