"""What all settings of a run have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen; an unknown field is an error; a field's text stands under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
