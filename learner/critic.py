"""The critic: its values, its warm-up on rollouts of the frozen policy, and its part of a PPO step.

A critic from scratch explains nothing of the returns, and advantages from it are noise; so it is taught before the
first policy step. It is the backbone of the initial policy with a scalar head that begins at the mean return.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from learner.advantages import returns_to_go
from learner.config import GAE, CriticConfig, PPOConfig
from learner.experience import Experience
from learner.explained_variance import explained_variance
from learner.losses import clipped_value_loss
from learner.minibatch import PassFigures, RowLoss, minibatches, update
from learner.optim import ScheduledOptimizer
from learner.packing import PackedRow, TokenSequence
from learner.parallel import SINGLE, Ranks, reshard
from learner.scalar_head import ScalarHeadModel
from problems.identity import derive_seed

Progress = Callable[[float, dict[str, float]], None]
"""Called with the share done, in [0, 1], and the latest figures."""


@torch.no_grad()
def values_of(
    critic: ScalarHeadModel, sequences: Sequence[TokenSequence], row_tokens: int, ranks: Ranks = SINGLE
) -> Float[Tensor, " C"]:
    """Value of the state in which each trained token was chosen, in the flat layout."""
    values = torch.zeros(sum(sequence.num_trained for sequence in sequences))
    for row, counts in ranks.rows(sequences, row_tokens):
        values[row.flat] += critic(row)[row.predicting].float() * counts
    reshard(critic)
    return ranks.total(values)


def value_row_loss(
    critic: ScalarHeadModel, *, old_values: Float[Tensor, " C"], returns: Float[Tensor, " C"], clip: float | None
) -> RowLoss:
    """The loss of one packed row, for ``learner.minibatch``."""

    def loss(row: PackedRow, flat: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        result = clipped_value_loss(
            values=critic(row)[row.predicting].float(),
            old_values=old_values[flat],
            returns=returns[flat],
            weights=weights,
            clip=clip,
        )
        return result.loss, {"clip_fraction": float(result.clip_fraction)}

    return loss


def warm_up(
    critic: ScalarHeadModel, train: Experience, held_out: Experience, config: PPOConfig, settings: CriticConfig,
    progress: Progress | None = None,
    ranks: Ranks = SINGLE,
    *,
    is_new: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Regresses the returns of the frozen policy's rollouts; the critic is changed in place.

    A critic that is new, whose head knows nothing, begins at their mean; another begins as it is.

    The frozen policy is its own reference, so that no KL term is earned: returns are the discounted rewards to go.

    Returns:
        Explained variance on the held-out rollouts over all tokens, at the first and at the last token, and on those
        trained on; the last loss; tokens passed.

    Raises:
        ValueError: there is nothing to learn from.
    """
    if not train.sequences:
        raise ValueError("none of the critic's warm-up rollouts can be used: all were aborted, cut or dropped")
    returns = _returns(train, config)
    optimizer = ScheduledOptimizer(critic, settings.warmup_optimizer, states=config.compute.optimizer_states)
    if is_new:
        critic.set_bias(float(returns.mean()))
    row_loss = value_row_loss(critic, old_values=returns, returns=returns, clip=None)
    figures = PassFigures()
    epoch = 0
    while figures.num_updates < settings.warmup_steps:
        order = derive_seed("critic-warmup", config.seed, epoch)
        size = settings.warmup_batch_trajectories
        for batch in minibatches(train.sequences, size=size, aggregation="token_mean", order_seed=order):
            if figures.num_updates == settings.warmup_steps:
                break
            done = figures.num_updates / settings.warmup_steps
            update(
                batch, model_name="critic", optimizer=optimizer, row_tokens=config.row_tokens, row_loss=row_loss,
                progress=done, figures=figures, ranks=ranks,
            )  # fmt: skip
            if progress is not None:
                progress(done, {"critic/loss": figures.losses[-1]})
        epoch += 1
    recent = figures.losses[-50:]
    return {
        "critic/loss": sum(recent) / max(len(recent), 1),
        "critic/warmup_tokens": float(ranks.total(torch.tensor(float(figures.num_tokens)))),
        **held_out_figures(critic, held_out, config, ranks),
    }


def _returns(experience: Experience, config: PPOConfig) -> Float[Tensor, " C"]:
    gamma = config.advantage.gamma if isinstance(config.advantage, GAE) else 1.0
    return returns_to_go(rewards=experience.rewards, lengths=experience.lengths, gamma=gamma)


def held_out_figures(
    critic: ScalarHeadModel, held_out: Experience, config: PPOConfig, ranks: Ranks = SINGLE
) -> dict[str, float]:
    """Explained variance on rollouts that the critic has not seen: all tokens, first token, last token."""
    returns = _returns(held_out, config)
    values = values_of(critic, held_out.sequences, config.row_tokens, ranks)
    last = held_out.lengths.cumsum(0) - 1
    first = last - held_out.lengths + 1
    return {
        "critic/held_out_explained_variance": float(explained_variance(values=values, returns=returns)),
        "critic/held_out_explained_variance_first": float(
            explained_variance(values=values[first], returns=returns[first])
        ),
        "critic/held_out_explained_variance_last": float(
            explained_variance(values=values[last], returns=returns[last])
        ),
    }
