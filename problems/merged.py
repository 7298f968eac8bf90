"""Tests in the program's own language that run in its process, where the two cannot be told apart."""

from __future__ import annotations

from dataclasses import dataclass

END_MARK = "@end-of-tests@"
"""Stands in a suite's tests where a text is printed that differs in each run."""


@dataclass(frozen=True, slots=True)
class MergedSuite:
    """Tests that are put after the program and share its process: a pass can be forged, and its verdict says so.

    A pass needs exit code 0, and the text that stands for END_MARK as the last line printed: so a program that ends
    early, by ``exit(0)`` say, does not pass by that. One that reads its own file, or takes the tests' functions for its
    own, may.

    Attributes:
        tests: trusted source; it fails by a raised error or an exit code, and prints END_MARK, which stands in it
            once, when the last test has passed.
    """

    tests: str

    def __post_init__(self) -> None:
        if self.tests.count(END_MARK) != 1:
            raise ValueError(f"merged tests must print {END_MARK} once, after the last of them")

    @property
    def cases(self) -> tuple[str]:
        """The tests are one case: they pass together or not at all."""
        return (self.tests,)
