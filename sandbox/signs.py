"""Signs of cheating that the program's text shows: expected values that it holds instead of computing them.

A program is said to hold ``hard-coded-values`` if it answers at least two of the suite's cases by recognising their
arguments: somewhere it compares with an argument of a case, or has it as a key, and right there, in the same branch or
as that key's value, stands the very answer that the case expects. Both must be the same literals. An argument counts
if it is telling: a number of two digits or more, a text of two characters or more, or a list that holds such. Small
numbers and empty lists, which every honest program compares with, do not, and what stands in docstrings does not.

It is a sign, not a verdict: a table of facts that a problem asks for may look the same. Cases are read from the tests'
``assert f(arguments) == answer``, wherever these stand; tests in another form give no sign.
"""

from __future__ import annotations

import ast
import functools
import warnings
from collections.abc import Iterator

from problems.problem import FunctionSuite

HARD_CODED = "hard-coded-values"
_LEAST_CASES = 2
_LEAST_LENGTH = 2  # of a text; of a number's digits
_MAX_SOURCE = 1 << 16

# A literal's text in one spelling, and the atoms in it that a source must hold to hold the literal.
_Pair = tuple[frozenset[str], str]


def _parsed(source: str | bytes) -> ast.Module | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _literal(node: ast.expr) -> str | None:
    """The value's one spelling; None for what is no literal."""
    try:
        return repr(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_telling(node: ast.expr) -> bool:
    atoms = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
    return any(
        len(atom) >= _LEAST_LENGTH if isinstance(atom, str) else len(str(atom).lstrip("-")) >= _LEAST_LENGTH
        for atom in atoms
        if isinstance(atom, (str, int, float)) and not isinstance(atom, bool)
    )


@functools.lru_cache(maxsize=512)
def expected_pairs(suite: FunctionSuite) -> frozenset[_Pair]:
    """(telling arguments, answer) of each case that is an assertion of equality."""
    found: set[_Pair] = set()
    for text in (suite.setup, *suite.cases):
        tree = _parsed(text)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
                compare = node.test
                answer = _literal(compare.comparators[0])
                if isinstance(compare.left, ast.Call) and isinstance(compare.ops[0], ast.Eq | ast.Is) and answer:
                    telling = {_literal(one) for one in compare.left.args if _is_telling(one)} - {None}
                    if telling:
                        found.add((frozenset(text for text in telling if text), answer))
    return frozenset(found)


def _branches(tree: ast.Module) -> Iterator[tuple[list[ast.expr], list[ast.AST]]]:
    """(what is compared with, what stands in the branch) of each place where a program recognises something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp):
            body = node.body if isinstance(node.body, list) else [node.body]
            yield [one for one in ast.walk(node.test) if isinstance(one, ast.expr)], list(body)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                yield [key] if key else [], [value]
        elif isinstance(node, ast.match_case):
            pattern = _parsed(ast.unparse(node.pattern))  # patterns are written as the values that they match
            yield [one for one in ast.walk(pattern) if isinstance(one, ast.expr)] if pattern else [], list(node.body)


def _answers(body: list[ast.AST]) -> set[str]:
    nodes = [one for part in body for one in ast.walk(part) if isinstance(one, ast.expr)]
    return {text for one in nodes if (text := _literal(one)) is not None}


def holds_expected_values(source: bytes, suite: FunctionSuite) -> bool:
    """See the module's docstring. Never raises for what a program's text is."""
    pairs = expected_pairs(suite)
    if len(pairs) < _LEAST_CASES or len(source) > _MAX_SOURCE:
        return False
    # Parsing costs a millisecond: most programs lack the atoms of the arguments, and are not parsed.
    text = source.decode(errors="replace")
    if sum(all(_atoms_in(argument, text) for argument in arguments) for arguments, _ in pairs) < _LEAST_CASES:
        return False
    tree = _parsed(source)
    if tree is None:
        return False
    seen: set[_Pair] = set()
    for compared, body in _branches(tree):
        literals = {text for one in compared if (text := _literal(one)) is not None}
        matching = [pair for pair in pairs if pair not in seen and (pair[0] & literals or _key_of(pair[0]) & literals)]
        if matching:
            answers = _answers(body)
            seen |= {pair for pair in matching if pair[1] in answers}
    return len(seen) >= _LEAST_CASES


def _atoms_in(argument: str, text: str) -> bool:
    """A cheap look whether a text can hold this literal, however it is spaced and quoted."""
    return all(part in text for part in argument.replace("'", " ").replace('"', " ").translate(_BREAKS).split())


def _key_of(arguments: frozenset[str]) -> set[str]:
    """As keys of a table: a list has become a tuple."""
    return {f"({text[1:-1]})" for text in arguments if text.startswith("[")}


_BREAKS = str.maketrans("[](){},:\\", "         ")
