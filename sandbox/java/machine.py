"""How the virtual machines are started, and where our classes lie in a root of Java."""

from __future__ import annotations

import importlib.resources

FOLDER = "/usr/share/crucible"
"""Holds two archives, of our classes and of the tuples that programs may use, and their start-up images."""
OURS, TUPLES = f"{FOLDER}/crucible.jar", f"{FOLDER}/tuples.jar"
RUN_IMAGE, COMPILER_IMAGE = f"{FOLDER}/run.jsa", f"{FOLDER}/compiler.jsa"

# Small and quick to start: one collector thread, one compiler, no files of its own, no look at control groups.
_SMALL = (
    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto", "-XX:-UseContainerSupport",
    "-XX:ReservedCodeCacheSize=64m", "-XX:CompressedClassSpaceSize=64m", "-XX:+DisplayVMOutputToStderr",
    "-Duser.language=en",
)  # fmt: skip
# Most of what such a short life would compile is not used enough to pay for it.
_PATIENT = "-XX:CompileThresholdScaling=10"
_CLASS_PATH = f"{OURS}:{TUPLES}"
_BELOW_ROOT = FOLDER.lstrip("/")
_JUDGE_HEAP_MB, _COMPILER_HEAP_MB = 768, 384


def _words(java: str, image: str, *rest: str) -> list[str]:
    return [java, *_SMALL, f"-XX:SharedArchiveFile={image}", *rest, "-cp", _CLASS_PATH]


def pair_words(java: str) -> dict[str, list[str]]:
    """Of candidate and judge; ``{memory_mb}`` is the run's memory limit."""
    return {
        "candidate": [*_words(java, RUN_IMAGE, _PATIENT, "-Xms16m", "-Xmx{memory_mb}m"), "crucible.Candidate"],
        "judge": [*_words(java, RUN_IMAGE, _PATIENT, "-Xms16m", f"-Xmx{_JUDGE_HEAP_MB}m"), "crucible.Judge"],
    }


def compiler_words(java: str, *, for_tests: bool) -> list[str]:
    """Of a resident compiler. Programs see the JDK and the tuples only; tests call our stubs."""
    class_path = _CLASS_PATH if for_tests else TUPLES
    heap = ("-Xms64m", f"-Xmx{_COMPILER_HEAP_MB}m")
    return [*_words(java, COMPILER_IMAGE, *heap), "crucible.Compiler", class_path]


def sources() -> dict[str, bytes]:
    """Place in a root -> content of our classes' sources."""
    folder = importlib.resources.files("sandbox.java")
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(".java")}
    return {f"{_BELOW_ROOT}/src/{name}": found[name] for name in sorted(found)}


def archive_commands(home: str) -> tuple[tuple[str, ...], ...]:
    """Commands that make the two archives in a root from ``sources``."""
    folder, jar = f"{{root}}{FOLDER}", (f"{home}/bin/jar", "--create", "--file")
    return (
        (f"{home}/bin/javac", "-d", f"{folder}/classes", f"{folder}/src/*.java"),
        (*jar, f"{{root}}{OURS}", "-C", f"{folder}/classes", "crucible"),
        (*jar, f"{{root}}{TUPLES}", "-C", f"{folder}/classes", "org"),
    )


def image_commands(java: str) -> tuple[tuple[str, ...], ...]:
    """Commands that make the start-up images. They hold for archives of the same path only: to be run in the root."""
    return (
        (java, *_SMALL, f"-XX:ArchiveClassesAtExit={RUN_IMAGE}", "-cp", _CLASS_PATH, "crucible.Archive"),
        (java, *_SMALL, f"-XX:ArchiveClassesAtExit={COMPILER_IMAGE}", "-cp", _CLASS_PATH, "crucible.Compiler", TUPLES),
    )
