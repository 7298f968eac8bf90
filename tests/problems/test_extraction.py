"""From completion to program, rule by rule."""

from dataclasses import replace

import pytest

from problems.bytemap import ByteMap, Segment
from problems.extraction import extract_program
from problems.problem import CompletionStyle, Problem


def problem(style: CompletionStyle, prompt: str = "write f", language: str = "python") -> Problem:
    return Problem("p", language, prompt, style, {})


def program_of(completion: bytes, language: str = "python") -> tuple[bytes, str]:
    extraction = extract_program(problem(CompletionStyle.PROGRAM, language=language), completion)
    for segment in extraction.segments:  # the map must speak of the very bytes
        end = segment.completion_start + segment.length
        assert (
            completion[segment.completion_start : end] == extraction.program[segment.program_start :][: segment.length]
        )
    return extraction.program, extraction.rule


def test_continuation_is_prompt_and_completion_byte_for_byte():
    extraction = extract_program(problem(CompletionStyle.CONTINUE, 'def f():\n    """é"""\n'), b"    return 1\r\n")
    assert extraction.program == 'def f():\n    """é"""\n    return 1\r\n'.encode()
    assert extraction.segments == (Segment(0, 22, 14),)


def ending(prompt: str, completion: bytes) -> bytes:
    """What a problem that ends when it is closed takes of a completion in Java."""
    asked = replace(problem(CompletionStyle.CONTINUE, prompt, "java"), ends_when_closed=True)
    extraction = extract_program(asked, completion)
    (segment,) = extraction.segments
    assert (segment.completion_start, segment.program_start) == (0, len(prompt.encode()))
    assert extraction.program == prompt.encode() + completion[: segment.length]
    return completion[: segment.length]


def test_a_program_ends_with_the_brace_that_closes_what_the_prompt_opened():
    head = "class Sum {  // {\n    static String é(int n) {\n"
    written = b'        if (n > 0) { return "}}"; } /* } */\n        char c = \'}\'; return "";  // }}\n    }\n}'
    assert ending(head, written) == written
    assert ending(head, written + b"\n\nclass Next {\n    int broken = ;\n}\n") == written
    assert ending(head, written + b"}") == written
    assert ending(head, b"        return 1;\n    }\n") == b"        return 1;\n    }\n"  # the class is never closed
    assert ending(head, b"") == b""


def test_braces_that_the_prompt_has_closed_end_nothing():
    head = "class A { }\nclass B { int x() { return 1; }\n    int y() {\n"
    assert ending(head, b" return 2; } }\nclass C { }") == b" return 2; } }"


def test_empty_completion_leaves_the_prompt():
    extraction = extract_program(problem(CompletionStyle.CONTINUE, "def f():\n"), b"")
    assert extraction.program == b"def f():\n"
    assert extraction.segments == (Segment(0, 9, 0),)


@pytest.mark.parametrize(
    ("completion", "program", "rule"),
    [
        (b"x = 1\n", b"x = 1\n", "bare"),
        (b"Sure:\n```python\nx = 1\n```\nDone.", b"x = 1\n", "block"),
        (b"```\nx = 1\n```", b"x = 1\n", "block"),
        (b"```Python title\nx = 1\n```", b"x = 1\n", "block"),
        (b"  ```py\r\nx = 1\r\n  ```\r\n", b"x = 1\r\n", "block"),
        (b"```python\nx = 1\n```\nbetter:\n```python\nx = 2\n```\n", b"x = 2\n", "block"),
        (b"```python\nx = 1\n```\n```bash\nrun\n```\n", b"x = 1\n", "block"),
        (b"```bash\nrun\n```\n", b"run\n", "foreign-block"),
        (b"```python\nx = 1\n", b"x = 1\n", "block"),
        (b"```python\nx = 1\n```python\nx = 2\n```", b"x = 2\n", "block"),
        (b"```python\ns = 'a ``` b'\n```", b"s = 'a ``` b'\n", "block"),
        (b"```python\n```", b"", "no-code"),
        (b"```python", b"", "no-code"),
        (b" \n\t\n", b" \n\t\n", "no-code"),
        (b"", b"", "no-code"),
    ],
)
def test_program_is_the_last_block_of_the_language(completion: bytes, program: bytes, rule: str):
    assert program_of(completion) == (program, rule)


def test_tag_follows_the_problems_language():
    completion = b"```java\nclass A {}\n```\n```python\nx = 1\n```\n"
    assert program_of(completion, "java") == (b"class A {}\n", "block")
    assert program_of(completion, "python") == (b"x = 1\n", "block")


def test_lines_of_a_block_find_their_tokens_through_template_and_fence():
    pieces = [b"Here:", b"\n```", b"python\n", b"x = 1", b"\n", b"y = 2\n```", b"\nBye"]
    extraction = extract_program(problem(CompletionStyle.PROGRAM), b"".join(pieces))
    mapping = ByteMap.build(pieces, extraction)
    assert mapping.num_lines == 2
    assert mapping.tokens_of_line(1) == range(3, 5)
    assert mapping.tokens_of_line(2) == range(5, 6)  # the token goes on into the fence
