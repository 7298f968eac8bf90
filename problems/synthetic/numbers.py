"""Operations on a number."""

from __future__ import annotations

from problems.synthetic.operations import Code, Expression, FaultKind, Kind, Operation, code, fault, in_both, operation

_MAP = (Kind.NUMBER, Kind.NUMBER)
_OFF, _WRONG, _BRANCH = FaultKind.OFF_BY_ONE, FaultKind.WRONG_OPERATOR, FaultKind.MISSING_BRANCH
_ORDER, _NAME, _CONSTANT = FaultKind.WRONG_ORDER, FaultKind.WRONG_NAME, FaultKind.WRONG_CONSTANT


def _set(expression: Expression) -> Code:
    python, java = in_both(expression)
    return code(f"n = {python}", f"n = {java};")


def _compute(
    name: str, phrasings: tuple[str, ...], right: Expression, *wrong: tuple[FaultKind, Expression]
) -> Operation:
    return operation(name, _MAP, phrasings, [_set(right)], *(fault(kind, _set(bad)) for kind, bad in wrong))


def _if(condition: str, then: str) -> Code:
    return code(f"if {condition}:\n    n = {then}", f"if ({condition}) {{\n    n = {then};\n}}")


def _if_else(condition: str, then: Expression, otherwise: str) -> Code:
    python, java = in_both(then)
    return code(
        f"if {condition}:\n    n = {python}\nelse:\n    n = {otherwise}",
        f"if ({condition}) {{\n    n = {java};\n}} else {{\n    n = {otherwise};\n}}",
    )


def _over_digits(update: Expression, start: str = "0") -> Code:
    python, java = in_both(update)
    return Code(
        ("m = abs(n)", f"n = {start}", "while m > 0:", f"    {python}", "    m //= 10"),
        ("@m = Math.abs(n);", f"n = {start};", "while (m > 0) {", f"    {java};", "    m /= 10;", "}"),
    )


def _digits(python: str, java: str, text: Expression = ("str(abs(n))", "String.valueOf(Math.abs(n))")) -> Code:
    python_text, java_text = in_both(text)
    return Code(
        ("xs = []", f"for c in {python_text}:", f"    {python}"),
        ("@xs = new ArrayList<>();", f"for (char c : {java_text}.toCharArray()) {{", f"    {java}", "}"),
    )


NUMBER_OPERATIONS: tuple[Operation, ...] = (
    _compute("add", ("add $k to it", "increase it by $k"), "n + $k", (_WRONG, "n - $k"), (_OFF, "n + $k + 1")),
    _compute(
        "subtract", ("subtract $k from it", "decrease it by $k"), "n - $k", (_ORDER, "$k - n"), (_WRONG, "n + $k")
    ),
    _compute("multiply", ("multiply it by $k", "scale it by $k"), "n * $k", (_WRONG, "n + $k"), (_OFF, "n * $k + n")),
    _compute("square", ("square it", "multiply it by itself"), "n * n", (_WRONG, "n * 2"), (_WRONG, "n + n + 1")),
    _compute("negate", ("negate it", "flip its sign"), "-n", (_OFF, "1 - n"), (_WRONG, ("abs(n)", "Math.abs(n)"))),
    _compute(
        "modulo",
        ("take it modulo $k", "take its remainder by $k"),
        ("n % $k", "Math.floorMod(n, $k)"),
        (_WRONG, ("n // $k", "Math.floorDiv(n, $k)")),
        (_OFF, ("n % $k + 1", "Math.floorMod(n, $k) + 1")),
    ),
    _compute(
        "halve",
        ("halve it rounding down", "take half of it rounded down"),
        ("n // 2", "Math.floorDiv(n, 2)"),
        (_WRONG, ("n % 2", "Math.floorMod(n, 2)")),
        (_OFF, ("(n + 1) // 2", "Math.floorDiv(n + 1, 2)")),
    ),
    operation(
        "absolute",
        _MAP,
        ("take its absolute value", "remove its sign"),
        [_if("n < 0", "-n"), _set(("abs(n)", "Math.abs(n)"))],
        fault(_WRONG, _if("n > 0", "-n")),
        fault(_BRANCH, _set("-n")),
    ),
    operation(
        "at_most",
        _MAP,
        ("cap it at $k0", "limit it to at most $k0"),
        [_if("n > $k0", "$k0"), _set(("min(n, $k0)", "Math.min(n, $k0)"))],
        fault(_WRONG, _if("n < $k0", "$k0"), _set(("max(n, $k0)", "Math.max(n, $k0)"))),
        fault(_OFF, _if("n > $k0", "$k0 - 1")),
    ),
    operation(
        "at_least",
        _MAP,
        ("raise it to at least $k0", "make it $k0 if it is smaller"),
        [_if("n < $k0", "$k0"), _set(("max(n, $k0)", "Math.max(n, $k0)"))],
        fault(_WRONG, _if("n > $k0", "$k0"), _set(("min(n, $k0)", "Math.min(n, $k0)"))),
        fault(_BRANCH, _set("$k0")),
    ),
    operation(
        "collatz",
        _MAP,
        ("halve it if even else triple it and add 1", "take the next Collatz number"),
        [_if_else("n % 2 == 0", ("n // 2", "n / 2"), "3 * n + 1")],
        fault(_OFF, _if_else("n % 2 == 0", ("n // 2", "n / 2"), "3 * n - 1")),
        fault(_WRONG, _if_else("n % 2 != 0", ("n // 2", "Math.floorDiv(n, 2)"), "3 * n + 1")),
        fault(_BRANCH, _if("n % 2 != 0", "3 * n + 1")),
    ),
    operation(
        "digit_sum",
        _MAP,
        ("add up its digits", "take its digit sum"),
        [_over_digits("n += m % 10")],
        fault(_CONSTANT, _over_digits("n += m % 10", "1")),
        fault(_WRONG, _over_digits(("n += m // 10", "n += m / 10"))),
        fault(_NAME, _over_digits("n += 1")),
    ),
    operation(
        "reverse_digits",
        _MAP,
        ("reverse its digits", "write its digits backwards as a number"),
        [_over_digits("n = n * 10 + m % 10")],
        fault(_WRONG, _over_digits("n = n + m % 10")),
        fault(_ORDER, _over_digits("n = m % 10 * 10 + n")),
    ),
    operation(
        "digits",
        (Kind.NUMBER, Kind.LIST),
        ("list its digits", "split it into its digits"),
        [_digits("xs.append(int(c))", "xs.add(c - '0');")],
        fault(_ORDER, _digits("xs.insert(0, int(c))", "xs.add(0, c - '0');")),
        fault(_OFF, _digits("xs.append(int(c) + 1)", "xs.add(c - '0' + 1);")),
    ),
    operation(
        "to_text",
        (Kind.NUMBER, Kind.TEXT),
        ("write it as text", "turn it into a string"),
        [code("s = str(n)", "@s = String.valueOf(n);")],
        fault(_OFF, code("s = str(n + 1)", "@s = String.valueOf(n + 1);")),
        fault(_WRONG, code("s = str(-n)", "@s = String.valueOf(-n);")),
    ),
)
