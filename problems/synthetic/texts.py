"""Operations on a string."""

from __future__ import annotations

from problems.synthetic.operations import Code, Expression, FaultKind, Kind, Operation, code, fault, in_both, operation

_MAP = (Kind.TEXT, Kind.TEXT)
_TO_NUMBER = (Kind.TEXT, Kind.NUMBER)
_TO_LIST = (Kind.TEXT, Kind.LIST)
_OFF, _WRONG, _BRANCH = FaultKind.OFF_BY_ONE, FaultKind.WRONG_OPERATOR, FaultKind.MISSING_BRANCH
_ORDER, _NAME, _CONSTANT = FaultKind.WRONG_ORDER, FaultKind.WRONG_NAME, FaultKind.WRONG_CONSTANT

_VOWEL = ('c in "aeiouAEIOU"', '"aeiouAEIOU".indexOf(c) >= 0')
_NO_VOWEL = ('c not in "aeiouAEIOU"', '"aeiouAEIOU".indexOf(c) < 0')
_SMALL_VOWEL = ('c in "aeiou"', '"aeiou".indexOf(c) >= 0')
_NO_SMALL_VOWEL = ('c not in "aeiou"', '"aeiou".indexOf(c) < 0')
_IS_LETTER, _NOT_LETTER = ('c == "$c"', "c == '$c'"), ('c != "$c"', "c != '$c'")
_NOT_SPACE, _IS_SPACE = ('c != " "', "c != ' '"), ('c == " "', "c == ' '")
_UPPER = ("c.upper()", "Character.toUpperCase(c)")
_LOWER = ("c.lower()", "Character.toLowerCase(c)")
_SWAPPED = (
    "c.swapcase()",
    "Character.isUpperCase(c) ? Character.toLowerCase(c) : Character.toUpperCase(c)",
)


def _loop(python: str, java: str) -> Code:
    """Build ``t`` from ``s`` with a loop around the lines given."""
    inner_python, inner_java = (block.split("\n") for block in (python, java))
    return Code(
        ('t = ""', "for c in s:", *("    " + line for line in inner_python), "s = t"),
        ('@t = "";', "for (char c : s.toCharArray()) {", *("    " + line for line in inner_java), "}", "s = t;"),
    )


def _kept(condition: Expression) -> Code:
    python, java = in_both(condition)
    return _loop(f"if {python}:\n    t += c", f"if ({java}) {{\n    t += c;\n}}")


def _mapped(expression: Expression) -> Code:
    python, java = in_both(expression)
    return _loop(f"t += {python}", f"t += {java};")


_COPIED = _loop("t += c", "t += c;")


def _keep(
    name: str, phrasings: tuple[str, ...], condition: Expression, *wrong: tuple[FaultKind, Expression]
) -> Operation:
    """Keep the characters that meet a condition."""
    bad = (fault(kind, _kept(expression)) for kind, expression in wrong)
    return operation(name, _MAP, phrasings, [_kept(condition)], *bad, fault(_BRANCH, _COPIED))


def _each(
    name: str, phrasings: tuple[str, ...], short: Code | None, right: Expression, *wrong: Expression
) -> Operation:
    """Replace each character; all its faults are of the operator."""
    styles = [_mapped(right), *([short] if short else [])]
    return operation(name, _MAP, phrasings, styles, *(fault(_WRONG, _mapped(bad)) for bad in wrong))


def _count(condition: Expression, update: str = "n += 1", start: str = "0") -> Code:
    python, java = in_both(condition)
    return Code(
        (f"n = {start}", "for c in s:", f"    if {python}:", f"        {update}"),
        (
            f"@n = {start};",
            "for (char c : s.toCharArray()) {",
            f"    if ({java}) {{",
            f"        {update};",
            "    }",
            "}",
        ),
    )


_COUNT_ALL = code("n = 0\nfor c in s:\n    n += 1", "@n = 0;\nfor (char c : s.toCharArray()) {\n    n += 1;\n}")


