"""Settings of fine-tuning and PPO. No torch here: the command line reads them before anything heavy is imported.

Defaults are those of the quick start on two cores (a model of 0.5M parameters). Where the papers state a value for a
large model, the field's text gives it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator

from learner.filter_config import BestOfN, Filter, KeepAll, PowerK, RandomK, Threshold
from learner.model_config import (
    ComputeConfig,
    Fraction,
    LoRAConfig,
    NonNegativeFloat,
    OptimizerConfig,
    PositiveFloat,
    Settings,
)


class SFTConfig(Settings):
    """Supervised fine-tuning on (prompt, completion) pairs."""

    seed: int = Field(default=0, ge=0)
    """Order of the examples."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=3e-3, beta2=0.98, eps=1e-8, weight_decay=0.01, warmup_steps=30, final_fraction=0.05
    )
    """AdamW for the whole model, or for the adapter."""
    lora: LoRAConfig | None = None
    """Train an adapter only; the exported model is the merged one. None: the whole model."""
    max_steps: int | None = Field(default=None, ge=1)
    """Budget in optimizer steps; None: no such bound."""
    max_seconds: PositiveFloat | None = None
    """Budget in seconds of training; None: no such bound. The rate follows whichever budget is nearer its end."""
    batch_examples: int = Field(default=64, ge=1)
    """Examples in an optimizer step."""
    compute: ComputeConfig = ComputeConfig()
    """Precision, memory and device."""
    export_precision: Literal["float32", "bfloat16"] = "float32"
    """Of the exported model. A stage that goes on from it begins with what was rounded off."""
    row_tokens: int = Field(default=4096, ge=16)
    """Most tokens in one packed row (one forward and backward pass)."""
    max_example_tokens: int = Field(default=512, ge=2)
    """An example with more tokens is an error, never cut."""

    @model_validator(mode="after")
    def some_budget_is_set(self) -> SFTConfig:
        if self.max_steps is None and self.max_seconds is None:
            raise ValueError("one of max_steps and max_seconds must be set")
        return self

    @model_validator(mode="after")
    def an_example_fits_a_row(self) -> SFTConfig:
        if self.max_example_tokens > self.row_tokens:
            raise ValueError(f"max_example_tokens {self.max_example_tokens} is more than row_tokens {self.row_tokens}")
        return self


class CriticConfig(Settings):
    """The value model: backbone of the initial policy and a scalar head."""

    placement: Literal["device", "host"] = "device"
    """Where the critic waits. ``host``: it comes to the device for its passes and updates only."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, schedule="linear")
    """AdamW during PPO. Slow: a fast critic forgets (explained variance 0.2 -> 0.05)."""
    epochs: int = Field(default=1, ge=0)
    """Passes over the step's trajectories; 0 freezes the critic after its warm-up."""
    train_on: Literal["all", "kept"] = "all"
    """Trajectories that teach it. Under best-worst on 0/1 rewards every mixed group of kept ones averages 0.5, so that
    they teach it the filter. With ``kept`` the dropped ones pass through neither model (PF-PPO's saving)."""
    value_clip: PositiveFloat | None = 0.2
    """Clip range around the values before the step, in units of reward; None: no clipping."""
    target_lambda: Fraction = 1.0
    """Lambda of the returns that it regresses on; 1: what was really earned."""
    warmup_optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, head_factor=5.0, weight_decay=0.1, warmup_steps=20, final_fraction=0.1
    )
    """AdamW of the warm-up on rollouts of the frozen policy. A faster backbone forgets what it knew (at 4e-3 half of
    the explained variance is lost)."""
    warmup_rollouts: int = Field(default=12_000, ge=0)
    """Rollouts of the frozen policy that the stage collects for the warm-up; 0: no warm-up. At equal cost,
    one sample each of many prompts taught it more than several of fewer (held-out explained variance about 0.25 against
    0.17, on different held-out sets)."""
    warmup_steps: int = Field(default=600, ge=0)
    """Optimizer steps of the warm-up."""
    warmup_batch_trajectories: int = Field(default=64, ge=1)
    """Trajectories in a warm-up step."""


class GAE(Settings):
    """Generalised advantage estimation with a learned critic."""

    kind: Literal["gae"] = "gae"
    gamma: Fraction = 1.0
    """Discount per token."""
    lam: Fraction = 0.95
    """Lambda: 1 trusts what was earned, 0 trusts the critic. PF-PPO: 0.95."""
    critic: CriticConfig = CriticConfig()
    """The value model."""


