"""Operations on lists of numbers."""

from __future__ import annotations

from problems.synthetic.operations import Code, Expression, FaultKind, Kind, Operation, code, fault, in_both, operation

_MAP = (Kind.LIST, Kind.LIST)
_FOLD = (Kind.LIST, Kind.NUMBER)
WRONG, OFF, BRANCH, STEP, NAME, CONSTANT, ORDER = (
    FaultKind.WRONG_OPERATOR,
    FaultKind.OFF_BY_ONE,
    FaultKind.MISSING_BRANCH,
    FaultKind.MISSING_STEP,
    FaultKind.WRONG_NAME,
    FaultKind.WRONG_CONSTANT,
    FaultKind.WRONG_ORDER,
)
Wrong = tuple[FaultKind, Expression]


def _loop(python: str, java: str) -> Code:
    """Build ``out`` from ``xs`` with a loop around the lines given."""
    inner_python, inner_java = (block.split("\n") for block in (python, java))
    return Code(
        ("out = []", "for x in xs:", *("    " + line for line in inner_python), "xs = out"),
        ("@out = new ArrayList<>();", "for (int x : xs) {", *("    " + line for line in inner_java), "}", "xs = out;"),
    )


def _kept(condition: Expression) -> Code:
    python, java = in_both(condition)
    return _loop(f"if {python}:\n    out.append(x)", f"if ({java}) {{\n    out.add(x);\n}}")


def _kept_short(condition: Expression) -> Code:
    python, java = in_both(condition)
    return code(f"xs = [x for x in xs if {python}]", f"xs = xs.stream().filter(x -> {java}).toList();")


_EVERYTHING_KEPT = _loop("out.append(x)", "out.add(x);")


def _keep(name: str, phrasings: tuple[str, ...], condition: Expression, *wrong: Wrong) -> Operation:
    """Keep the numbers that meet a condition."""
    return operation(
        name,
        _MAP,
        phrasings,
        [_kept(condition), _kept_short(condition)],
        *(fault(kind, _kept(bad), _kept_short(bad)) for kind, bad in wrong),
        fault(BRANCH, _EVERYTHING_KEPT),
    )


def _mapped(expression: Expression) -> Code:
    python, java = in_both(expression)
    return _loop(f"out.append({python})", f"out.add({java});")


def _mapped_short(expression: Expression) -> Code:
    python, java = in_both(expression)
    return code(f"xs = [{python} for x in xs]", f"xs = xs.stream().map(x -> {java}).toList();")


def _each(name: str, phrasings: tuple[str, ...], expression: Expression, *wrong: Wrong) -> Operation:
    """Replace each number."""
    return operation(
        name,
        _MAP,
        phrasings,
        [_mapped(expression), _mapped_short(expression)],
        *(fault(kind, _mapped(bad), _mapped_short(bad)) for kind, bad in wrong),
    )


def _fold(start: str, update: str, condition: str = "") -> Code:
    python, java = [update], [f"{update};"]
    if condition:
        python = [f"if {condition}:", f"    {update}"]
        java = [f"if ({condition}) {{", f"    {update};", "}"]
    return Code(
        (f"n = {start}", "for x in xs:", *("    " + line for line in python)),
        (f"@n = {start};", "for (int x : xs) {", *("    " + line for line in java), "}"),
    )


def _or_zero(python: str, java: str) -> Code:
    """A value of a list that may be empty."""
    return Code(
        ("n = 0", "if xs:", f"    n = {python}"),
        ("@n = 0;", "if (!xs.isEmpty()) {", f"    n = {java};", "}"),
    )


def _pick(name: str, phrasing: str, right: tuple[str, str], *wrong: tuple[FaultKind, tuple[str, str]]) -> Operation:
    """One number of the list, 0 if it is empty."""
    unguarded = code(f"n = {right[0]}", f"@n = {right[1]};")
    return operation(
        name,
        _FOLD,
        (f"take {phrasing} or 0 if empty", f"find {phrasing} or 0 if empty"),
        [_or_zero(*right)],
        *(fault(kind, _or_zero(*bad)) for kind, bad in wrong),
        fault(BRANCH, unguarded),
    )


def _sliced(python_start: str, java_start: str, python: str, java: str) -> Code:
    return code(f"m = {python_start}\nxs = {python}", f"@m = {java_start};\nxs = {java};")


