"""Tests by standard input and output: the judge's side, and the candidate's as a script.

The candidate's standard input and output are pipes whose other ends the judge holds. Standard error, and what is
printed beyond the limit, only counts.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import sys
import traceback
import types
from typing import Any

from .checkers import agree
from .proxies import CandidateGone, Channel
from .wire import send_frame

_CHUNK = 1 << 16
_MAX_TRACE = 5
_MAX_DETAIL = 200
_MOST_LINES = 1 << 31
_OUT_OF_MEMORY = "out-of-memory"
_LAST_WORDS = 400


def run_script(code: types.CodeType, channel: int) -> None:
    """Runs the program as ``__main__`` with fresh standard streams, and ends the process with its exit code.

    A lack of memory is told over ``channel``: an exit code could not be told from others.
    """
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["solution.py"]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8", "surrogateescape")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8", "surrogateescape")
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), "utf-8", "backslashreplace", write_through=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    status = 0
    try:
        exec(code, module.__dict__)
    except SystemExit as request:
        status = _exit_status(request.code)
    except MemoryError:
        send_frame(channel, [_OUT_OF_MEMORY])
        status = 1
    except BaseException:  # noqa: BLE001 - as the interpreter itself would
        traceback.print_exc(limit=_MAX_TRACE)
        status = 1
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]  # os._exit would leave them out
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - such as a closed standard output
        status = status or 120
    os._exit(status)


def _exit_status(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def are_places(*numbers: Any) -> bool:
    """Whether what a candidate gives as line and column can be such."""
    return all(type(number) is int and 0 <= number < _MOST_LINES for number in numbers)


class ScriptJudge:
    """Feeds one input, takes the output, compares. The report is as ``Judge``'s, with one case."""

    def __init__(self, job: dict[str, Any], channel: Channel, stdin: int, stdout: int) -> None:
        self._job = job
        self._channel = channel
        self._stdin = stdin
        self._stdout = stdout
        self._max_bytes = int(job["output_bytes"])

    def run(self) -> dict[str, Any]:
        """The report. Never raises for what the candidate does."""
        report: dict[str, Any] = {
            "cases": [],
            "load": None,
            "gone": None,
            "broken": None,
            "signs": [],
            "started": False,
        }
        try:
            self._channel.receive()  # "up"
            report["started"] = True
            self._channel.send([self._job["source"], "", self._job.get("mode", "script")])
            match self._channel.receive():
                case ["loaded"]:
                    report["cases"] = [self._outcome()]
                case ["refused", str(kind), str(message), line, column] if are_places(line, column):
                    report["load"] = ["refused", kind[:_MAX_DETAIL], message[:_MAX_DETAIL], line, column]
                case ["missing", str(tool)]:
                    report["broken"] = f"the root lacks {tool[:_MAX_DETAIL]}"
                case _:
                    report["signs"] = ["forged-frame"]
                    report["load"] = ["failed", "ProtocolError", "a malformed frame"]
        except CandidateGone as gone:
            report["load"] = ["failed", "Ended", str(gone)]
        return report

    def _outcome(self) -> list[str]:
        printed = self._converse(self._job["stdin"].encode("utf-8", "surrogatepass"))
        if printed is None:
            return ["output_limit", "the output limit"]
        if self._channel.last_message() == [_OUT_OF_MEMORY]:
            return ["memory_limit", "MemoryError"]
        job = self._job
        # A program that says so itself has not passed either.
        words = job.get("memory_words", "").encode()
        if words and words in printed[-_LAST_WORDS:]:
            return ["memory_limit", "the runtime ran out of memory"]
        expected = job["stdout"].encode("utf-8", "surrogatepass")
        if agree(job["checker"], printed, expected, job["absolute_tolerance"], job["relative_tolerance"]):
            return ["passed", ""]
        return ["wrong_answer", f"printed {printed[:80]!r}"]

    def _converse(self, given: bytes) -> bytes | None:
        """Writes the input and reads the output at once, until the program closes it; None if it is too long."""
        view, printed = memoryview(given), bytearray()
        os.set_blocking(self._stdin, False)
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        poll.register(self._stdin, select.POLLOUT)
        is_writing = True
        while True:
            ready = dict(poll.poll())
            if is_writing and self._stdin in ready:
                view = self._write(view)
                if not view:
                    poll.unregister(self._stdin)
                    os.close(self._stdin)
                    is_writing = False
            if self._stdout in ready:
                chunk = os.read(self._stdout, _CHUNK)
                if not chunk:
                    break
                printed += chunk
                if len(printed) > self._max_bytes:
                    return None
        return bytes(printed)

    def _write(self, view: memoryview) -> memoryview:
        """What is left to write; nothing if the program has closed its standard input."""
        try:
            return view[os.write(self._stdin, view[:_CHUNK]) :]
        except BlockingIOError:
            return view
        except (BrokenPipeError, ConnectionResetError):
            return view[:0]
