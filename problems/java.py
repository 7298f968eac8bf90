"""Tests in Java that call methods of the candidate's classes: the suite, and how a signature is read from a prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_IMPORT = re.compile(r"^\s*import\s+(?:static\s+)?[\w.]+(?:\.\*)?\s*;", re.MULTILINE)
_LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'')
_BRACE = re.compile(r"\b(?:class|record|enum|interface)\s+([A-Za-z_$][\w$]*)[^{};]*\{|\{|\}")
_THROWS = re.compile(r"\s*(?:throws\s+([\w\s.,]+?)\s*)?\{")
_MODIFIER = re.compile(r"\b(?:public|protected|private|static|final|synchronized|strictfp)\b|@\w+")
_NAME = re.compile(r"[A-Za-z_$][\w$]*")


@dataclass(frozen=True, slots=True)
class JavaMethod:
    """A method that the tests call.

    Attributes:
        class_name: the candidate's class that must have it.
        name: its name.
        returns: the type of its value as Java writes it, such as ``List<Integer>``, ``int[]`` or ``void``.
        parameters: types of its parameters.
        is_static: False for a method of an object, which is made by a constructor without parameters.
        throws: classes that its ``throws`` names.
    """

    class_name: str
    name: str
    returns: str
    parameters: tuple[str, ...] = ()
    is_static: bool = True
    throws: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JavaSuite:
    """A Java test with a ``main`` of its own. It runs in the judge, where the candidate's classes are stubs.

    A program passes if ``main`` runs to its end; it says by an exception that a value is wrong. Assertions are on.

    Attributes:
        methods: all that the tests call. They come from the data set, never from the candidate.
        test: trusted source: the test's classes, after the imports; or empty if ``members`` holds all of it.
        imports: import declarations for stubs and test.
        members: trusted source of members that stand in the stub of ``main_class`` itself, as MultiPL-E has its main.
        main_class: the class whose ``main`` is run.
        tail: what is put after the program, where completions stop before the braces that close it.
        parts: the same test once for each of its cases, each in the form of ``test``, for a count of those that pass;
            empty if it is not known how to part it.
    """

    methods: tuple[JavaMethod, ...]
    test: str
    imports: str = ""
    members: str = ""
    main_class: str = "Main"
    tail: str = ""
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("a Java suite needs at least one method of the candidate: with none, every program passes")
        if self.members and self.main_class not in self.class_names:
            raise ValueError(f"main_class is {self.main_class!r}, so members have no stub to stand in")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that the candidate must have."""
        return tuple(dict.fromkeys(method.class_name for method in self.methods))

    @property
    def cases(self) -> tuple[str, ...]:
        """The parts; without any, one: a ``main`` that throws has no way to go on."""
        return self.parts or (f"{self.main_class}.main",)


def suite_of_members(prompt: str, tests: str) -> JavaSuite:
    """The suite of a row of MultiPL-E: a prompt that ends in the head of a static method, and tests that close it and
    go on with members of the same class, ``main`` among them.

    Raises:
        ValueError: if prompt or tests are of another form.
    """
    code = _LITERAL.sub(" ", _without_comments(prompt))
    heads = re.findall(r"([A-Za-z_$][\w$]*)\s*\([^()]*\)\s*\{\s*\Z", code)
    body = tests.strip()
    if not heads:
        raise ValueError("the prompt does not end in the head of a method")
    if not body.startswith("}") or not body.endswith("}") or len(body) < 2:
        raise ValueError("the tests do not begin and end with closing braces")
    method = read_method(prompt, heads[0])
    return JavaSuite((method,), "", read_imports(prompt), body[1:-1], method.class_name, "\n    }\n}\n")


def read_imports(source: str) -> str:
    """The import declarations of a source, one a line."""
    return "".join(f"{match[0].strip()}\n" for match in _IMPORT.finditer(_without_comments(source)))


def read_method(source: str, name: str) -> JavaMethod:
    """The signature of method ``name`` of a class at top level, from a program or the head of one.

    Raises:
        ValueError: if there is no such method, or its head is generic or malformed.
    """
    code = _LITERAL.sub(" ", _without_comments(source))
    for found in re.finditer(rf"(?<![\w$.]){re.escape(name)}\s*\(", code):
        head = re.split(r"[;{}]", code[: found.start()])[-1]
        end = _closing(code, found.end() - 1)
        holders = _holders(code[: found.start()])
        declared = _THROWS.match(code, end) if end > 0 else None
        returns = " ".join(_MODIFIER.sub(" ", head).split())
        if declared and len(holders) == 1 and returns:
            if returns.startswith("<"):
                raise ValueError(f"method {name} is generic, which tests cannot call across processes")
            parameters = tuple(_parameter_type(one) for one in split_types(code[found.end() : end - 1]))
            is_static = re.search(r"\bstatic\b", head) is not None
            return JavaMethod(holders[0], name, returns, parameters, is_static, tuple(split_types(declared[1] or "")))
    raise ValueError(f"there is no declaration of a method {name}")


def _holders(code: str) -> list[str]:
    """What is open at the end of ``code``, outermost first: the names of classes, "" for other braces."""
    open_braces: list[str] = []
    for brace in _BRACE.finditer(code):
        if brace[0] == "}":
            del open_braces[-1:]
        else:
            open_braces.append(brace[1] or "")
    return open_braces


def split_types(text: str) -> list[str]:
    """Parts between the commas that stand outside of angle brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "<") - (character == ">")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _parameter_type(declaration: str) -> str:
    """``int a`` -> ``int``; ``int a[]`` -> ``int[]``; ``String... a`` -> ``String[]``."""
    words = _MODIFIER.sub(" ", declaration).strip()
    names = list(_NAME.finditer(words))
    if len(names) < 2:
        raise ValueError(f"parameter {declaration!r} is malformed")
    before, after = words[: names[-1].start()].strip(), words[names[-1].end() :].strip()
    return " ".join((before + after).replace("...", "[]").split())


def _closing(code: str, opening: int) -> int:
    """Just after the parenthesis that closes the one at ``opening``; -1 if there is none."""
    depth = 0
    for index in range(opening, len(code)):
        depth += (code[index] == "(") - (code[index] == ")")
        if depth == 0:
            return index + 1
    return -1


def _without_comments(source: str) -> str:
    return _COMMENT.sub(" ", source)
