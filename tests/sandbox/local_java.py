"""The Java side without a sandbox, for trusted programs only: the same classes, run by the machine's own JDK."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from problems.java import JavaSuite
from sandbox.java.jobs import Compiled, Files, compile_answer, compile_request, judge_job
from sandbox.java.sources import LINK_FILE, STUB_FILE, TEST_FILE, link_source, stub_source, test_source

# Where nothing may be missing, its tests are not skipped but fail.
HAS_JDK = os.environ.get("CRUCIBLE_REQUIRE_ENGINE") == "1" or bool(shutil.which("javac") and shutil.which("java"))
SOURCES = Path(__file__).parents[2] / "sandbox" / "java"
FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-XX:+DisplayVMOutputToStderr")


@cache
def kit() -> Path:
    """Folders of our classes and of the tuples, ``ours`` and ``tuples``, made by the machine's JDK."""
    folder = Path(mkdtemp(prefix="crucible-java-"))
    subprocess.run(["javac", "-d", folder / "ours", *SOURCES.glob("*.java")], check=True)
    (folder / "tuples").mkdir()
    (folder / "ours" / "org").rename(folder / "tuples" / "org")
    return folder


def machine(*words: str) -> list[str]:
    """A virtual machine with our classes."""
    return ["java", *FLAGS, "-cp", f"{kit()}/ours:{kit()}/tuples", *words]


class LocalCompiler:
    """A resident compiler as a child of this process."""

    def __init__(self, *, for_tests: bool = False) -> None:
        path = f"{kit()}/ours:{kit()}/tuples" if for_tests else f"{kit()}/tuples"
        self._process = subprocess.Popen(
            machine("crucible.Compiler", path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.read(int.from_bytes(self._process.stdout.read(4), "big"))

    def compile(self, *sources: tuple[str, str | bytes]) -> Compiled:
        assert self._process.stdin is not None
        encoded = [(name, text.encode() if isinstance(text, str) else text) for name, text in sources]
        self._process.stdin.write(compile_request(encoded))
        self._process.stdin.flush()
        return compile_answer(self._answer(), encoded[0][0])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compile_program(compiler: LocalCompiler, program: str | bytes, suite: JavaSuite) -> Compiled:
    return compiler.compile(("Solution.java", program), (LINK_FILE, link_source(suite)))


def compile_tests(compiler: LocalCompiler, suite: JavaSuite) -> Compiled:
    return compiler.compile((STUB_FILE, stub_source(suite)), (TEST_FILE, test_source(suite)))


def judge(suite: JavaSuite, program: Files, tests: Files, output_bytes: int = 1 << 20) -> dict[str, Any]:
    """The judge's report on trusted classes."""
    job, report = os.memfd_create("job"), os.memfd_create("report")
    os.write(job, judge_job(suite, program, tests, output_bytes))
    os.lseek(job, 0, os.SEEK_SET)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        candidate = subprocess.Popen(machine("crucible.Candidate"), stdin=theirs, stdout=subprocess.DEVNULL)
        theirs.close()
        subprocess.run(machine("crucible.Judge"), stdin=ours, stdout=report, stderr=job, check=True)
    candidate.wait()
    os.close(job)
    os.lseek(report, 0, os.SEEK_SET)
    with os.fdopen(report) as file:
        return json.load(file)
