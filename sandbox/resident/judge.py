"""The judge's side: runs the suite's own code, with proxies where it names what the candidate defines.

It reads the job from the client itself, so the server, of which later candidates are forked, never learns a test. Its
report is JSON in a memory file that the server passes on unread.
"""

from __future__ import annotations

import base64
import json
import marshal
import os
from importlib.util import MAGIC_NUMBER
from typing import Any

from .foreign import CompileJudge
from .protocol import EXIT_AT_IMPORT, IN_ADVANCE, read_length
from .proxies import TESTS, CandidateExit, CandidateGone, Channel, EntryPoint, UnsupportedError
from .script import ScriptJudge, are_places
from .wire import read_exactly, text_of, write_all

_MAX_DETAIL = 200
# Exceptions that end a program, if nobody catches them, without there being anything wrong.
_EXITS = ("SystemExit", "KeyboardInterrupt", "GeneratorExit")


class SuiteBrokenError(Exception):
    """The suite itself is at fault: no program could be judged by it."""


class Judge:
    """Judges one program by one suite.

    Until the suite's first request to the program, whatever takes time or ends this process is the suite's own doing.
    So long an advance report stands in the report's file, which says so if there comes no other.

    Report: ``cases`` (one ``[outcome, detail]`` for each case that was begun), ``load`` (why the program did not load,
    or None), ``gone`` (why the conversation ended early, or None), ``broken`` (what is wrong with the suite, or None),
    ``uncrossable`` (True if that is something which cannot cross, whatever the program), ``signs`` of cheating,
    ``started`` (False if the candidate's process never came up: no fault of the program).
    """

    def __init__(self, job: dict[str, Any], channel: Channel, report: int) -> None:
        """``report``: the file that holds an advance report while the suite runs by itself."""
        self._job = job
        self._channel = channel
        self._report = report
        self._space: dict[str, Any] = {"__name__": TESTS, "__builtins__": __builtins__}
        self._cases: list[list[str]] = []
        self._load: list[Any] | None = None
        self._started = False
        channel.define(job.get("classes", ()), job.get("namespaces", ()))

    def run(self) -> dict[str, Any]:
        """The report. Never raises for what the candidate does."""
        broken, is_uncrossable = None, False
        try:
            setup, cases = self._compiled()
            if self._loads():
                self._write_in_advance()
                self._channel.before_first_request = self._take_back
                self._run_all(setup, cases)
        except (SuiteBrokenError, UnsupportedError) as error:
            broken = str(error)[:_MAX_DETAIL]
            is_uncrossable = isinstance(error, UnsupportedError) and error.is_of_suite
        self._take_back()
        gone = self._channel.gone
        return {
            "cases": self._cases,
            "load": self._load,
            "gone": None if gone is None else [gone.kind, str(gone)[:_MAX_DETAIL]],
            "broken": broken,
            "uncrossable": is_uncrossable,
            "signs": self._channel.signs,
            "started": self._started,
        }

    def _write_in_advance(self) -> None:
        names = ", ".join(self._job["entry_points"])[:_MAX_DETAIL]
        broken = f"the suite for {names} hangs, or ends by itself, before it calls the program"
        write_all(self._report, json.dumps({IN_ADVANCE: broken}).encode())

    def _take_back(self) -> None:
        os.ftruncate(self._report, 0)
        os.lseek(self._report, 0, os.SEEK_SET)

    def _compiled(self) -> tuple[Any, list[Any]]:
        if "error" in self._job:
            raise SuiteBrokenError(f"the suite does not compile: {self._job['error']}")
        if self._job["magic"] != MAGIC_NUMBER.hex():
            raise SuiteBrokenError("the suite was compiled by another version of Python than the slot's")
        return marshal.loads(base64.b64decode(self._job["code"]))

    def _loads(self) -> bool:
        channel = self._channel
        try:
            channel.receive()  # "up": sent before the candidate has any code of others
            self._started = True
            channel.expect_silence()
            channel.send([self._job["source"], self._job["candidate_setup"], "functions"])
            match channel.receive():
                case ["loaded"]:
                    return True
                case ["refused", str(kind), str(message), line, column] if are_places(line, column):
                    self._load = ["refused", kind[:_MAX_DETAIL], message[:_MAX_DETAIL], line, column]
                case ["failed", [str(kind), *_], str(message)]:
                    if kind in _EXITS:
                        channel.signs.append(EXIT_AT_IMPORT)
                    self._load = ["failed", kind[:_MAX_DETAIL], message[:_MAX_DETAIL]]
                case _:
                    channel.signs.append("forged-frame")
                    self._load = ["failed", "ProtocolError", "a malformed frame"]
        except CandidateGone as gone:
            if gone.kind == "ended" and self._started:
                channel.signs.append(EXIT_AT_IMPORT)
            self._load = ["failed", "Ended", str(gone)]
        return False

    def _run_all(self, setup: Any, cases: list[Any]) -> None:
        for name in self._job["entry_points"]:
            self._space[name] = EntryPoint(self._channel, name)
        failure = self._run_setup(setup)
        for case in cases:
            result = failure or self._run_one(case)
            self._cases.append(result)
            if result[0] != "passed" and self._job["stop"]:
                return

    def _run_setup(self, setup: Any) -> list[str] | None:
        """The failure that the candidate caused in the setup, if any."""
        result = self._run_one(setup)
        if result[0] == "passed":
            # The setup may define helpers of the same names; what is judged is the candidate's.
            for name in self._job["entry_points"]:
                if type(self._space.get(name)) is not EntryPoint:
                    self._space[name] = EntryPoint(self._channel, name)
            return None
        if self._channel.num_requests == 0 and self._channel.gone is None:
            raise SuiteBrokenError(f"the suite's setup fails by itself: {result[1]}")
        return result

    def _run_one(self, code: Any) -> list[str]:
        """Outcome and detail. A case passes if it runs to its end while the candidate is still there."""
        channel = self._channel
        raised: BaseException | None = None
        try:
            exec(code, self._space)
            channel.expect_silence()
        except BaseException as error:  # noqa: BLE001 - whatever a test raises, the case has failed
            raised = error
        if channel.unsupported is not None:
            raise channel.unsupported
        if channel.gone is not None:
            return ["runtime_error", str(channel.gone)[:_MAX_DETAIL]]
        if channel.failed_callback is not None:
            raised, channel.failed_callback = channel.failed_callback, None
        if isinstance(raised, CandidateExit):
            return ["runtime_error", str(raised)[:_MAX_DETAIL]]
        return ["passed", ""] if raised is None else self._failed(raised)

    def _failed(self, error: BaseException) -> list[str]:
        detail = f"{type(error).__name__}: {text_of(error)}"[:_MAX_DETAIL]
        if error is self._channel.last_raised:
            return ["memory_limit" if isinstance(error, MemoryError) else "runtime_error", detail]
        return ["wrong_answer", detail]


def run(
    job_descriptor: int,
    channel: int,
    report: int,
    suite: int,
    begins: int,
    streams: tuple[int, int] | None,
) -> None:
    """Reads the job, judges, writes the report.

    ``suite``: a file that holds the suite's part of the job, or nothing if the job came whole. ``begins``: gets a byte
    when the program is handed over, at which the program's time begins. ``streams``: the ends of a script's standard
    input and output.
    """
    job = json.loads(read_exactly(job_descriptor, read_length(job_descriptor)))
    if size := os.fstat(suite).st_size:
        job |= json.loads(os.pread(suite, size, 0))
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, job_descriptor)
    conversation = Channel(channel, int(job["output_bytes"]), begins)
    if "compile" in job:
        judge = CompileJudge(job, conversation)
    else:
        judge = ScriptJudge(job, conversation, *streams) if streams else Judge(job, conversation, report)
    write_all(report, json.dumps(judge.run()).encode())
