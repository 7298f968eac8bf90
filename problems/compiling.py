"""No test at all: a program is compiled, and never run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CompileSuite:
    """Passed by every program that its language's compiler takes; what is wrong stands in the verdict's diagnostics.

    For Java: the resident compiler's errors, with their bytes, and whatever the classes are called. For Python: its own
    compiler's, then those of pyflakes that say that a line fails when it is reached.
    """

    @property
    def cases(self) -> tuple[str]:
        """One."""
        return ("compiles",)
