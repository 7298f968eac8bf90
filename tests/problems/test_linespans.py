"""Lines as units of supervision: which token ends which line, and which lines are neutral. Layouts by hand."""

import random

import pytest

from problems.bytemap import ByteMap, Extraction, Segment
from problems.comments import LANGUAGES, without_comments
from problems.extraction import extract_program
from problems.linespans import LineSpan, line_spans, neutral_lines
from problems.problem import CompletionStyle, Problem
from sandbox.languages import LANGUAGES as RUN


def whole(pieces: list[bytes]) -> tuple[bytes, ByteMap]:
    program = b"".join(pieces)
    return program, ByteMap.build(pieces, Extraction(program, (Segment(0, 0, len(program)),), "bare"))


def spans(pieces: list[bytes], language: str = "python", *, is_cut: bool = False) -> tuple[LineSpan, ...]:
    return line_spans(*whole(pieces), language, is_cut=is_cut)


def neutral(program: str, language: str = "python") -> str:
    """One character a line: ``.`` neutral, ``x`` not."""
    data = program.encode()
    return "".join(".x"[not line] for line in neutral_lines(*whole([data])[:1], whole([data])[1], language))


def test_the_token_that_holds_the_line_break_ends_the_line() -> None:
    # line 1 |x =| 1|\n|   line 2 |# why\n|   line 3 |\n|   line 4 |return| x| (no line break) |</s>|
    found = spans([b"x =", b" 1", b"\n", b"# why\n", b"\n", b"return", b" x", b""])
    assert found == (
        LineSpan(2, 1, 1, False),
        LineSpan(3, 2, 2, True),
        LineSpan(4, 3, 3, True),
        LineSpan(6, 4, 4, False),
    )


def test_lines_that_one_token_ends_are_one_span_and_neutral_only_if_all_of_them_are() -> None:
    # |x = 1|\n\n\n|# a\n\n|y|\n|
    assert spans([b"x = 1", b"\n\n\n", b"# a\n\n", b"y", b"\n"]) == (
        LineSpan(1, 1, 3, False),
        LineSpan(2, 4, 5, True),
        LineSpan(4, 6, 6, False),
    )


def test_a_token_that_begins_the_next_line_ends_only_the_one_before() -> None:
    assert spans([b"if x:", b"\n    y", b"\n"]) == (LineSpan(1, 1, 1, False), LineSpan(2, 2, 2, False))


def test_a_cut_completion_has_no_span_for_the_line_that_it_did_not_end() -> None:
    assert [span.token for span in spans([b"a\n", b"b", b"c"], is_cut=True)] == [0]
    assert [span.token for span in spans([b"a\n", b"b", b"c"])] == [0, 2]
    assert [span.token for span in spans([b"a\n", b"b\n"], is_cut=True)] == [0, 1]
    assert spans([b"a"], is_cut=True) == ()
    assert spans([]) == ()


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_ends_a_span(ending: bytes) -> None:
    found = spans([b"a", ending, b"\t", b"# b", ending, b"\tc", ending])
    assert [(span.token, span.is_neutral) for span in found] == [(1, False), (4, True), (6, False)]


def test_mixed_line_endings_and_tabs() -> None:
    assert neutral("a\r\n\t# b\rc\n\t \r\n\td") == "x.x.x"


def test_a_program_of_one_line_and_one_of_a_thousand() -> None:
    assert spans([b"return x"]) == (LineSpan(0, 1, 1, False),)
    found = spans([b"x = 1\n", b"# no\n"] * 500)
    assert len(found) == 1000
    assert [span.token for span in found] == list(range(1000))
    assert sum(not span.is_neutral for span in found) == 500


def test_only_what_the_completion_wrote_has_spans() -> None:
    problem = Problem("p", "python", 'def f(x):\n    """What."""\n    ', CompletionStyle.CONTINUE, {})
    pieces = [b"y = x", b"\n", b"    return y", b"\n"]
    extraction = extract_program(problem, b"".join(pieces))
    found = line_spans(extraction.program, ByteMap.build(pieces, extraction), "python", is_cut=False)
    assert found == (LineSpan(1, 3, 3, False), LineSpan(3, 4, 4, False))  # the prompt begins line 3


