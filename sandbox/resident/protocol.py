"""What client and server say to each other: a fixed header each way, then bytes that the server does not look into."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from enum import IntEnum

from .wire import read_exactly

IN_ADVANCE = "in_advance"
"""The one key of a report that a judge leaves for the case that it comes no further; its value says why."""


EXIT_AT_IMPORT = "exit-at-import"
"""The sign of a program that ended before it was called."""
START_S = 20.0
"""That judge and candidate may take until the program is handed over."""
JUDGE_GRACE_S = 2.0
"""That the judge may take at least to end once the program is gone; where the suite runs by itself, the wall limit."""
SWEEP_S = 5.0
"""That the program's processes may take to end."""


class End(IntEnum):
    """What ended a run, as the server saw it."""

    JUDGED = 0  # the judge came to its end
    CPU = 1  # the candidate used up its CPU seconds
    BLOCKED = 2  # the wall limit, and the candidate had been sleeping or waiting
    STARVED = 3  # the wall limit, and the candidate had been waiting for a processor
    MEMORY = 4  # the candidate used more memory than it may
    OUTPUT = 5  # the candidate printed more than it may
    BROKEN = 6  # the resident compiler ended
    UNBEGUN = 7  # the judge ended, or took too long, before it handed the program over


class Kind(IntEnum):
    """What is done in a run."""

    FUNCTIONS = 0  # Python: the judge calls functions of the candidate
    SCRIPT = 1  # Python: the candidate's standard streams go to the judge
    COMPILE = 2  # the candidate becomes a compiler; what it makes is the report
    EXECUTE = 3  # the candidate becomes the program; its standard streams go to the judge
    PAIR = 4  # judge and candidate become programs of the root, whose words the slot was made with

    @property
    def has_streams(self) -> bool:
        return self in (Kind.SCRIPT, Kind.EXECUTE)

    @property
    def is_judged_by_suite(self) -> bool:
        """True if the judge runs the suite's own code, which may hang by itself: its report is written in advance."""
        return self in (Kind.FUNCTIONS, Kind.PAIR)

    @property
    def becomes_another(self) -> bool:
        """True if the candidate's process starts programs of the root."""
        return self in (Kind.COMPILE, Kind.EXECUTE, Kind.PAIR)


_ORDER = struct.Struct("!dddQQQQIIB32sBI")
_RESULT = struct.Struct("!BiiddQQB")
ORDER_BYTES = _ORDER.size
RESULT_BYTES = _RESULT.size
LENGTH = struct.Struct("!Q")


def with_length(content: bytes) -> bytes:
    """The content behind its length."""
    return LENGTH.pack(len(content)) + content


def read_length(fd: int) -> int:
    """Of what follows. Raises PeerGoneError at the end of the stream."""
    (length,) = LENGTH.unpack(read_exactly(fd, LENGTH.size))
    return length


NO_SUITE = bytes(32)


@dataclass(frozen=True, slots=True)
class Order:
    """Client to server; a suite may follow, then the job for the judge. Units as in ``Limits``.

    Suite and job begin with their length (``LENGTH``), which only those read who read the rest: orders lie in the
    server's memory, of which candidates get a copy, and the length of an expected output can be the answer itself.

    ``longest_wall_s``: how far the wall limit is put off, ``wall_s`` at a time, for a program that is starved.
    ``address_space_bytes``: what each process may map; 0 for no bound, where only what is resident counts.
    ``kind``: a ``Kind``.
    ``suite_digest``: of the suite on the slot's shelf that the job is about; NO_SUITE if the job holds all there is.
    ``suite_follows``: 1 for a suite that is not there yet.
    ``suites_dropped``: how many of those not used for longest make room for it.
    """

    cpu_s: float
    wall_s: float
    longest_wall_s: float
    memory_bytes: int
    address_space_bytes: int
    file_bytes: int
    output_bytes: int
    num_processes: int
    open_files: int
    kind: int
    suite_digest: bytes = NO_SUITE
    suite_follows: int = 0
    suites_dropped: int = 0

    @property
    def longest_s(self) -> float:
        """After which there is a result, whatever was run."""
        return START_S + self.longest_wall_s + SWEEP_S + max(JUDGE_GRACE_S, self.wall_s)

    def pack(self) -> bytes:
        return _ORDER.pack(*astuple(self))

    @classmethod
    def unpack(cls, data: bytes) -> Order:
        return cls(*_ORDER.unpack(data))


@dataclass(frozen=True, slots=True)
class Result:
    """Server to client; ``report_bytes`` bytes of the judge's report follow.

    Attributes:
        end: an ``End``.
        candidate_exit: exit status of the candidate, or minus the signal that ended it.
        judge_exit: the same of the judge.
        cpu_s: CPU seconds of the candidate and its children.
        wall_s: from the fork to the end.
        peak_bytes: largest resident size of a process of the candidate.
        report_bytes: 0 if the judge did not come to write its report.
        is_last: 1 if the server ends with this run, because something was left over that it could not end otherwise.
    """

    end: int
    candidate_exit: int
    judge_exit: int
    cpu_s: float
    wall_s: float
    peak_bytes: int
    report_bytes: int
    is_last: int

    def pack(self) -> bytes:
        return _RESULT.pack(*astuple(self))

    @classmethod
    def unpack(cls, data: bytes) -> Result:
        return cls(*_RESULT.unpack(data))
