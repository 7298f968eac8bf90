"""Settings of the stages: one class for each kind, a union on ``kind``."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from actors.comparison import ComparingTermConfig, ComparisonTermConfig, JudgeTermConfig
from actors.compiler import CompilerTermConfig
from actors.rewards import (
    COMPILING_TERMS,
    WITHOUT_VERDICT,
    AllPassedConfig,
    CompileErrorConfig,
    ExecutionTermConfig,
    LengthCutConfig,
    ProcessTermConfig,
    RewardModelTermConfig,
    ShareOfTestsConfig,
)
from cluster.settings import Settings
from learner.config import GAE, PPOConfig, SFTConfig
from learner.filter_config import BestOfN, BestRandom, BestWorst, Filter, KeepAll, smallest_group
from learner.line_labels import Selection
from learner.model_config import NewModelConfig
from learner.scalar_config import DiscriminatorConfig, DPOConfig, RewardModelConfig, ScalarTrainingConfig
from problems.problem import Split
from problems.synthetic import CorpusConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

LineScore = Literal["last", "min", "mean"]
STAGE_PREFIX = "stage:"
STEP_MARK = "@"
"""``stage:NAME@STEP``: the model as the ppo stage NAME exported it after STEP steps."""


class ProblemSource(Settings):
    """One set of problems."""

    spec: str
    """Such as ``synthetic:split=train,count=12000,depth=2-3,seed=11`` or ``humaneval:FILE``."""
    split: Split | None = None
    """Only the set's problems of this split, where it has several (MBPP); none: all."""
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of a ``ppo`` stage's prompts that come from this set, relative to the others' weights: all sets of a stage
    have one, or none. None: all sets are one, each problem once an epoch."""


class SamplingConfig(Settings):
    """How completions are sampled. Truncated sampling (top_p, top_k) is not offered: it would break PPO's ratio."""

    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits, in the generator and in the learner."""
    max_new_tokens: int = Field(default=96, ge=1)
    """A completion is cut there."""
    max_prompt_tokens: int = Field(default=256, ge=1)
    """Longer prompts are filtered out, and counted."""


class StageBase(Settings):
    """What every stage has."""

    name: str
    """Unique in the recipe; names the stage's folder."""
    round: int | None = None
    """Round of the ``repeat`` that the stage stands in; written by the repeat."""

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of letters, digits, '.', '_' and '-'")
        return name


class SFTStage(StageBase):
    """Supervised fine-tuning; can make tokenizer and model from nothing."""

    kind: Literal["sft"] = "sft"
    base: str | None = None
    """Model to start from (``stage:NAME``, a folder, or a hub's id); none: a new one of ``new_model``."""
    new_model: NewModelConfig = NewModelConfig()
    """Shape of the new model."""
    vocab_size: int = Field(default=1024, ge=300)
    """Entries of the new tokenizer."""
    corpus: CorpusConfig | None = CorpusConfig()
    """Examples from the synthetic family's corpus writer; none where ``problems`` are named."""
    problems: tuple[ProblemSource, ...] = ()
    """Examples from the problems' reference completions."""
    train: SFTConfig = SFTConfig(max_seconds=60.0)
    """The trainer's settings."""
    threads: int = Field(default=1, ge=1)
    """Threads of each process of the trainer; nothing else runs meanwhile."""
    ranks: int = Field(default=1, ge=1)
    """Processes of the trainer; they share the work and the memory (FSDP2)."""
    gpus_per_rank: int = Field(default=0, ge=0, le=1)
    """GPUs of each of them; 0: the trainer computes on a CPU. Never run with one."""
    checkpoint_every_minutes: float = Field(default=10.0, gt=0)
    """Minutes of training between two checkpoints; only the newest is kept, and none after the end."""

    @model_validator(mode="after")
    def _one_source_of_examples(self) -> Self:
        if (self.corpus is None) == (not self.problems):
            raise ValueError("name problems with corpus: null, or a corpus without problems")
        return self


RewardTermConfig = Annotated[
    ExecutionTermConfig | RewardModelTermConfig | ProcessTermConfig | CompilerTermConfig | ComparingTermConfig,
    Field(discriminator="kind"),
]