def _over_words(start: Expression, update: Expression, end: Expression = "", guarded: bool = True) -> Code:
    python, java = in_both(update)
    python_start, java_start = in_both(start)
    python_end, java_end = in_both(end)
    inner_python, inner_java = (f"    {python}",), (f"    {java};",)
    if guarded:
        inner_python = ("    if w:", f"        {python}")
        inner_java = ("    if (!w.isEmpty()) {", f"        {java};", "    }")
    return Code(
        (python_start, 'for w in s.split(" "):', *inner_python, *([python_end] if python_end else [])),
        (
            f"{java_start};",
            'for (String w : s.split(" ")) {',
            *inner_java,
            "}",
            *([f"{java_end};"] if java_end else []),
        ),
    )


def _initials(python: str, java: str) -> Code:
    return _over_words(('t = ""', '@t = ""'), (python, java), "s = t")


def _sliced(python_start: str, java_start: str, python: str, java: str) -> Code:
    return code(f"m = {python_start}\ns = {python}", f"@m = {java_start};\ns = {java};")


def _positions(condition: Expression, python: str = "i", java: str = "i") -> Code:
    python_condition, java_condition = in_both(condition)
    return Code(
        ("xs = []", "for i in range(len(s)):", f"    if {python_condition}:", f"        xs.append({python})"),
        (
            "@xs = new ArrayList<>();",
            "for (int i = 0; i < s.length(); i++) {",
            f"    if ({java_condition}) {{",
            f"        xs.add({java});",
            "    }",
            "}",
        ),
    )


_ENDING = ("max(0, len(s) - $k)", "Math.max(0, s.length() - $k)")
_START = ("min($k, len(s))", "Math.min($k, s.length())")
_AT_LETTER = ('s[i] == "$c"', "s.charAt(i) == '$c'")

