"""When the tokens were sampled by another policy than the one that the step starts from.

Three policies (arXiv 2110.00641): *behaviour* mu sampled the tokens (an older version, or the same weights in another
engine), *proximal* is the trained policy as the step begins, *current* is what it becomes. The clip is around the
proximal policy; the factor proximal / behaviour makes up for who sampled.

B trajectories, C trained tokens in the flat layout.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learner.kl import MAX_LOG_RATIO
from learner.ragged import owner, sum_by_trajectory

Level = Literal["token", "sequence"]


def truncated_importance(
    level: Level,
    *,
    proximal_logprobs: Float[Tensor, " C"],
    behaviour_logprobs: Float[Tensor, " C"],
    lengths: Int[Tensor, " B"],
    cap: float,
) -> Float[Tensor, " C"]:
    """Truncated importance weights: min(proximal / behaviour, cap).

        token      w_t = min(exp(p_t - mu_t), cap)
        sequence   w_t = min(exp(sum_s p_s - mu_s), cap) for all t of the trajectory: less bias, more variance

    Ionides, "Truncated importance sampling" (2008). The cap keeps a few tokens from ruling the step; C = 2 is usual.

    Args:
        level: see above.
        proximal_logprobs: of the trainer before the step.
        behaviour_logprobs: recorded by the generator.
        lengths: tokens of each trajectory.
        cap: C, at least 1.

    Returns:
        One factor a token, in (0, cap], without gradient.
    """
    log_ratio = (proximal_logprobs - behaviour_logprobs).detach()
    if level == "sequence":
        log_ratio = sum_by_trajectory(log_ratio, lengths)[owner(lengths)]
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=cap)


def matching_trajectories(
    *,
    proximal_logprobs: Float[Tensor, " C"],
    behaviour_logprobs: Float[Tensor, " C"],
    lengths: Int[Tensor, " B"],
    low: float,
    high: float,
) -> Bool[Tensor, " B"]:
    """Sequence masking: trajectories whose mean ratio says that another policy wrote them are not trained.

    The geometric mean of proximal / behaviour over a trajectory's tokens, exp(mean log ratio), must lie in [low, high].
    The geometric mean does not depend on length, unlike the product.

    Args:
        low: in [0, 1].
        high: at least 1.

    Returns:
        True where a trajectory may be trained.
    """
    mean = sum_by_trajectory((proximal_logprobs - behaviour_logprobs).detach(), lengths) / lengths.clamp(min=1)
    ratio = mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return torch.logical_and(ratio >= low, ratio <= high)