class FilterChoiceConfig(Settings):
    """How PF-PPO chooses its filter (arXiv 2409.06957): by R^2 between learned and real reward, before RL."""

    prompts: int = Field(default=200, ge=1)
    """Problems sampled for it."""
    samples: int = Field(default=10, ge=2)
    """Answers to each, of the initial policy. PF-PPO: 10."""
    candidates: tuple[Filter, ...] = (KeepAll(), BestOfN(), BestRandom(), BestWorst())
    """Filters that are compared."""
    num_bins: int = Field(default=20, ge=3)
    """Bins of similar reward. The paper does not give their number."""
    binning: Literal["equal_mass", "equal_width"] = "equal_mass"
    """The paper does not say which; the order of the filters depends on it."""


class PPOStage(StageBase):
    """Policy optimisation on executed programs."""

    kind: Literal["ppo"] = "ppo"
    policy: str
    """Model to start from; also the reference policy."""
    problems: tuple[ProblemSource, ...] = Field(min_length=1)
    """Problem sets; all are trained on in one seeded order."""
    prompts_per_step: int = Field(default=128, ge=1)
    """Groups that one learner step is offered."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """N: completions of one prompt, a group."""
    max_replacements: int = Field(default=0, ge=0)
    """Dynamic sampling (DAPO, arXiv 2503.14476): a group whose usable completions all earn the same says nothing to
    group baselines. It is dropped and its place sampled again with another problem, at most so many times; what came
    last is then kept as it is. DAPO goes on without end: a set that is solved would stop the run. 0: no group is
    replaced (``learner.drop_uniform_groups`` drops them)."""
    warmup_samples_per_prompt: int = Field(default=1, ge=1)
    """Completions of one prompt in the critic's warm-up: at equal rollouts more prompts taught it more."""
    sampling: SamplingConfig = SamplingConfig()
    """How completions are sampled."""
    rewards: tuple[RewardTermConfig, ...] = (
        ShareOfTestsConfig(),
        AllPassedConfig(),
        CompileErrorConfig(),
        LengthCutConfig(),
    )
    """Reward terms; their events are summed."""
    execute_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the groups whose programs are executed. Below 1 only where no reward term needs to: a learned reward is
    then watched on a sample of what it rewards."""
    shuffle_rewards: bool = False
    """A control for experiments: rewards change places among the trajectories of a step at random."""
    max_staleness: int = Field(default=0, ge=0)
    """How many versions the weights that sampled a trajectory may lie behind those that it trains. 0: synchronous."""
    learner: PPOConfig = PPOConfig()
    """The learner's settings; its ``num_steps`` ends the stage."""
    choose_filter: FilterChoiceConfig | None = None
    """PF-PPO's choice: before the first step the filter with the highest R^2 takes the place of ``learner.filter``."""
    threads: int = Field(default=1, ge=1)
    """Threads of the trainer."""
    ranks: int = Field(default=1, ge=1)
    """Processes of the trainer; they share the work and the memory (FSDP2)."""
    gpus_per_rank: int = Field(default=0, ge=0, le=1)
    """GPUs of each of them; 0: the trainer computes on a CPU. Never run with one."""
    checkpoint_every_steps: int = Field(default=10, ge=1)
    """Learner steps between checkpoints."""
    checkpoint_every_minutes: float | None = Field(default=None, gt=0)
    """Also when the last one is this many minutes old; None: by steps alone."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the newest stay on disk."""
    keep_best_checkpoints: int = Field(default=0, ge=0)
    """How many of the best by ``best_metric`` stay besides."""
    best_metric: str = "rollout/pass_rate"
    """A name of docs/metrics.md, the larger the better, as it was at the step of the checkpoint."""
    group_timeout_s: float = Field(default=900.0, gt=0)
    """Seconds without any sample, verdict or complete group, while groups are under way and nobody that they need is
    being replaced, after which the run ends with an error: longer than the longest completion takes."""
    critic_from: str | None = None
    """A scalar-head model that the critic begins as, head included, such as a process reward model; none: the policy's
    backbone under a new head."""
    export_steps: tuple[int, ...] = ()
    """After these steps the model is written besides; ``stage:NAME@STEP`` means it."""

    @model_validator(mode="after")
    def _one_temperature(self) -> Self:
        if self.learner.temperature != self.sampling.temperature:
            raise ValueError(
                f"sampling.temperature {self.sampling.temperature} and learner.temperature "
                f"{self.learner.temperature} differ: the ratio would compare two distributions"
            )
        return self

    @model_validator(mode="after")
    def _a_replaced_group_is_one_that_could_have_differed(self) -> Self:
        if self.max_replacements and self.samples_per_prompt < 2:
            raise ValueError("max_replacements compares a group's completions: samples_per_prompt must be at least 2")
        return self

    @model_validator(mode="after")
    def _groups_are_large_enough_for_their_filter(self) -> Self:
        sizes = [("samples_per_prompt", self.samples_per_prompt, self.learner.filter)]
        if self.choose_filter is not None:
            for rule in self.choose_filter.candidates:
                sizes.append(("samples_per_prompt", self.samples_per_prompt, rule))
                sizes.append(("choose_filter.samples", self.choose_filter.samples, rule))
        for field, size, rule in sizes:
            if size < smallest_group(rule):
                raise ValueError(
                    f"{field} is {size}, and filter {rule.kind!r} chooses from at least {smallest_group(rule)}"
                )
        return self

    @model_validator(mode="after")
    def _what_is_paid_is_executed(self) -> Self:
        paying = [term.kind for term in self.rewards if term.kind not in WITHOUT_VERDICT]
        if paying and self.execute_share < 1:
            raise ValueError(
                f"execute_share is {self.execute_share}, but the reward term {paying[0]} needs every verdict"
            )
        return self

    @model_validator(mode="after")
    def _cut_programs_earn_less_than_refused_ones(self) -> Self:
        kinds = [term.kind for term in self.rewards]
        compiling = [kind for kind in kinds if kind in COMPILING_TERMS]
        if compiling and "length_cut" not in kinds:
            raise ValueError(
                f"rewards: {compiling[0]} says nothing of a completion that the token limit cut, which would earn more "
                "than a program that does not compile: name length_cut too"
            )
        refused = [term.value for term in self.rewards if isinstance(term, CompilerTermConfig)]
        compared = compared_by(self)
        poorest = -sum(term.weight for term in compared)
        if refused and any(term.compiling_only for term in compared) and sum(refused) > poorest:
            raise ValueError(
                f"rewards: a program that compiles and compares poorly earns {poorest:g} and one that does not compile "
                f"{sum(refused):g}: lower compiler.value to that, or the comparison's weight"
            )
        cut = sum(term.value for term in self.rewards if isinstance(term, LengthCutConfig))
        worst = sum(refused) if refused else poorest
        if (refused or compared) and cut > worst:
            raise ValueError(
                f"rewards: a completion that the token limit cut earns {cut:g} and a program that "
                f"{'does not compile' if refused else 'compares poorly'} {worst:g}: lower length_cut.value to that"
            )
        return self

    @model_validator(mode="after")
    def _not_to_be_compared_is_no_way_out(self) -> Self:
        spared = [term.kind for term in compared_by(self) if term.compiling_only]
        if spared and not any(isinstance(term, CompilerTermConfig) for term in self.rewards):
            raise ValueError(
                f"rewards: {spared[0]} compares what compiles, so that a program that does not would earn more than a "
                "poor one: name compiler too, or set compiling_only: false"
            )
        return self

    @model_validator(mode="after")
    def _a_discriminator_learns_from_what_compiles(self) -> Self:
        for term in compared_by(self):
            if isinstance(term, ComparisonTermConfig) and term.refresh_every_steps and not term.compiling_only:
                raise ValueError(
                    "rewards: comparison.refresh_every_steps learns from what was compared, and compiling_only: false "
                    "compares programs that do not compile; a discriminator learns from pairs that do"
                )
        return self

    @model_validator(mode="after")
    def _a_filter_is_chosen_for_a_learned_reward(self) -> Self:
        if self.choose_filter is not None and not any(isinstance(t, RewardModelTermConfig) for t in self.rewards):
            raise ValueError("choose_filter compares a learned reward with the tests: rewards names no reward_model")
        return self

    @model_validator(mode="after")
    def _only_a_critic_begins_as_another_model(self) -> Self:
        if self.critic_from is not None and not isinstance(self.learner.advantage, GAE):
            raise ValueError("critic_from needs a critic: learner.advantage.kind is not 'gae'")
        return self

    @model_validator(mode="after")
    def _exported_steps_are_made(self) -> Self:
        late = [step for step in self.export_steps if not 1 <= step <= self.learner.num_steps]
        if late:
            raise ValueError(f"export_steps names step {late[0]}; the stage makes 1 to {self.learner.num_steps}")
        return self

    @model_validator(mode="after")
    def _one_answer_has_nothing_to_be_compared_with(self) -> Self:
        if not any(isinstance(t, RewardModelTermConfig) and t.normalise == "within_prompt" for t in self.rewards):
            return self
        if self.samples_per_prompt == 1:
            raise ValueError("rewards.normalise within_prompt makes every reward 0 where samples_per_prompt is 1")
        if self.warmup_groups and self.warmup_samples_per_prompt == 1:
            raise ValueError(
                "rewards.normalise within_prompt makes every reward of the critic's warm-up 0 where "
                "warmup_samples_per_prompt is 1: set it to samples_per_prompt"
            )
        return self

    @property
    def warmup_groups(self) -> int:
        """Groups of the frozen policy that warm the critic up."""
        advantage = self.learner.advantage
        if not isinstance(advantage, GAE) or not advantage.critic.warmup_steps:
            return 0
        return -(-advantage.critic.warmup_rollouts // self.warmup_samples_per_prompt)


class PairsConfig(Settings):
    """Which pairs of a problem's answers teach a reward model."""

    rule: Literal["right_wrong", "most_different", "all"] = "right_wrong"
    """``right_wrong``: one that passes, one that does not (PF-PPO). ``most_different``: the one pair with the largest
    difference in the share of cases passed. ``all``: all that differ in it."""
    per_problem: int | None = Field(default=1, ge=1)
    """Most pairs of one problem; null: all that the rule gives."""


class CollectStage(StageBase):
    """Samples a model, executes, and writes scored answers and pairs of them."""

    kind: Literal["collect"] = "collect"
    model: str
    """Model to sample: ``stage:NAME``, a folder, or a hub's id."""
    problems: tuple[ProblemSource, ...] = Field(min_length=1)
    """Whose answers are collected; never those of an evaluation."""
    samples: int = Field(default=5, ge=2)
    """Answers to each problem. PF-PPO: 5."""
    sampling: SamplingConfig = SamplingConfig()
    """How they are sampled."""
    pairs: PairsConfig = PairsConfig()
    """Which pairs are written."""


class OneTrainerStage(StageBase):
    """What stages have in common whose trainer is one process."""

    threads: int = Field(default=1, ge=1)
    """Threads of the trainer."""
    gpus_per_rank: int = Field(default=0, ge=0, le=1)
    """GPUs of the trainer; 0: it computes on a CPU. Never run with one."""
    checkpoint_every_minutes: float = Field(default=10.0, gt=0)
    """Minutes of training between two checkpoints; only the newest is kept, and none after the end."""


class PairsStage(OneTrainerStage):
    """What learns from pairs has in common."""

    pairs: tuple[str, ...] = Field(min_length=1)
    """Stages (``stage:NAME``) of kind collect or mine whose pairs teach it."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """About this share of the problems keep their pairs out of the training, to judge the model by."""
    held_out_seed: int = Field(default=0, ge=0)
    """Which problems these are. Models of one seed hold the same ones out, whatever pairs they learn from."""

    @field_validator("pairs")
    @classmethod
    def _are_stages(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for reference in pairs:
            if not reference.startswith(STAGE_PREFIX):
                raise ValueError(f"{reference!r} is not of the form {STAGE_PREFIX}NAME")
        return pairs


class RewardModelStage(PairsStage):
    """Trains a Bradley-Terry reward model (a reranker is one too) on collected pairs."""

    kind: Literal["reward_model"] = "reward_model"
    base: str
    """Where it begins: the backbone of a language model, or a reward model as it is."""
    earlier: str | None = None
    """An earlier reward model that is judged on the same held-out pairs."""
    train: RewardModelConfig = RewardModelConfig()
    """The trainer's settings."""


class DPOStage(PairsStage):
    """Trains a policy on collected pairs by DPO: PF-PPO's baseline that samples nothing and needs no reward model."""

    kind: Literal["dpo"] = "dpo"
    policy: str
    """Model to start from; also the reference policy."""
    train: DPOConfig = DPOConfig()
    """The trainer's settings."""


class DiscriminatorStage(OneTrainerStage):
    """Trains RLCF's discriminator: samples a model, keeps what compiles, and sets it against the references."""

    kind: Literal["discriminator"] = "discriminator"
    model: str
    """Model to sample: ``stage:NAME``, a folder, or a hub's id."""
    encoder: str
    """Where the discriminator begins: any encoder or decoder of transformers (``stage:NAME``, a folder, or a hub's id;
    CodeBERT in the paper), or an earlier discriminator."""
    problems: tuple[ProblemSource, ...] = Field(min_length=1)
    """Whose references are compared with; never those of an evaluation."""
    samples: int = Field(default=1, ge=1)
    """Programs sampled for each problem."""
    sampling: SamplingConfig = SamplingConfig()
    """How they are sampled."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """About this share of the problems keep their pairs out of the training, to judge the discriminator by."""
    held_out_seed: int = Field(default=0, ge=0)
    """Which problems these are."""
    train: DiscriminatorConfig = DiscriminatorConfig()
    """The trainer's settings."""


class LineLabelsStage(StageBase):
    """Finds the first line from which each answer cannot be saved (arXiv 2410.17621); writes labels.parquet."""

    kind: Literal["line_labels"] = "line_labels"
    policies: tuple[str, ...] = Field(min_length=1)
    """Models whose answers are labelled, such as ``stage:baseline@10``. The paper takes four along the baseline run."""
    completer: str | None = None
    """The model that completes prefixes; none: the one that wrote the answer."""
    problems: tuple[ProblemSource, ...] = Field(min_length=1)
    """What is answered; never the problems of an evaluation."""
    samples: int = Field(default=2, ge=1)
    """Answers of each policy to each problem."""
    sampling: SamplingConfig = SamplingConfig()
    """How answers and completions are sampled; a prefix and its completion together have ``max_new_tokens``."""
    completions: int = Field(default=20, ge=1)
    """K: completions of a prefix. It is good if any of them passes."""
    max_completions: int | None = Field(default=None, ge=1)
    """Budget of the stage, in equal shares for its policies; what one leaves goes to the next. A search begins only if
    what is left pays for its longest course; answers without one are counted and not labelled. Null: none."""
    max_in_flight: int = Field(default=512, ge=1)
    """Completions that are sampled at the same time, of all searches together."""


class ProcessRewardModelStage(OneTrainerStage):
    """Trains a process reward model: for each prefix of lines, whether it can still become a program that passes."""

    kind: Literal["process_reward_model"] = "process_reward_model"
    base: str
    """Where it begins: the backbone of a language model, or a scalar-head model as it is."""
    labels: tuple[str, ...] = Field(min_length=1)
    """Stages of kind line_labels (``stage:NAME``), or files that such a stage wrote."""
    selection: Selection = "revised_only"
    """What it learns from (learner.line_labels). The paper found ``revised_only`` best."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """About this share of the problems keep their answers out of the training, to judge the model by."""
    held_out_seed: int = Field(default=0, ge=0)
    """Which problems these are."""
    train: ScalarTrainingConfig = ScalarTrainingConfig()
    """The trainer's settings; its examples are answers."""


class EvaluateStage(StageBase):
    """Pass@1, sampled and greedy, with intervals; compared with an earlier evaluation where one is named."""

    kind: Literal["evaluate"] = "evaluate"
    model: str
    """Model to evaluate: ``stage:NAME``, a folder, or a hub's id."""
    problems: tuple[ProblemSource, ...] = Field(min_length=1)
    """What to evaluate on."""
    samples: int = Field(default=2, ge=0)
    """Sampled completions of each problem."""
    greedy: bool = True
    """Also one greedy completion of each problem."""
    sampling: SamplingConfig = SamplingConfig()
    """How completions are sampled."""
    rerank: str | None = None
    """A scalar-head model (``stage:NAME`` or a folder) that chooses among the samples: pass@1 of its choice is reported
    between that of a random one and that of an oracle."""
    rerank_earlier: str | None = None
    """Another one, which chooses among the same samples: what ``rerank`` gained on it is reported, paired."""
    line_score: LineScore = "last"
    """What a process reward model's line scores make of an answer: that of its last line that counts, the lowest, or
    their mean."""
    compare_with: str | None = None
    """Name of an earlier evaluation of the same problems: the difference is reported with a paired interval."""
    may_be_training_problems: bool = False
    """Allows problems that an earlier stage trains on, or trained on that made a model used here, for a look at the
    training set; else they stop the run."""

    @model_validator(mode="after")
    def _reranks_something(self) -> Self:
        if self.rerank_earlier is not None and self.rerank is None:
            raise ValueError("rerank_earlier is compared with rerank, which names none")
        if self.rerank is not None and self.samples < 2:
            raise ValueError(f"rerank chooses among samples, and samples is {self.samples}: at least 2 are needed")
        return self


class MineStage(StageBase):
    """Finds programs that a reward model overrates: hard negatives, with right ones to set against them."""

    kind: Literal["mine"] = "mine"
    model: str
    """The policy that was trained against the reward model."""
    reward_model: str
    """Whose errors are sought."""
    problems: tuple[ProblemSource, ...] = Field(min_length=1)
    """Whose answers are mined; never those of an evaluation."""
    samples: int = Field(default=8, ge=2)
    """Answers to each problem."""
    sampling: SamplingConfig = SamplingConfig()
    """How they are sampled."""
    threshold: float | None = None
    """A failing answer of at least this score is a hard negative; null: see ``top_share``."""
    top_share: float = Field(default=0.25, gt=0, le=1)
    """Without a threshold: the best-scored share of all failing answers."""
    positives: str | None = None
    """A collect stage whose passing answers are set against the negatives (hard negatives only). Null: passing answers
    of this policy, found beside them (RewardRanker's self-training)."""
    per_problem: int | None = Field(default=2, ge=1)
    """Most pairs of one problem; null: all."""


Stage = Annotated[
    SFTStage
    | CollectStage
    | RewardModelStage
    | DPOStage
    | DiscriminatorStage
    | LineLabelsStage
    | ProcessRewardModelStage
    | PPOStage
    | MineStage
    | EvaluateStage,
    Field(discriminator="kind"),
]
FROM_FILES = RewardModelStage | DPOStage | ProcessRewardModelStage
"""Stages that take no problems: they learn from what other stages wrote."""


def scored_by(stage: Stage) -> list[str]:
    """The scalar-head models whose scorers work while the stage does."""
    match stage:
        case PPOStage():
            return [term.model for term in stage.rewards if isinstance(term, RewardModelTermConfig | ProcessTermConfig)]
        case MineStage():
            return [stage.reward_model]
        case EvaluateStage():
            return [model for model in (stage.rerank, stage.rerank_earlier) if model is not None]
        case _:
            return []


def named_models(stage: Stage) -> list[tuple[str, str | None]]:
    """(field, what it names) of each field that can name an earlier stage."""
    match stage:
        case SFTStage():
            return [("base", stage.base)]
        case PPOStage():
            terms = [t for t in stage.rewards if isinstance(t, RewardModelTermConfig | ProcessTermConfig)]
            scorers: list[tuple[str, str | None]] = [
                ("reward_model" if isinstance(term, RewardModelTermConfig) else "process", term.model) for term in terms
            ]
            compared = [("comparison" if t.kind == "comparison" else "model", t.model) for t in compared_by(stage)]
            return [("policy", stage.policy), ("critic_from", stage.critic_from), *scorers, *compared]
        case EvaluateStage():
            return [("model", stage.model), ("rerank", stage.rerank), ("rerank_earlier", stage.rerank_earlier)]
        case CollectStage():
            return [("model", stage.model)]
        case RewardModelStage():
            return [("base", stage.base), ("earlier", stage.earlier), *(("pairs", name) for name in stage.pairs)]
        case DPOStage():
            return [("policy", stage.policy), *(("pairs", name) for name in stage.pairs)]
        case DiscriminatorStage():
            return [("model", stage.model), ("encoder", stage.encoder)]
        case MineStage():
            return [("model", stage.model), ("reward_model", stage.reward_model), ("positives", stage.positives)]
        case LineLabelsStage():
            return [*(("policies", name) for name in stage.policies), ("completer", stage.completer)]
        case ProcessRewardModelStage():
            return [("base", stage.base), *(("labels", name) for name in stage.labels)]


def compared_by(stage: Stage) -> list[ComparisonTermConfig | JudgeTermConfig]:
    """The terms by which a stage compares programs with references."""
    if not isinstance(stage, PPOStage):
        return []
    return [term for term in stage.rewards if isinstance(term, ComparisonTermConfig | JudgeTermConfig)]


def stage_references(stage: Stage) -> list[tuple[str, str]]:
    """(field, stage name) of each earlier stage that ``stage`` takes something from."""
    references = [
        (field, value.removeprefix(STAGE_PREFIX).partition(STEP_MARK)[0])
        for field, value in named_models(stage)
        if value and value.startswith(STAGE_PREFIX)
    ]
    if isinstance(stage, EvaluateStage) and stage.compare_with is not None:
        references.append(("compare_with", stage.compare_with))
    return references


def exported_steps(stage: Stage) -> list[tuple[str, str, str]]:
    """(field, stage name, step) of each model that ``stage`` takes from the middle of an earlier one."""
    split = [
        (field, *value.removeprefix(STAGE_PREFIX).partition(STEP_MARK)[::2])
        for field, value in named_models(stage)
        if value and value.startswith(STAGE_PREFIX)
    ]
    return [(field, name, step) for field, name, step in split if step]