def _accumulated(*steps: str) -> Code:
    java = (f"    {step.replace('append', 'add')};" for step in steps)
    return Code(
        ("out = []", "m = 0", "for x in xs:", *(f"    {step}" for step in steps), "xs = out"),
        ("@out = new ArrayList<>();", "@m = 0;", "for (int x : xs) {", *java, "}", "xs = out;"),
    )


def _indexed(python_range: str, java_header: str, python: str, java: str) -> Code:
    return Code(
        ("out = []", f"for i in range({python_range}):", f"    out.append({python})", "xs = out"),
        ("@out = new ArrayList<>();", f"for (int i = {java_header}) {{", f"    out.add({java});", "}", "xs = out;"),
    )


_TO_LAST_PAIR = ("len(xs) - 1", "0; i < xs.size() - 1; i++")
_LARGEST, _SMALLEST = ("max(xs)", "Collections.max(xs)"), ("min(xs)", "Collections.min(xs)")
_FIRST, _LAST = ("xs[0]", "xs.get(0)"), ("xs[-1]", "xs.get(xs.size() - 1)")
_SORTED = code("xs = sorted(xs)", "@out = new ArrayList<>(xs);\nCollections.sort(out);\nxs = out;")
_DESCENDING = code(
    "xs = sorted(xs, reverse=True)",
    "@out = new ArrayList<>(xs);\nout.sort(Collections.reverseOrder());\nxs = out;",
)
_REVERSED = code("xs = xs[::-1]", "@out = new ArrayList<>(xs);\nCollections.reverse(out);\nxs = out;")

