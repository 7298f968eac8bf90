"""Programs of other languages than Python: the candidate's process compiles one, or becomes it.

Everything here runs on the candidate's side, sealed already: what a compiler makes of a hostile source, and what a
program does with its own files, is its own affair. Files travel as ``[name, hexadecimal content]``.

A file that a compiler makes is data to everybody else. It goes out through the judge and the client, and comes back
into a fresh process in a slot that keeps nothing.
"""

# Values of any type pass through here, so strict typing has nothing to hold on to.
# pyright: basic

from __future__ import annotations

import errno
import glob
import os
import resource
import sys
from typing import Any, NoReturn

from .proxies import CandidateGone, Channel
from .wire import send_frame, write_all

_MAX_TEXT = 1 << 20
_IMAGE = 4  # the descriptor of the memory file that a native program is run from
_CHUNK = 1 << 16
_MAX_DETAIL = 200
_NOT_RUN = 127

File = list[str]


def place_files(files: list[File]) -> None:
    """Writes files below the working folder."""
    for name, content in files:
        if folder := os.path.dirname(name):
            os.makedirs(folder, exist_ok=True)
        with open(name, "wb") as file:
            file.write(bytes.fromhex(content))


def missing_tool(words: list[str]) -> str:
    """The program that these words start, if the root has no such file; else ""."""
    return "" if not words[0].startswith("/") or os.access(words[0], os.X_OK) else words[0]


def compile_program(job: dict[str, Any], channel: int) -> None:
    """Runs the compiler and sends ``["compiled", exit status, text, files]``, or ``["missing", tool]``.

    ``job``: ``files`` (the source), ``words``, ``environment``, ``artifacts`` (patterns), ``artifact_bytes``.
    """
    if tool := missing_tool(job["words"]):
        send_frame(channel, ["missing", tool])
        return
    place_files(job["files"])
    status, text = _run_compiler(job["words"], job["environment"])
    files = _collect(job["artifacts"], job["artifact_bytes"]) if status == 0 else []
    if files is None:
        status, text, files = 1, b"the compiler made more than %d bytes" % job["artifact_bytes"], []
    send_frame(channel, ["compiled", status, text.decode("utf-8", "replace"), files])


def _run_compiler(words: list[str], environment: dict[str, str]) -> tuple[int, bytes]:
    """Exit status (minus the signal) and what it wrote; one that writes without end meets a closed pipe."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            os.closerange(3, 256)
            os.execve(words[0], words, environment)
        finally:
            os._exit(_NOT_RUN)
    os.close(writing)
    text = bytearray()
    while len(text) < _MAX_TEXT and (chunk := os.read(reading, _CHUNK)):
        text += chunk
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), bytes(text)


def _collect(patterns: list[str], max_bytes: int) -> list[File] | None:
    """The files that fit a pattern; None if they are too large in all."""
    files: list[File] = []
    for pattern in patterns:
        for name in sorted(glob.glob(pattern)):
            with open(name, "rb") as file:
                content = file.read(max_bytes + 1)
            max_bytes -= len(content)
            if max_bytes < 0:
                return None
            files.append([name, content.hex()])
    return files


def execute(job: dict[str, Any], channel: int) -> NoReturn:
    """Becomes the program. Sends ``["loaded"]`` before, or ``["missing", tool]``.

    ``job``: ``files``, ``words``, ``environment``, ``is_native`` (the first file is itself the program),
    ``address_space_bytes`` and ``file_bytes`` (the run's own limits: until here they were those of the loading).
    """
    words = job["words"]
    if not job["is_native"] and (tool := missing_tool(words)):
        send_frame(channel, ["missing", tool])
        os._exit(_NOT_RUN)
    if job["is_native"]:
        write_all(_IMAGE, bytes.fromhex(job["files"][0][1]))
    else:
        place_files(job["files"])
    for descriptor in (channel, _IMAGE):
        os.set_inheritable(descriptor, False)
    send_frame(channel, ["loaded"])
    _lower(resource.RLIMIT_FSIZE, job["file_bytes"])
    if job["address_space_bytes"]:
        _lower(resource.RLIMIT_AS, job["address_space_bytes"])
    try:
        os.execve(_IMAGE if job["is_native"] else words[0], words, job["environment"])
    except OSError as error:
        print(f"{words[0]}: {errno.errorcode.get(error.errno or 0)}", file=sys.stderr)
    os._exit(_NOT_RUN)


def _lower(which: int, value: int) -> None:
    resource.setrlimit(which, (value, value))


class CompileJudge:
    """The judge's side of a compile step: passes on what came of it, checked for its form only.

    Report: ``started``, ``missing`` (a tool that the root lacks), ``gone`` (why the compiler's process said nothing),
    ``status``, ``text``, ``files``.
    """

    def __init__(self, job: dict[str, Any], channel: Channel) -> None:
        self._job = job
        self._channel = channel

    def run(self) -> dict[str, Any]:
        """The report. Never raises for what the candidate does."""
        report: dict[str, Any] = {"started": False, "missing": None, "gone": None, "status": 1, "text": "", "files": []}
        try:
            self._channel.receive()  # "up"
            report["started"] = True
            self._channel.send([self._job["compile"], "", "compile"])
            match self._channel.receive():
                case ["missing", str(tool)]:
                    report["missing"] = tool[:_MAX_DETAIL]
                case ["compiled", int(status), str(text), list(files)] if _are_files(files):
                    report.update(status=status, text=text, files=files)
                case _:
                    report["gone"] = "a malformed frame"
        except CandidateGone as gone:
            report["gone"] = str(gone)[:_MAX_DETAIL]
        return report


def _are_files(files: list[Any]) -> bool:
    for file in files:
        match file:
            case [str(), str(content)] if len(content) % 2 == 0:
                continue
            case _:
                return False
    return True