def test_prose_around_a_code_block_has_no_spans() -> None:
    problem = Problem("p", "python", "Write f.", CompletionStyle.PROGRAM, {})
    pieces = [b"Sure:\n", b"```python\n", b"# f\n", b"f = 1\n", b"```", b"\nDone.\n"]
    extraction = extract_program(problem, b"".join(pieces))
    found = line_spans(extraction.program, ByteMap.build(pieces, extraction), "python", is_cut=False)
    assert found == (LineSpan(2, 1, 1, True), LineSpan(3, 2, 2, False))


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ('def f(x):\n    """One."""\n    return x\n', "x.x"),
        ('def f(x):\n    """One\n    # two\n\n    three."""\n    return x\n', "x....x"),
        ("'a'\nr'b' 'c'  # d\nx = 'e'\n", "..x"),
        ('x = """a\n# b\n\nc"""\n', "xx.x"),
        ("f(\n    # a\n    'b',\n    'c'\n)\n", "x.xxx"),
        ("'a'; x = 1\n'b'; 'c'\n", "x."),
        ("x = '#'  # y\n\"#\" + x\n", "xx"),
        ("x = 1 \\\n    + 2\n'a' \\\n    'b'\n", "xx.."),
        ('"""never closed\nx = 1\n', ".."),
        ("x = 'never closed\ny = 2  # z\n# z\n", "xx."),
        ("if x: 'a'\nelse:\n    'b'\n    pass\n", "xx.x"),
        ("print(f'{x}#') # y\nrb'a'\nbuf'a'\n", "x.x"),
    ],
)
def test_python(program: str, expected: str) -> None:
    assert neutral(program) == expected


@pytest.mark.parametrize(
    ("language", "program", "expected"),
    [
        ("java", 'int x; // a\n/* b\n c */ int y;\n/** d\n */\nString s = "//";\nchar c = \'"\'; // e\n', "x.x..xx"),
        ("java", 'var s = """\n  // a\n  """;\n// b\n', "xxx."),
        ("cpp", 'int n = 1\'000; // a\n// b \\\nstill b\nauto s = R"x(\n// c\n)x";\n', "x..xxx"),
        ("javascript", "const r = /\\/\\//; // a\nlet t = `\n// b\n`;\nlet q = 4 / 2; // c\n// d\n", "xxxxx."),
        ("typescript", "const u: string = '//';\n/* a */ // b\n", "x."),
        ("php", '<?php\n# a\n#[Attribute]\n$s = "\n// b\n"; // c\n$h = <<<EOT\n// d\nEOT;\n// e\n', "x.xxxxxxx."),
        ("csharp", 'var a = @"\\";\n// a\nvar b = """\n// b\n""";\nvar c = \'"\';\n', "x.xxxx"),
        ("bash", "echo a#b $# ${#x} # c\n# d\necho '# e\n# f'\ncat <<EOF\n# g\nEOF\n", "x.xxxxx"),
    ],
)
def test_other_languages(language: str, program: str, expected: str) -> None:
    assert neutral(program, language) == expected


def test_every_language_that_can_be_run_is_known_and_no_other() -> None:
    assert set(LANGUAGES) == {"python", *RUN}
    with pytest.raises(ValueError, match="comments of language 'cobol' are not known; known: python, java"):
        without_comments(b"x", "cobol")


@pytest.mark.parametrize("language", LANGUAGES)
def test_blanks_take_the_place_of_comments_byte_for_byte_whatever_the_program(language: str) -> None:
    rng = random.Random(1)
    for _ in range(300):
        program = "".join(rng.choices("\"'`#/*\\\n\r\t xé({;<R@$", k=60)).encode()
        for literals in (True, False):
            text = without_comments(program, language, literals=literals)
            assert len(text) == len(program)
            assert all(after in (before, 0x20) for before, after in zip(program, text, strict=True))
            assert [b for b in text if b in b"\r\n"] == [b for b in program if b in b"\r\n"]


def test_literals_can_be_blanked_too() -> None:
    assert without_comments(b"x = 'try' # if\n", "python", literals=False) == b"x = " + b" " * 10 + b"\n"