class GroupBaseline(Settings):
    """Rewards compared within the samples of one prompt, or with all of the batch; no critic."""

    kind: Literal["group"] = "group"
    baseline: Literal["mean", "leave_one_out", "grpo", "none"] = "mean"
    """``mean``: R - mean (Dr.GRPO). ``leave_one_out``: R - mean of the others (RLOO). ``grpo``: (R - mean) / std.
    ``none``: R itself, whitened over the batch (REINFORCE++). ``mean`` with ``whiten_advantages`` is its variant with a
    baseline."""
    over: Literal["generated", "kept"] = "generated"
    """The members that make the baseline: all that were sampled, or those that the filter kept."""


AdvantageEstimator = Annotated[GAE | GroupBaseline, Field(discriminator="kind")]


class AdaptiveKLConfig(Settings):
    """Beta follows a target; see learner.kl_control."""

    target: PositiveFloat = 0.1
    """Divergence to hold, nats a token."""
    horizon: PositiveFloat = 10_000.0
    """Trajectories over which a full error would change beta by a factor of e."""


class KLConfig(Settings):
    """Anchor to the reference policy."""

    coefficient: NonNegativeFloat = 0.02
    """Beta. 0: no reference model is held. PF-PPO: 0.01."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """See learner.kl. Where it is not named: k1 as a reward, k3 as a loss."""
    place: Literal["reward", "loss"] = "reward"
    """Subtracted from each token's reward (papers), or added to the loss (GRPO)."""
    adaptive: AdaptiveKLConfig | None = None
    """None: beta stays as it is."""
    placement: Literal["device", "host"] = "device"
    """Where the reference model waits. ``host``: it comes to the device for its pass only."""

    @model_validator(mode="before")
    @classmethod
    def a_loss_is_k3(cls, given: Any) -> Any:
        """The gradient of k1 has mean zero: as a loss it must be asked for by name, and then anchors nothing."""
        if not isinstance(given, dict):
            return given
        fields = cast("dict[str, Any]", given)
        return {"estimator": "k3", **fields} if fields.get("place") == "loss" else fields

    @model_validator(mode="after")
    def nothing_adapts_from_zero(self) -> KLConfig:
        if self.adaptive is not None and not self.coefficient:
            raise ValueError("kl.adaptive multiplies kl.coefficient, which is 0: give it a start above 0")
        return self


class Correction(Settings):
    """Decoupled PPO: for tokens that another policy sampled than the one the step starts from; see learner.mismatch.

    The clip is around the policy of the step's begin, and each token is weighted by its probability there over its
    behaviour probability. Costs one more forward pass.
    """

    level: Literal["token", "sequence"] = "token"
    """The weight is that of the token, or of its whole trajectory."""
    cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """Weights are cut down to this."""
    mask_low: Fraction = 0.0
    """Trajectories whose geometric mean weight is below are not trained (``mismatch``); 0: none."""
    mask_high: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Likewise above; None: none."""


class OverlongPenalty(Settings):
    """DAPO's soft overlong penalty, one more reward event ``overlong``; see learner.rewards.overlong_penalty."""

    max_tokens: int = Field(ge=2)
    """Completion tokens at which the penalty is full: at most the sampling's own limit."""
    buffer_tokens: int = Field(ge=1)
    """The penalty grows linearly over so many tokens below ``max_tokens``."""
    scale: PositiveFloat = 1.0
    """Full penalty, in units of reward. DAPO: 1."""

    @model_validator(mode="after")
    def the_buffer_fits(self) -> OverlongPenalty:
        if self.buffer_tokens >= self.max_tokens:
            raise ValueError(
                f"overlong.buffer_tokens {self.buffer_tokens} is not below overlong.max_tokens {self.max_tokens}"
            )
        return self


