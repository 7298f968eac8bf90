"""PF-PPO's filters as settings; what they do is in ``learner.selection``. No torch here, as in ``learner.config``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from learner.model_config import PositiveFloat, Settings


class KeepAll(Settings):
    """Every sample is trained: plain PPO."""

    kind: Literal["none"] = "none"


class BestOfN(Settings):
    """PF-PPO's BoN: the best of each group."""

    kind: Literal["bon"] = "bon"


class BestRandom(Settings):
    """PF-PPO's BR: the best of each group and one uniform of the rest."""

    kind: Literal["br"] = "br"


class BestWorst(Settings):
    """PF-PPO's BW: the best and the worst of each group."""

    kind: Literal["bw"] = "bw"


class RandomK(Settings):
    """The control: k uniform of each group, whatever they earned."""

    kind: Literal["random_k"] = "random_k"
    k: int = Field(default=2, ge=1)
    """How many to keep; a smaller group is kept whole."""


class PowerK(Settings):
    """PF-PPO's pow-k: ``count`` of each group, drawn without replacement with weights |R|^k.

    Assumes R in [-1, 1], and so depends on the reward's scale and sign, as no other filter does: ``low`` and ``high``
    are brought there, and what lies beyond counts as they do. Members of weight 0 are drawn last, uniformly.
    """

    kind: Literal["pow"] = "pow"
    power: PositiveFloat = 3.0
    """k."""
    count: int = Field(default=2, ge=1)
    """How many to keep (ours: the paper does not say); a smaller group is kept whole."""
    low: float = -1.0
    """The least reward. For rewards of 0 and 1 it is 0: left at -1, a failure would be kept for want of successes only.
    """
    high: float = 1.0
    """The greatest reward."""

    @model_validator(mode="after")
    def the_range_is_one(self) -> PowerK:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


class Threshold(Settings):
    """PF-PPO's filters by the reward itself: all at or above ``high`` are kept; of the rest, see ``rest``.

    A group may keep none or all of its members.
    """

    kind: Literal["threshold"] = "threshold"
    high: float = Field(default=0.5, allow_inf_nan=False)
    """Samples of at least this reward are kept."""
    rest: Literal["drop", "half", "bottom"] = "half"
    """``drop``: *top*. ``half``: *top-random*, each is kept with probability 1/2. ``bottom``: *top-bottom*, those at or
    below ``low`` are kept."""
    low: float = Field(default=0.0, allow_inf_nan=False)
    """Border of ``bottom``."""

    @model_validator(mode="after")
    def low_is_below_high(self) -> Threshold:
        if self.rest == "bottom" and self.low >= self.high:
            raise ValueError(f"filter.low {self.low} is not below filter.high {self.high}")
        return self


Filter = Annotated[
    KeepAll | BestOfN | BestRandom | BestWorst | RandomK | PowerK | Threshold, Field(discriminator="kind")
]


def name_of(rule: Filter) -> str:
    """Names a filter among others in figures: its kind, and the settings that are not the defaults."""
    changed = rule.model_dump(exclude={"kind"}, exclude_defaults=True)
    return "_".join([rule.kind, *(f"{field}_{value}" for field, value in changed.items())])


def smallest_group(rule: Filter) -> int:
    """Members that a group must have for the filter to choose among them as it says."""
    match rule:
        case BestOfN() | BestRandom() | BestWorst():
            return 2
        case RandomK(k=count) | PowerK(count=count):
            return count
        case _:
            return 1