TEXT_OPERATIONS: tuple[Operation, ...] = (
    _each("upper", ("convert to upper case",), code("s = s.upper()", "s = s.toUpperCase();"), _UPPER, _LOWER, _SWAPPED),
    _each("lower", ("convert to lower case",), code("s = s.lower()", "s = s.toLowerCase();"), _LOWER, _UPPER, _SWAPPED),
    _each("swap_case", ("swap the case", "flip the case of each letter"), None, _SWAPPED, _UPPER, _LOWER),
    _each(
        "double_letters",
        ("double each character",),
        None,
        ("c + c", '"" + c + c'),
        "c",
        ("c + c + c", '"" + c + c + c'),
    ),
    _keep(
        "remove_vowels",
        ("remove the vowels", "drop all vowels"),
        _NO_VOWEL,
        (_CONSTANT, _NO_SMALL_VOWEL),
        (_WRONG, _VOWEL),
    ),
    _keep("keep_vowels", ("keep only the vowels",), _VOWEL, (_WRONG, _NO_VOWEL), (_CONSTANT, _SMALL_VOWEL)),
    _keep("remove_letter", ("remove every '$c'", "delete all '$c'"), _NOT_LETTER, (_WRONG, _IS_LETTER)),
    _keep("remove_spaces", ("remove the spaces",), _NOT_SPACE, (_WRONG, _IS_SPACE)),
    operation(
        "reverse_text",
        _MAP,
        ("reverse the string", "spell it backwards"),
        [_loop("t = c + t", "t = c + t;"), code("s = s[::-1]", "s = new StringBuilder(s).reverse().toString();")],
        fault(_ORDER, _loop("t = t + c", "t = t + c;")),
        fault(_OFF, code("s = s[1:][::-1]", "s = new StringBuilder(s.substring(1)).reverse().toString();")),
    ),
    operation(
        "first_letters",
        _MAP,
        ("take the first $k characters",),
        [
            _kept(("len(t) < $k", "t.length() < $k")),
            code("s = s[:$k]", "s = s.substring(0, Math.min($k, s.length()));"),
        ],
        fault(_OFF, _kept(("len(t) <= $k", "t.length() <= $k"))),
        fault(_WRONG, code("s = s[$k:]", "s = s.substring(Math.min($k, s.length()));")),
    ),
    operation(
        "last_letters",
        _MAP,
        ("take the last $k characters",),
        [
            _sliced(*_ENDING, "s[m:]", "s.substring(m)"),
            code("s = s[-$k:]", "s = s.substring(Math.max(0, s.length() - $k));"),
        ],
        fault(_WRONG, _sliced(*_ENDING, "s[:m]", "s.substring(0, m)")),
        fault(_OFF, _sliced("max(0, len(s) - $k - 1)", "Math.max(0, s.length() - $k - 1)", "s[m:]", "s.substring(m)")),
    ),
    operation(
        "skip_letters",
        _MAP,
        ("skip the first $k characters", "drop the first $k characters"),
        [_sliced(*_START, "s[m:]", "s.substring(m)"), code("s = s[$k:]", "s = s.substring(Math.min($k, s.length()));")],
        fault(_OFF, _sliced("min($k - 1, len(s))", "Math.min($k - 1, s.length())", "s[m:]", "s.substring(m)")),
        fault(_WRONG, _sliced(*_START, "s[:m]", "s.substring(0, m)")),
    ),
    operation(
        "initials",
        _MAP,
        ("take the first letter of each word", "take the initials of the words"),
        [_initials("t += w[0]", "t += w.charAt(0)")],
        fault(_OFF, _initials("t += w[-1]", "t += w.charAt(w.length() - 1)")),
        fault(_NAME, _initials("t += w", "t += w")),
    ),
    operation(
        "length",
        _TO_NUMBER,
        ("take the length", "count the characters"),
        [code("n = len(s)", "@n = s.length();"), _COUNT_ALL],
        fault(_OFF, code("n = len(s) - 1", "@n = s.length() - 1;")),
        fault(_BRANCH, _count(_NOT_SPACE)),
    ),
    operation(
        "count_words",
        _TO_NUMBER,
        ("count the words", "take the number of words"),
        [_over_words(("n = 0", "@n = 0"), "n += 1")],
        fault(_BRANCH, code('n = s.count(" ") + 1', '@n = s.split(" ", -1).length;')),
        fault(_CONSTANT, _over_words(("n = 1", "@n = 1"), "n += 1")),
        fault(_NAME, _over_words(("n = 0", "@n = 0"), ("n += len(w)", "n += w.length()"))),
    ),
    operation(
        "count_letter",
        _TO_NUMBER,
        ("count how often '$c' occurs", "count each '$c'"),
        [_count(_IS_LETTER), code('n = s.count("$c")', '@n = s.length() - s.replace("$c", "").length();')],
        fault(_WRONG, _count(_NOT_LETTER)),
        fault(_CONSTANT, _count(_IS_LETTER, start="1")),
    ),
    operation(
        "count_vowels",
        _TO_NUMBER,
        ("count the vowels", "take the number of vowels"),
        [_count(_VOWEL)],
        fault(_CONSTANT, _count(_SMALL_VOWEL)),
        fault(_WRONG, _count(_NO_VOWEL)),
        fault(_BRANCH, _COUNT_ALL),
    ),
    operation(
        "word_lengths",
        _TO_LIST,
        ("list the lengths of its words", "take the length of each word"),
        [_over_words(("xs = []", "@xs = new ArrayList<>()"), ("xs.append(len(w))", "xs.add(w.length())"))],
        fault(
            _OFF,
            _over_words(("xs = []", "@xs = new ArrayList<>()"), ("xs.append(len(w) - 1)", "xs.add(w.length() - 1)")),
        ),
        fault(
            _ORDER,
            _over_words(("xs = []", "@xs = new ArrayList<>()"), ("xs.insert(0, len(w))", "xs.add(0, w.length())")),
        ),
    ),
    operation(
        "positions",
        _TO_LIST,
        ("list the positions of '$c'", "find where '$c' occurs"),
        [_positions(_AT_LETTER)],
        fault(_OFF, _positions(_AT_LETTER, "i + 1", "i + 1")),
        fault(_WRONG, _positions(('s[i] != "$c"', "s.charAt(i) != '$c'"))),
    ),
)
