"""What a compiler says of a program, before anybody is rewarded: compiled, refused for what, or not a program at all.

The rules, each counted by name in the reward events:

===================  ==============================================================================================
compiles             no error that counts
a class of error     see sandbox.diagnosis; only the first message counts, since later ones often follow from it
forgiven             its errors are all of classes that are switched off: it counts as compiling
empty                the model wrote no code: nothing, or comments alone. Never counts as compiling
trivial              it compiles and is no attempt: see ``is_trivial``. Does not count as compiling
no_compiler          no compiler for the language: nothing is said, nothing is paid
imports_supplied     names of the standard library were missing, and stood for in its place: the model is not blamed
===================  ==============================================================================================

A public class may have any name: the resident compiler has no files, so none can contradict it.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from actors.imports import is_supplied_python, with_imports, without_imports
from actors.terms import Failed
from problems.bytemap import Extraction
from problems.lexing import code_lexemes, code_size
from problems.problem import CompletionStyle, Problem
from sandbox.diagnosis import ErrorClass, error_class
from sandbox.verdict import Diagnostic, Outcome, Program, Verdict

COMPILED_LANGUAGES = ("java", "python")
"""Languages whose compilers the term speaks for."""
CheckProgram = Callable[[Program], Awaitable[Verdict]]
"""Compiles without running: passed, or a compile error with its diagnostics, or an infrastructure error."""

COMPILES, EMPTY, TRIVIAL, NO_COMPILER = "compiles", "empty", "trivial", "no_compiler"
FORGIVEN, IMPORTS_SUPPLIED = "forgiven", "imports_supplied"
_AMBIGUOUS = "compiler.err.ref.ambiguous"
_ENDS_OF_A_TRIVIAL_ONE = {b"return", b"throw", b"raise", b"pass", b"..."}
_TYPES = {b"class", b"interface", b"enum", b"record"}
_LONGEST_TRIVIAL = 8  # lexemes, without braces and semicolons: ``throw new IllegalStateException("..")`` has 6


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check.

    Attributes:
        result: ``COMPILES``, ``EMPTY``, ``TRIVIAL``, ``NO_COMPILER`` or the value of an ErrorClass.
        errors: the messages that count, with their classes; the first decides ``result``.
        notes: ``FORGIVEN``, ``IMPORTS_SUPPLIED``.
    """

    result: str
    errors: tuple[tuple[ErrorClass, Diagnostic], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def compiles(self) -> bool:
        return self.result == COMPILES


@dataclass(frozen=True, slots=True)
class ProgramChecker:
    """Asks a compiler and applies the rules above.

    Attributes:
        check: see CheckProgram.
        classes: classes of errors that count.
        supply_imports: whether names of the standard library that nobody imported are forgiven.
        trivial_share: see ``is_trivial``.
    """

    check: CheckProgram
    classes: frozenset[ErrorClass] = frozenset(ErrorClass)
    supply_imports: bool = True
    trivial_share: float = 0.2

    async def of_answer(self, problem: Problem, extraction: Extraction) -> Checked | Failed:
        """For what a model wrote."""
        if problem.language not in COMPILED_LANGUAGES:
            return Checked(NO_COMPILER)
        own = own_code(extraction)
        if not code_size(problem.language, own):
            return Checked(EMPTY)
        checked = await self.of_program(problem, extraction.program)
        if isinstance(checked, Checked) and checked.compiles and is_trivial(problem, own, self.trivial_share):
            return replace(checked, result=TRIVIAL)
        return checked

    async def of_program(self, problem: Problem, source: bytes) -> Checked | Failed:
        """For any whole program, a reference say."""
        if problem.language not in COMPILED_LANGUAGES:
            return Checked(NO_COMPILER)
        verdict = await self.check(Program(problem.language, source))
        notes: list[str] = []
        if self.supply_imports and problem.language == "java":
            verdict, supplied = await self._with_imports(source, verdict)
            notes += [IMPORTS_SUPPLIED] if supplied else []
        if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            return Failed(f"compiler: {verdict.detail}")
        found = verdict.diagnostics
        if not verdict.passed and not found:  # it ended two compilers, say: it is not one that compiles
            found = (Diagnostic("CompilerFailed", verdict.detail or f"the compiler ended with {verdict.outcome}"),)
        if problem.language == "python":
            blamed = tuple(
                one for one in found if not self.supply_imports or not is_supplied_python(one, problem, source)
            )
            notes += [IMPORTS_SUPPLIED] if len(blamed) < len(found) else []
            found = blamed
        errors = tuple((error_class(one), one) for one in found)
        counted = tuple(pair for pair in errors if pair[0] in self.classes)
        notes += [FORGIVEN] if errors and not counted else []
        return Checked(counted[0][0].value if counted else COMPILES, counted, tuple(notes))

    async def _with_imports(self, source: bytes, verdict: Verdict) -> tuple[Verdict, bool]:
        """A second try with the standard imports where a symbol is not known; (verdict, whether they helped)."""
        unknown = _unresolved(verdict.diagnostics)
        if not unknown:
            return verdict, False
        second = await self.check(Program("java", with_imports(source)))
        found = tuple(without_imports(one, source) for one in second.diagnostics)
        if second.outcome is Outcome.INFRASTRUCTURE_ERROR:
            return second, False
        if not second.passed and not found:
            return verdict, False
        if any(one.kind == _AMBIGUOUS for one in found) or len(_unresolved(found)) >= len(unknown):
            return verdict, False
        return replace(second, diagnostics=found), True


def _unresolved(found: Sequence[Diagnostic]) -> list[Diagnostic]:
    return [one for one in found if error_class(one) is ErrorClass.UNRESOLVED_SYMBOL]


def own_code(extraction: Extraction) -> bytes:
    """The bytes of the program that the completion wrote."""
    return b"".join(
        extraction.program[part.program_start : part.program_start + part.length] for part in extraction.segments
    )


def is_trivial(problem: Problem, own: bytes, share: float) -> bool:
    """Whether what the model wrote is no attempt, although it compiles: ``return 0;``, or a bare ``throw``.

    It is one statement that returns, raises or passes without computing anything, or it has less than ``share`` of the
    reference's lexemes. A reference that is itself such a statement makes nothing trivial.
    """
    is_inside = problem.completion_style is CompletionStyle.CONTINUE
    words = _body_words(problem.language, own, is_inside=is_inside)
    reference = reference_code(problem)
    if reference is None:
        return _is_idle(words)
    words_of_reference = _body_words(problem.language, reference, is_inside=is_inside)
    if _is_idle(words_of_reference):
        return False
    return _is_idle(words) or len(words) < share * len(words_of_reference)


def reference_code(problem: Problem) -> bytes | None:
    """The first reference as an answer to the prompt; None where the data set has none."""
    texts = problem.reference_completions
    if not texts and problem.completion_style is CompletionStyle.PROGRAM:
        texts = problem.references
    return texts[0].encode() if texts else None


@functools.lru_cache(maxsize=256)  # each answer to a problem is held against the same reference
def _body_words(language: str, source: bytes, *, is_inside: bool) -> tuple[bytes, ...]:
    """Lexemes of what methods and functions do: no heads, no imports, no signs that only hold a program together.

    ``is_inside``: the source begins in the body of a method.
    """
    words = code_lexemes(language, source)
    kept = _within_braces(words, is_inside) if language == "java" else _behind_colons(words)
    return tuple(word for word in kept if word not in (b"{", b"}", b";"))


def _within_braces(words: Sequence[bytes], is_inside: bool) -> list[bytes]:
    """Java's method bodies, initialisers and fields."""
    kept: list[bytes] = []
    head: list[bytes] = []  # since the last declaration
    depth = int(is_inside)  # of braces in a body; 0: among declarations
    for word in words:
        if depth:
            depth += (word == b"{") - (word == b"}")
            kept.append(word)
        elif word == b"{":
            depth = 0 if _TYPES & set(head) and b"(" not in head else 1
            head = []
        elif word in (b";", b"}"):
            kept += head if head[:1] not in ([b"import"], [b"package"]) else []
            head = []
        else:
            head.append(word)
    return kept + head


def _behind_colons(words: Sequence[bytes]) -> list[bytes]:
    """Python without the heads of functions and classes."""
    kept: list[bytes] = []
    depth, is_head = 0, False
    for word in words:
        depth += (word in (b"(", b"[", b"{")) - (word in (b")", b"]", b"}"))
        is_head = is_head or word in (b"def", b"class")
        if not is_head:
            kept.append(word)
        elif word == b":" and depth == 0:
            is_head = False
    return kept


def _is_idle(words: Sequence[bytes]) -> bool:
    """One statement that returns, raises or passes without computing anything, or none at all."""
    if not words:
        return True
    if words[0] not in _ENDS_OF_A_TRIVIAL_ONE or len(words) > _LONGEST_TRIVIAL:
        return False
    if words[0] in (b"throw", b"raise"):
        return True
    computes = any(word[:1] in b"+*/%&|^<>=?[!~(" or word == b"-" for word in words[2:])
    if not computes:
        return True
    is_array = not any(word[:1].isalpha() or word[:1] in b"_$" for word in words[3:])  # of a given size, or of literals
    return words[1] == b"new" and (words[-1] == b")" or is_array)
