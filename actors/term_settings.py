"""What the settings of all reward terms have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from actors.terms import Attempt
from learner.trajectory import FinishReason


class TermSettings(BaseModel):
    """Frozen; an unknown field is an error; a field's text stands under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def is_cut(attempt: Attempt) -> bool:
    """True if the last turn ended at the token limit."""
    return attempt.trajectory.turns[-1].finish_reason is FinishReason.LENGTH
