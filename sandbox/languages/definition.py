"""What the sandbox has to know of a language. One definition a file; adding a language is adding one."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from problems.problem import Limits
from sandbox.verdict import Diagnostic

Files = tuple[tuple[str, bytes], ...]
"""Name and content of each file that a compiler made, or the source itself where there is none. Names and contents
are the candidate's: they go back into a slot as they are, and are never opened by name here."""

NATIVE = "{program}"
"""As the first word of ``run``: the one artifact is itself the program."""

_MESSAGE_CHARACTERS = 300
_MAX_DIAGNOSTICS = 20


@dataclass(frozen=True, slots=True)
class Language:
    """How programs of one language are compiled and run.

    Attributes:
        name: as ``Program.language`` has it.
        packages: Debian packages whose closure, with that of ``python3``, is the root; empty for the machine's Python.
        compile: the compiler's words; ``{source}`` is the name of the source file, which lies in the working folder.
            It must check a program even where it makes nothing of it.
        run: the program's words; ``{source}`` and ``{entry}`` are put in, and ``{memory_mb}``. NATIVE as the first
            word runs the artifact.
        read_diagnostics: from what the compiler wrote. It reads hostile text: its time must be linear in it.
        source_name: the name of the source file.
        artifacts: patterns of the files that the compiler makes; empty if the source is what is run.
        entry: what ``{entry}`` stands for, from the artifact.
        environment: of compiler and program, beside PATH, HOME and LANG.
        address_space: how many times ``Limits.memory_bytes`` a process may map; 0 for a runtime that maps much more
            than it uses, whose memory is bounded by what is resident.
        num_threads: threads that the runtime or the compiler starts by itself, beside those of the limits.
        memory_words: what the runtime prints at its end when memory has run out; empty if nothing.
        compile_floor: what the compiler itself needs; a compile step has the run's limits, but no less than this.
        dropped: patterns of files of the root that no program needs.
        links: place -> target of links that packages' own scripts would have made.
        files: place -> content of files of ours that are put into the root.
        needs_proc: the runtime, or what is usual in the language, wants /proc (and with it /dev/stdin); it then gets
            that of its own pid namespace, processes only.
        finish: commands to run in the finished root, by its own loader: each a path in the root and its words.
        finish_inside: commands that are run after those with the root as their own, and the run's environment. They
            make programs start faster, and are left out where nobody may do that (see ``roots.py``).
    """

    name: str
    packages: tuple[str, ...]
    compile: tuple[str, ...]
    run: tuple[str, ...]
    read_diagnostics: Callable[[str], tuple[Diagnostic, ...]]
    source_name: str
    artifacts: tuple[str, ...] = ()
    entry: Callable[[Files], str] | None = None
    environment: dict[str, str] = field(default_factory=dict[str, str])
    address_space: int = 0
    num_threads: int = 0
    memory_words: str = ""
    compile_floor: Limits = field(default_factory=Limits)
    dropped: tuple[str, ...] = ()
    links: dict[str, str] = field(default_factory=dict[str, str])
    files: Callable[[], dict[str, bytes]] = dict[str, bytes]
    needs_proc: bool = False
    finish: tuple[tuple[str, ...], ...] = ()
    finish_inside: tuple[tuple[str, ...], ...] = ()

    @property
    def definition_hash(self) -> str:
        """Of all that decides what is in the root."""
        files = sorted((place, hashlib.sha256(content).hexdigest()) for place, content in self.files().items())
        made = (self.packages, self.dropped, sorted(self.links.items()), files, self.finish, self.finish_inside)
        parts = (_ROOT_RECIPE, platform.machine(), *made)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    @property
    def is_native(self) -> bool:
        return self.run[0] == NATIVE

    def compile_limits(self, limits: Limits) -> Limits:
        """The run's limits, raised to what the compiler itself needs."""
        floor = self.compile_floor
        raised = {name: max(getattr(limits, name), getattr(floor, name)) for name in Limits.__slots__}
        return replace(limits, **raised)

    def compile_words(self) -> list[str]:
        return [word.replace("{source}", self.source_name) for word in self.compile]

    def run_words(self, files: Files, limits: Limits) -> list[str]:
        """Words of a run of ``files``; a NATIVE program is called by the name of the language."""
        entry = self.entry(files) if self.entry else ""
        memory_mb = str(max(1, limits.memory_bytes >> 20))
        known = {"{source}": self.source_name, "{entry}": entry, "{memory_mb}": memory_mb, NATIVE: "program"}
        words: list[str] = []
        for word in self.run:
            for name, value in known.items():
                word = word.replace(name, value)
            words.append(word)
        return words


# Raise it when the way in which a root is made changes.
_ROOT_RECIPE = "1"


def by_pattern(pattern: str, kind_of: Callable[[str], str] | None = None) -> Callable[[str], tuple[Diagnostic, ...]]:
    """A reader of diagnostics of one line each.

    ``pattern`` is matched against each line. Its groups are ``line`` and ``message``, and where the tool gives them
    ``column`` and ``kind``; where it gives no kind, ``kind_of`` tells it from the message.
    """
    compiled = re.compile(pattern)

    def read(text: str) -> tuple[Diagnostic, ...]:
        found: list[Diagnostic] = []
        for line in text.split("\n"):
            if len(found) < _MAX_DIAGNOSTICS and (match := compiled.match(line)):
                groups = match.groupdict()
                message = groups["message"].strip()
                kind = groups.get("kind") or (kind_of(message) if kind_of else "error")
                found.append(diagnostic(kind, message, groups["line"], groups.get("column")))
        return tuple(found)

    return read


def diagnostic(kind: str, message: str, line: str | int | None, column: str | int | None = 0) -> Diagnostic:
    """A Diagnostic from texts; numbers that are none, or absurd, are 0."""
    return Diagnostic(kind, message[:_MESSAGE_CHARACTERS], _number(line), _number(column))


def _number(text: str | int | None) -> int:
    digits = str(text or 0)[:9]
    return int(digits) if digits.isdecimal() else 0