LIST_OPERATIONS: tuple[Operation, ...] = (
    _keep(
        "keep_even",
        ("keep the even numbers", "drop the odd numbers"),
        "x % 2 == 0",
        (WRONG, "x % 2 != 0"),
        (OFF, "x % 2 == 1"),
    ),
    _keep(
        "keep_odd",
        ("keep the odd numbers", "drop the even numbers"),
        "x % 2 != 0",
        (WRONG, "x % 2 == 0"),
        (OFF, "x % 3 != 0"),
    ),
    _keep("keep_positive", ("keep the positive numbers",), "x > 0", (OFF, "x >= 0"), (WRONG, "x < 0")),
    _keep("keep_negative", ("keep the negative numbers",), "x < 0", (WRONG, "x > 0"), (OFF, "x <= 0")),
    _keep(
        "keep_above",
        ("keep numbers greater than $k", "drop numbers up to $k"),
        "x > $k",
        (OFF, "x >= $k"),
        (WRONG, "x < $k"),
    ),
    _keep(
        "keep_below",
        ("keep numbers less than $k", "drop numbers from $k up"),
        "x < $k",
        (WRONG, "x > $k"),
        (OFF, "x <= $k"),
    ),
    _keep(
        "keep_multiples",
        ("keep multiples of $k", "keep numbers divisible by $k"),
        "x % $k == 0",
        (WRONG, ("x // $k == 0", "x / $k == 0")),
        (WRONG, "x % $k != 0"),
    ),
    _each("add_each", ("add $k to each", "increase each by $k"), "x + $k", (WRONG, "x - $k"), (WRONG, "x * $k")),
    _each(
        "subtract_each",
        ("subtract $k from each", "decrease each by $k"),
        "x - $k",
        (ORDER, "$k - x"),
        (WRONG, "x + $k"),
    ),
    _each(
        "multiply_each", ("multiply each by $k", "scale each by $k"), "x * $k", (WRONG, "x + $k"), (OFF, "x * $k + x")
    ),
    _each("square_each", ("square each", "multiply each by itself"), "x * x", (WRONG, "x * 2"), (WRONG, "x + x + 1")),
    _each(
        "negate_each",
        ("negate each", "flip the sign of each"),
        "-x",
        (WRONG, ("abs(x)", "Math.abs(x)")),
        (OFF, "1 - x"),
    ),
    _each(
        "absolute_each",
        ("take the absolute value of each", "remove the sign of each"),
        ("abs(x)", "Math.abs(x)"),
        (WRONG, "-x"),
        (BRANCH, ("max(x, 0)", "Math.max(x, 0)")),
    ),
    _each(
        "modulo_each",
        ("take each modulo $k", "take the remainder of each by $k"),
        ("x % $k", "Math.floorMod(x, $k)"),
        (WRONG, ("x // $k", "Math.floorDiv(x, $k)")),
        (OFF, ("x % $k + 1", "Math.floorMod(x, $k) + 1")),
    ),
    _each(
        "cap_each",
        ("cap each at $k", "limit each to at most $k"),
        ("min(x, $k)", "Math.min(x, $k)"),
        (WRONG, ("max(x, $k)", "Math.max(x, $k)")),
        (OFF, ("min(x, $k - 1)", "Math.min(x, $k - 1)")),
    ),
    operation(
        "reverse_list",
        _MAP,
        ("reverse the list", "turn the list around"),
        [_loop("out.insert(0, x)", "out.add(0, x);"), _REVERSED],
        fault(ORDER, _loop("out.append(x)", "out.add(x);"), _DESCENDING),
        fault(
            OFF,
            code(
                "xs = xs[1:][::-1]",
                "@out = new ArrayList<>(xs.subList(1, xs.size()));\nCollections.reverse(out);\nxs = out;",
            ),
        ),
    ),
    operation(
        "sort_list",
        _MAP,
        ("sort the list", "put the list in ascending order"),
        [_SORTED, code("out = list(xs)\nout.sort()\nxs = out", "xs = xs.stream().sorted().toList();")],
        fault(ORDER, _DESCENDING),
        fault(STEP, code("out = list(xs)\nsorted(out)\nxs = out", "@out = new ArrayList<>(xs);\nxs = out;")),
    ),
    operation(
        "sort_descending",
        _MAP,
        ("sort in descending order", "sort from high to low"),
        [_DESCENDING, code("xs = sorted(xs)[::-1]", "xs = xs.stream().sorted(Collections.reverseOrder()).toList();")],
        fault(STEP, _SORTED),
        fault(ORDER, _REVERSED),
    ),
    operation(
        "unique",
        _MAP,
        ("remove duplicates", "keep each number once"),
        [
            _kept(("x not in out", "!out.contains(x)")),
            code("xs = list(dict.fromkeys(xs))", "xs = new ArrayList<>(new LinkedHashSet<>(xs));"),
        ],
        fault(WRONG, _kept(("x in out", "out.contains(x)"))),
        fault(NAME, _kept(("x not in xs", "!xs.contains(x)"))),
        fault(BRANCH, _EVERYTHING_KEPT),
    ),
    operation(
        "first",
        _MAP,
        ("take the first $k", "keep the first $k items"),
        [
            _kept(("len(out) < $k", "out.size() < $k")),
            code("xs = xs[:$k]", "xs = xs.stream().limit($k).toList();"),
        ],
        fault(
            OFF,
            _kept(("len(out) <= $k", "out.size() <= $k")),
            code("xs = xs[:$k + 1]", "xs = xs.stream().limit($k + 1).toList();"),
        ),
        fault(WRONG, code("xs = xs[$k:]", "xs = xs.stream().skip($k).toList();")),
    ),
    operation(
        "last_items",
        _MAP,
        ("take the last $k", "keep the last $k items"),
        [
            _sliced("max(0, len(xs) - $k)", "Math.max(0, xs.size() - $k)", "xs[m:]", "xs.subList(m, xs.size())"),
            code("xs = xs[-$k:]", "xs = xs.stream().skip(Math.max(0, xs.size() - $k)).toList();"),
        ],
        fault(
            WRONG,
            _sliced("max(0, len(xs) - $k)", "Math.max(0, xs.size() - $k)", "xs[:m]", "xs.subList(0, m)"),
            code("xs = xs[:$k]", "xs = xs.stream().limit($k).toList();"),
        ),
        fault(BRANCH, _sliced("len(xs) - $k", "xs.size() - $k", "xs[m:]", "xs.subList(m, xs.size())")),
    ),
    operation(
        "skip",
        _MAP,
        ("skip the first $k", "drop the first $k items"),
        [
            _sliced("min($k, len(xs))", "Math.min($k, xs.size())", "xs[m:]", "xs.subList(m, xs.size())"),
            code("xs = xs[$k:]", "xs = xs.stream().skip($k).toList();"),
        ],
        fault(
            OFF,
            _sliced("min($k - 1, len(xs))", "Math.min($k - 1, xs.size())", "xs[m:]", "xs.subList(m, xs.size())"),
            code("xs = xs[$k - 1:]", "xs = xs.stream().skip($k - 1).toList();"),
        ),
        fault(WRONG, _sliced("min($k, len(xs))", "Math.min($k, xs.size())", "xs[:m]", "xs.subList(0, m)")),
    ),
    operation(
        "every_second",
        _MAP,
        ("take every second item", "drop every other item"),
        [_indexed("0, len(xs), 2", "0; i < xs.size(); i += 2", "xs[i]", "xs.get(i)")],
        fault(OFF, _indexed("1, len(xs), 2", "1; i < xs.size(); i += 2", "xs[i]", "xs.get(i)")),
        fault(CONSTANT, _indexed("0, len(xs), 3", "0; i < xs.size(); i += 3", "xs[i]", "xs.get(i)")),
        fault(NAME, _indexed("0, len(xs), 2", "0; i < xs.size(); i += 2", "i", "i")),
    ),
    operation(
        "running_total",
        _MAP,
        ("take the running total", "replace each by the sum so far"),
        [_accumulated("m += x", "out.append(m)")],
        fault(ORDER, _accumulated("out.append(m)", "m += x")),
        fault(WRONG, _accumulated("m = x", "out.append(m)")),
        fault(NAME, _accumulated("m += x", "out.append(x)")),
    ),
    operation(
        "differences",
        _MAP,
        ("take the differences of neighbours", "subtract from each its left neighbour"),
        [_indexed(*_TO_LAST_PAIR, "xs[i + 1] - xs[i]", "xs.get(i + 1) - xs.get(i)")],
        fault(ORDER, _indexed(*_TO_LAST_PAIR, "xs[i] - xs[i + 1]", "xs.get(i) - xs.get(i + 1)")),
        fault(WRONG, _indexed(*_TO_LAST_PAIR, "xs[i + 1] + xs[i]", "xs.get(i + 1) + xs.get(i)")),
        fault(OFF, _indexed("len(xs)", "0; i < xs.size(); i++", "xs[i + 1] - xs[i]", "xs.get(i + 1) - xs.get(i)")),
    ),
    operation(
        "total",
        _FOLD,
        ("take the sum", "add them all up"),
        [_fold("0", "n += x"), code("n = sum(xs)", "@n = xs.stream().mapToInt(x -> x).sum();")],
        fault(CONSTANT, _fold("1", "n += x")),
        fault(WRONG, _fold("0", "n -= x")),
    ),
    operation(
        "product",
        _FOLD,
        ("take the product", "multiply them all"),
        [_fold("1", "n *= x")],
        fault(CONSTANT, _fold("0", "n *= x")),
        fault(WRONG, _fold("1", "n += x")),
    ),
    _pick("largest", "the largest", _LARGEST, (WRONG, _SMALLEST), (NAME, _LAST)),
    _pick("smallest", "the smallest", _SMALLEST, (NAME, _FIRST), (WRONG, _LARGEST)),
    _pick("last", "the last", _LAST, (NAME, _FIRST), (WRONG, _LARGEST)),
    operation(
        "size",
        _FOLD,
        ("count them", "take how many there are"),
        [_fold("0", "n += 1"), code("n = len(xs)", "@n = xs.size();")],
        fault(OFF, _fold("1", "n += 1"), code("n = len(xs) - 1", "@n = xs.size() - 1;")),
        fault(NAME, _fold("0", "n += x")),
    ),
    operation(
        "count_even",
        _FOLD,
        ("count the even ones", "take how many are even"),
        [_fold("0", "n += 1", "x % 2 == 0")],
        fault(WRONG, _fold("0", "n += 1", "x % 2 != 0")),
        fault(NAME, _fold("0", "n += x", "x % 2 == 0")),
        fault(BRANCH, _fold("0", "n += 1")),
    ),
    operation(
        "sum_positive",
        _FOLD,
        ("add up the positive ones", "take the sum of the positive ones"),
        [_fold("0", "n += x", "x > 0")],
        fault(BRANCH, _fold("0", "n += x")),
        fault(NAME, _fold("0", "n += 1", "x > 0")),
        fault(WRONG, _fold("0", "n += x", "x < 0")),
    ),
    operation(
        "count_above",
        _FOLD,
        ("count those above $k", "take how many exceed $k"),
        [_fold("0", "n += 1", "x > $k")],
        fault(OFF, _fold("0", "n += 1", "x >= $k")),
        fault(WRONG, _fold("0", "n += 1", "x < $k")),
        fault(BRANCH, _fold("0", "n += 1")),
    ),
)
