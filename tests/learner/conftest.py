"""Shapes in learner/ are checked while these tests run; models are tiny and float64 where digits count."""

from __future__ import annotations

from jaxtyping import install_import_hook

install_import_hook("learner", "beartype.beartype")  # before the first import of learner in this process

from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402

from learner.model_config import NewModelConfig  # noqa: E402
from learner.models import new_causal_lm  # noqa: E402
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan  # noqa: E402
from problems.identity import TrajectoryId, WeightsVersion  # noqa: E402

VOCABULARY = 40
TINY = NewModelConfig(hidden_size=16, num_layers=2, head_dim=8, intermediate_size=24, max_position_embeddings=128)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Bitwise comparisons hold for one number of threads; the machine may be busy."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_model() -> PreTrainedModel:
    return new_causal_lm(TINY, vocab_size=VOCABULARY, eos_token_id=1, pad_token_id=0, seed=3)


@pytest.fixture
def make_trajectory() -> Callable[..., Trajectory]:
    return trajectory


def trajectory(
    group: int = 0,
    sample: int = 0,
    *,
    reward: float = 0.0,
    prompt: tuple[int, ...] = (2, 3, 4),
    completion: tuple[int, ...] = (5, 6, 1),
    behaviour_logprobs: tuple[float, ...] | None = None,
    loss_mask: tuple[bool, ...] | None = None,
    events: tuple[RewardEvent, ...] | None = None,
    finish_reason: FinishReason = FinishReason.STOP,
    drop_reason: str | None = None,
) -> Trajectory:
    """One trajectory of one turn; everything may be set, nothing must be."""
    length = len(completion)
    turn = Turn(
        prompt_ids=np.array(prompt, dtype=np.int32),
        completion_ids=np.array(completion, dtype=np.int32),
        loss_mask=np.array(loss_mask if loss_mask is not None else [True] * length, dtype=np.bool_),
        behaviour_logprobs=np.array(behaviour_logprobs or [-3.5] * length, dtype=np.float32),
        spans=(VersionSpan(WeightsVersion(0, 0), 0, length),) if length else (),
        finish_reason=finish_reason,
    )
    return Trajectory(
        id=TrajectoryId("run", "ppo", 0, f"p{group}", sample),
        group=group,
        turns=(turn,),
        events=events if events is not None else (RewardEvent("tests", reward),),
        drop_reason=drop_reason,
    )
