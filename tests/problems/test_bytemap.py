"""Byte map: tokens, bytes, lines and columns, by hand."""

import random

import pytest

from problems.bytemap import ByteMap, Extraction, Segment


def whole(pieces: list[bytes]) -> ByteMap:
    """The map of a completion that is the program."""
    program = b"".join(pieces)
    return ByteMap.build(pieces, Extraction(program, (Segment(0, 0, len(program)),), "bare"))


def test_lines_and_columns_find_their_tokens():
    #        0     1    2      3       4     5
    # line 1 |def| f():|\n|   line 2 |    return| 1|\n|
    mapping = whole([b"def", b" f():", b"\n", b"    return", b" 1", b"\n"])
    assert mapping.num_lines == 2
    assert [mapping.token_at(1, column) for column in (1, 3, 4, 8, 9)] == [0, 0, 1, 1, 2]
    assert [mapping.token_at(2, column) for column in (1, 10, 11, 13)] == [3, 3, 4, 5]
    assert mapping.tokens_of_line(1) == range(3)
    assert mapping.tokens_of_line(2) == range(3, 6)
    assert (mapping.last_token_of_line(1), mapping.last_token_of_line(2)) == (2, 5)


def test_column_past_the_end_stays_on_its_line():
    mapping = whole([b"a", b"\n", b"b", b"\n"])
    assert mapping.token_at(1, 99) == 1
    assert mapping.token_at(2, 99) == 3
    assert mapping.token_at(1, 0) == 0


def test_last_line_without_newline_ends_at_its_last_byte():
    mapping = whole([b"a\n", b"b", b"c"])
    assert mapping.num_lines == 2
    assert mapping.last_token_of_line(2) == 2
    assert mapping.token_at(2, 9) == 2


def test_token_that_spans_two_lines_belongs_to_both():
    # |if x:|\n    y|\n|
    mapping = whole([b"if x:", b"\n    y", b"\n"])
    assert mapping.tokens_of_line(1) == range(2)
    assert mapping.tokens_of_line(2) == range(1, 3)
    assert mapping.last_token_of_line(1) == 1  # it holds the newline


def test_bytes_of_one_character_may_lie_in_two_tokens():
    # "é" is c3 a9; columns count bytes
    mapping = whole([b"x='\xc3", b"\xa9'", b"\n"])
    assert [mapping.token_at(1, column) for column in (4, 5, 6, 7)] == [0, 1, 1, 2]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_of_the_compilers_ends_a_line(ending: bytes):
    mapping = whole([b"a", ending, ending, b"b", ending])
    assert mapping.num_lines == 3
    assert mapping.tokens_of_line(2) == range(2, 3)  # the blank line is its newline
    assert mapping.last_token_of_line(1) == 1
    assert mapping.token_at(3) == 3


def test_carriage_return_and_newline_in_two_tokens_are_one_line_end():
    mapping = whole([b"a\r", b"\n", b"b"])
    assert mapping.num_lines == 2
    assert mapping.last_token_of_line(1) == 1


def test_form_feed_and_unicode_separators_end_no_line():
    assert whole(["a\x0cb\x0bc\u2028d\x85e".encode()]).num_lines == 1


def test_empty_tokens_own_nothing():
    # an end-of-sequence token, and a special token in the middle
    mapping = whole([b"a", b"", b"b", b"\n", b""])
    assert mapping.tokens_of_line(1) == range(4)
    assert mapping.token_at(1, 2) == 2
    assert mapping.last_token_of_line(1) == 3


def test_lines_that_the_prompt_wrote_have_no_token():
    # prompt "def f():\n", completion "    return 1\n"
    program = b"def f():\n    return 1\n"
    mapping = ByteMap.build([b"    return", b" 1\n"], Extraction(program, (Segment(0, 9, 13),), "continue"))
    assert mapping.token_at(1) is None
    assert mapping.tokens_of_line(1) == range(0)
    assert mapping.last_token_of_line(1) is None
    assert mapping.tokens_of_line(2) == range(2)
    assert mapping.token_at(2, 12) == 1


def test_line_that_prompt_and_completion_share_has_the_completions_tokens():
    # prompt "x = ", completion "1\n"
    mapping = ByteMap.build([b"1", b"\n"], Extraction(b"x = 1\n", (Segment(0, 4, 2),), "continue"))
    assert mapping.tokens_of_line(1) == range(2)
    assert mapping.token_at(1, 1) is None
    assert mapping.token_at(1, 5) == 0


def test_code_block_leaves_template_and_fences_outside():
    #          0-6   |7-15 ```python\n|16-21 x = 1|\n|22-24 ```
    pieces = [b"Sure:\n", b"```", b"python\n", b"x =", b" 1\n", b"```"]
    mapping = ByteMap.build(pieces, Extraction(b"x = 1\n", (Segment(16, 0, 6),), "block"))
    assert mapping.tokens_of_line(1) == range(3, 5)
    assert mapping.last_token_of_line(1) == 4


def test_empty_completion_maps_nothing():
    mapping = ByteMap.build([], Extraction(b"def f():\n", (Segment(0, 9, 0),), "continue"))
    assert mapping.token_at(1) is None
    assert mapping.tokens_of_line(1) == range(0)
    assert whole([]).last_token_of_line(1) is None


@pytest.mark.parametrize("line", [0, -1, 3])
def test_line_outside_the_program_is_refused(line: int):
    with pytest.raises(ValueError, match="outside the program's 2 lines"):
        whole([b"a\n", b"b\n"]).token_at(line)


def test_every_byte_of_a_random_program_goes_back_to_the_token_that_wrote_it():
    rng = random.Random(0)
    for _ in range(200):
        pieces = [bytes(rng.choices(b"ab\n\r\xc3", k=rng.randrange(4))) for _ in range(rng.randrange(1, 9))]
        head = bytes(rng.choices(b"ab\n", k=rng.randrange(5)))
        completion = b"".join(pieces)
        mapping = ByteMap.build(
            pieces, Extraction(head + completion, (Segment(0, len(head), len(completion)),), "continue")
        )
        owners = [index for index, piece in enumerate(pieces) for _ in piece]
        for offset, owner in enumerate(owners):
            assert mapping.token_of_byte(offset) == owner
        covered = {token for line in range(1, mapping.num_lines + 1) for token in mapping.tokens_of_line(line)}
        assert set(owners) <= covered