class PPOConfig(Settings):
    """One PPO stage's learner."""

    num_steps: int = Field(default=40, ge=1)
    """Learner steps of the stage; schedules end there. One step trains one batch of groups."""
    seed: int = Field(default=0, ge=0)
    """Seeds the filter's draws and the order of mini-batches."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature: the learner divides its logits by it, so that ratios compare like with like."""
    filter: Filter = KeepAll()
    """Which samples of each group are trained."""
    advantage: AdvantageEstimator = GAE()
    """How credit is assigned."""
    kl: KLConfig = KLConfig()
    """Anchor to the reference policy."""
    cut_by_length: Literal["train", "drop"] = "train"
    """Completions that the token limit cut: trained on what their events say (the reward terms have one for them), or
    not trained."""
    overlong: OverlongPenalty | None = None
    """A penalty that grows near the length limit. It counts as reward everywhere, for the filter too. None: none."""
    drop_uniform_groups: bool = False
    """Groups whose rewards are all equal are not trained (DAPO). The learner only drops them; sampling others in their
    place is the generation's affair."""
    optimizer: OptimizerConfig = OptimizerConfig(warmup_steps=6)
    """AdamW for the policy, or for its adapter."""
    lora: LoRAConfig | None = None
    """Train an adapter only; the reference is the policy without it, generators get merged weights. The critic is
    trained whole. None: the whole policy."""
    epochs: int = Field(default=2, ge=1)
    """Passes of the policy over the kept trajectories of a step."""
    minibatch_trajectories: int = Field(default=64, ge=1)
    """Trajectories in an optimizer step, of policy and critic."""
    compute: ComputeConfig = ComputeConfig()
    """Precision, memory and device, of policy, reference and critic."""
    export_precision: Literal["float32", "bfloat16"] = "float32"
    """Of the exported model. A stage that goes on from it begins with what was rounded off."""
    peak_flops: PositiveFloat | None = None
    """What the device can do at most, operations a second, for the utilisation; None: by a GPU's name."""
    row_tokens: int = Field(default=4096, ge=16)
    """Most tokens in one packed row (one forward and backward pass)."""
    max_trajectory_tokens: int = Field(default=512, ge=2)
    """A trajectory with more tokens, prompt included, is an error, never cut."""
    policy_loss: Literal["clipped", "gspo", "cispo", "likelihood"] = "clipped"
    """``clipped``: PPO. ``gspo``: one ratio for a trajectory (clip ranges near 3e-4). ``cispo``: the clipped ratio
    is a weight without gradient. ``likelihood``: fine-tuning on what the filter keeps; with ``bon`` it is RAFT, and it
    needs ``advantage: {kind: group, baseline: none}``. See learner.losses."""
    clip_low: Fraction = 0.2
    """The ratio's gain is clipped below 1 - clip_low."""
    clip_high: NonNegativeFloat = 0.2
    """The ratio's gain is clipped above 1 + clip_high. DAPO: 0.28."""
    entropy_coefficient: NonNegativeFloat = 0.0
    """Weight of the entropy bonus in the loss."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """A token of negative advantage costs at most this many times it; None: no bound. Usual: 3."""
    correction: Correction | None = None
    """For stale or mismatched samples. None: plain PPO, the clip is around the behaviour policy."""
    reward_normalisation: Literal["none", "scale", "standardise"] = "none"
    """``scale``: rewards are divided by their running standard deviation over the run. ``standardise``: their running
    mean is subtracted too, at the last token. The filter ranks raw rewards in any case."""
    aggregation: Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant_length"] = (
        "token_mean"
    )
    """How token losses become one number; see learner.aggregate. ``constant_length``: over max_trajectory_tokens."""
    whiten_advantages: bool | None = None
    """Advantages of the kept trajectories are brought to mean 0 and variance 1, after the filter. None: with a critic
    and with baseline ``none``; after a group's own baseline it would give a group of equal rewards an advantage that it
    has not earned."""

    @property
    def whitens(self) -> bool:
        """Whether advantages are whitened."""
        if self.whiten_advantages is not None:
            return self.whiten_advantages
        return self.advantage.kind == "gae" or self.advantage.baseline == "none"

    @model_validator(mode="after")
    def a_trajectory_fits_a_row(self) -> PPOConfig:
        if self.max_trajectory_tokens > self.row_tokens:
            raise ValueError(
                f"max_trajectory_tokens {self.max_trajectory_tokens} is more than row_tokens {self.row_tokens}"
            )
        return self

    @model_validator(mode="after")
    def dual_clip_is_of_the_clipped_loss(self) -> PPOConfig:
        if self.dual_clip is not None and self.policy_loss != "clipped":
            raise ValueError(f"dual_clip belongs to policy_loss 'clipped', not to {self.policy_loss!r}")
        return self

    @model_validator(mode="after")
    def the_likelihood_weighs_nothing(self) -> PPOConfig:
        """What would be without effect is refused, so that nobody believes in it."""
        if self.policy_loss != "likelihood":
            return self
        if not isinstance(self.advantage, GroupBaseline) or self.advantage.baseline != "none":
            raise ValueError(
                "policy_loss 'likelihood' has no advantages: set advantage to {kind: group, baseline: none}"
            )
        if self.kl.coefficient and self.kl.place == "reward":
            raise ValueError("policy_loss 'likelihood' looks at no reward: set kl.place 'loss', or kl.coefficient 0")
        if self.correction is not None:
            raise ValueError("policy_loss 'likelihood' weighs no token by its importance: leave correction out")
        return self

    @model_validator(mode="after")
    def a_baseline_over_kept_needs_two(self) -> PPOConfig:
        single = isinstance(self.filter, BestOfN | Threshold)  # a threshold may keep one
        single = single or (isinstance(self.filter, RandomK) and self.filter.k == 1)
        single = single or (isinstance(self.filter, PowerK) and self.filter.count == 1)
        if isinstance(self.advantage, GroupBaseline) and self.advantage.over == "kept" and single:
            raise ValueError(f"advantage.over 'kept' compares one sample with itself under filter {self.filter.kind!r}")
        return self
