"""From a composition to text: prompt, completion and whole program, in Python and in Java.

Java's head is the way MBJP writes it (imports, class, comment, method); Python's the way HumanEval does. Both are heads
to continue: program = prompt + completion.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from problems.synthetic.operations import Code, Kind, Operation

LANGUAGES = ("python", "java")
ENTRY_POINT = "f"
_JAVA_TYPES = {"xs": "List<Integer>", "out": "List<Integer>", "n": "int", "m": "int", "s": "String", "t": "String"}


@dataclass(frozen=True, slots=True)
class Step:
    """An operation with its parameters and its phrasing."""

    operation: Operation
    phrasing: int
    digit: int = 0
    letter: str = ""

    @property
    def label(self) -> str:
        """Name and parameters, such as ``add_each-3``."""
        parameters = [str(self.digit)] if self.operation.takes_digit else []
        parameters += [self.letter] if self.operation.takes_letter else []
        return "-".join([self.operation.name, *parameters])

    def fill(self, text: str) -> str:
        return text.replace("$k", str(self.digit)).replace("$c", self.letter)


def specification(steps: Sequence[Step]) -> str:
    """What the program shall do, as one sentence."""
    return ", then ".join(step.fill(step.operation.phrasings[step.phrasing]) for step in steps) + "."


def render_head(steps: Sequence[Step], language: str) -> str:
    """The prompt: function head and specification."""
    source, target = steps[0].operation.source, steps[-1].operation.target
    if language == "python":
        return f'def {ENTRY_POINT}({source}):\n    """{specification(steps)}"""\n'
    return (
        "import java.util.*;\n\nclass Solution {\n"
        f"    /**\n     * {specification(steps)}\n     */\n"
        f"    public static {_JAVA_TYPES[target]} {ENTRY_POINT}({_JAVA_TYPES[source]} {source}) {{\n"
    )


def java_literal(value: list[int] | int | str) -> str:
    """The value as an expression of Java; a list of it may be changed."""
    if isinstance(value, list):
        return f"new ArrayList<>(List.of({', '.join(map(str, value))}))" if value else "new ArrayList<Integer>()"
    return json.dumps(value) if isinstance(value, str) else str(value)


def _declared(lines: Sequence[str], known: set[str]) -> list[str]:
    """Java lines with the type before each variable met for the first time; ``known`` grows."""
    rendered: list[str] = []
    for line in lines:
        if line.startswith("@"):
            name = line[1 : line.index(" ")]
            line = line[1:] if name in known else f"{_JAVA_TYPES[name]} {line[1:]}"
            known.add(name)
        rendered.append(line)
    return rendered


def render_completion(steps: Sequence[Step], codes: Sequence[Code], language: str) -> str:
    """The body that answers ``render_head``, one code for each step, to the end of the program."""
    target: Kind = steps[-1].operation.target
    known = {str(steps[0].operation.source)}
    lines: list[str] = []
    for step, chosen in zip(steps, codes, strict=True):
        filled = [step.fill(line) for line in chosen.lines(language)]
        lines += filled if language == "python" else _declared(filled, known)
    if language == "python":
        return "".join(f"    {line}\n" for line in [*lines, f"return {target}"])
    return "".join(f"        {line}\n" for line in [*lines, f"return {target};"]) + "    }\n}\n"
