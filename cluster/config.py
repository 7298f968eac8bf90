"""The recipe: a run as a list of stages. Composes the rooms' own settings; nothing heavy is imported here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from actors.config import GeneratorConfig
from actors.rewards import (
    AllPassedConfig,
    CompileErrorConfig,
    ExecutionTermConfig,
    LengthCutConfig,
    RewardModelTermConfig,
    ShareOfTestsConfig,
)
from cluster.errors import ConfigError
from cluster.repeat import written_out
from learner.config import (
    GAE,
    BestOfN,
    BestRandom,
    BestWorst,
    ComputeConfig,
    Filter,
    KeepAll,
    NewModelConfig,
    PPOConfig,
    SFTConfig,
)
from learner.scalar_config import RewardModelConfig
from problems.synthetic import CorpusConfig
from sandbox.config import SandboxConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
STAGE_PREFIX = "stage:"


class Settings(BaseModel):
    """Frozen; an unknown field is an error; a field's text stands under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PromptConfig(Settings):
    """How prompts are rendered, for SFT, RL and evaluation alike."""

    template: Literal["plain", "chat"] = "plain"
    """``plain``: the problem's prompt as it is; ``chat``: the tokenizer's chat template."""
    system: str = ""
    """System message of the chat template; empty for none."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion."""


class ProblemSource(Settings):
    """One set of problems."""

    spec: str
    """Such as ``synthetic:split=train,count=12000,depth=2-3,seed=11`` or ``humaneval:FILE``."""
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


class SupervisionConfig(Settings):
    """How actors are watched, replaced and let go."""

    health_every_s: float = Field(default=5.0, gt=0)
    """Seconds between health checks."""
    health_timeout_s: float = Field(default=120.0, gt=0)
    """An actor that has not answered its health check after so many seconds is killed and replaced. The death of a
    process is known at once; this is for what is stuck, and a machine that is merely busy (a load of ten on each core
    was seen to hold answers up for more than 30 s) must not look like it."""
    restart_delay_s: float = Field(default=1.0, ge=0)
    """Seconds until a replacement that did not come up is tried again; doubled each time."""
    max_restart_delay_s: float = Field(default=60.0, ge=0)
    """Largest such delay."""
    max_failed_starts: int = Field(default=3, ge=1)
    """So many replacements in a row that do not come up end the run, if no other actor of the kind serves."""
    leave_timeout_s: float = Field(default=60.0, ge=0)
    """Seconds that an actor which leaves may finish what it holds; the rest is handed back and issued again."""
    close_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds for an actor to end in order before it is killed."""
    max_trainer_losses: int = Field(default=3, ge=1)
    """So many losses of the trainer without a new checkpoint in between end the run."""


class GeneratorsConfig(Settings):
    """The generators: vLLM engines in Ray actors."""

    count: int = Field(default=2, ge=1)
    """How many."""
    engine: GeneratorConfig = GeneratorConfig()
    """Settings of each."""
    start_timeout_s: float = Field(default=300.0, gt=0)
    """Seconds until an engine that does not come up is an error."""
    push_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds for a weight push into one engine; one that takes longer is named, killed and replaced."""
    push_grace_s: float = Field(default=5.0, ge=0)
    """Once one engine has new weights, the run waits so many seconds for the others. Who is late is set aside: what it
    holds is issued again elsewhere, and it serves again when it has caught up."""

    @property
    def resources(self) -> dict[str, float]:
        """What each reserves of the cluster, in Ray's terms."""
        gpus = float(self.engine.tensor_parallel_size) if self.engine.device == "cuda" else 0.0
        return {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})


class ExecutorsConfig(Settings):
    """The executors: sandboxes in Ray actors. Each needs one of the cluster's ``sandbox`` resource."""

    count: int = Field(default=1, ge=1)
    """How many actors."""
    sandbox: SandboxConfig = SandboxConfig()
    """Settings of each."""
    start_timeout_s: float = Field(default=180.0, gt=0)
    """Seconds until an executor that does not come up is an error."""
    quarantine_after: int = Field(default=3, ge=1)
    """Verdicts of ``infrastructure_error`` in a row after which an executor is taken out, and a new one started."""
    set_aside_after: int = Field(default=3, ge=1)
    """A problem whose programs were in flight when so many executors died is executed no more in this run."""


class ScorersConfig(Settings):
    """The scorers: models with a scalar head in Ray actors, for reward terms and for reranking."""

    count: int = Field(default=1, ge=1)
    """How many for each model."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs of each."""
    num_gpus: float = Field(default=0.0, ge=0)
    """Ray GPUs of each."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch in each."""
    batch_answers: int = Field(default=256, ge=1)
    """Most answers that one call scores; what waits is scored together."""
    row_tokens: int = Field(default=4096, ge=16)
    """Most tokens in one packed row; a longer answer is an error, never cut."""
    compute: ComputeConfig = ComputeConfig()
    """Precision."""

    @property
    def resources(self) -> dict[str, float]:
        """Ray resources that one scorer reserves."""
        return {name: amount for name, amount in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if amount}


class RayConfig(Settings):
    """Which Ray cluster the run uses."""

    address: str | None = None
    """Address of a cluster to join, ``auto`` for the one on this machine; none starts one that ends with the run.
    Inside a submitted Ray job the job's cluster is joined whatever stands here."""
    dashboard: bool = False
    """Start the dashboard with a cluster of our own (about 0.9 GB of memory)."""
    memory_reserve_gb: float = Field(default=1.0, ge=0)
    """Gigabytes of memory that must stay free beside what the run's actors are estimated to need."""
    wait_for_resources_s: float = Field(default=0.0, ge=0)
    """Seconds that a run waits until a joined cluster can hold it; Ray's autoscaler is asked for what is missing, and
    every ten seconds a line says what that is. 0: a cluster that cannot hold it now is an error."""


class WandbConfig(Settings):
    """Measurements also go to Weights & Biases; needs the package ``wandb`` and WANDB_API_KEY in the environment."""

    project: str
    """Project there."""
    entity: str | None = None
    """User or team; none: the key's own."""
    mode: Literal["online", "offline"] = "online"
    """``offline`` writes into the run's folder alone."""


class Separated(Settings):
    """Every actor reserves its own resources; generators and trainer work at the same time."""

    kind: Literal["separated"] = "separated"


class Colocated(Settings):
    """Trainer and generator take turns on one GPU: synchronous. Never run yet: see docs/plan.md."""

    kind: Literal["colocated"] = "colocated"


Placement = Annotated[Separated | Colocated, Field(discriminator="kind")]


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
    """Threads of the trainer; nothing else runs meanwhile."""

    @model_validator(mode="after")
    def _one_source_of_examples(self) -> Self:
        if (self.corpus is None) == (not self.problems):
            raise ValueError("name problems with corpus: null, or a corpus without problems")
        return self


RewardTermConfig = Annotated[ExecutionTermConfig | RewardModelTermConfig, Field(discriminator="kind")]


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
    group_timeout_s: float = Field(default=300.0, gt=0)
    """Seconds until a group that is not complete is an error."""

    @model_validator(mode="after")
    def _one_temperature(self) -> Self:
        if self.learner.temperature != self.sampling.temperature:
            raise ValueError(
                f"sampling.temperature {self.sampling.temperature} and learner.temperature "
                f"{self.learner.temperature} differ: the ratio would compare two distributions"
            )
        return self

    @model_validator(mode="after")
    def _what_is_paid_is_executed(self) -> Self:
        paying = [term.kind for term in self.rewards if term.kind not in ("length_cut", "reward_model")]
        if paying and self.execute_share < 1:
            raise ValueError(
                f"execute_share is {self.execute_share}, but the reward term {paying[0]} needs every verdict"
            )
        return self

    @model_validator(mode="after")
    def _a_filter_is_chosen_for_a_learned_reward(self) -> Self:
        if self.choose_filter is not None and not any(isinstance(t, RewardModelTermConfig) for t in self.rewards):
            raise ValueError("choose_filter compares a learned reward with the tests: rewards names no reward_model")
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


class RewardModelStage(StageBase):
    """Trains a Bradley-Terry reward model (a reranker is one too) on collected pairs."""

    kind: Literal["reward_model"] = "reward_model"
    base: str
    """Where it begins: the backbone of a language model, or a reward model as it is."""
    pairs: tuple[str, ...] = Field(min_length=1)
    """Stages (``stage:NAME``) of kind collect or mine whose pairs teach it."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """About this share of the problems keep their pairs out of the training, to judge the model by."""
    held_out_seed: int = Field(default=0, ge=0)
    """Which problems these are. Reward models of one seed hold the same ones out, whatever pairs they learn from."""
    earlier: str | None = None
    """An earlier reward model that is judged on the same held-out pairs."""
    train: RewardModelConfig = RewardModelConfig()
    """The trainer's settings."""
    threads: int = Field(default=1, ge=1)
    """Threads of the trainer."""

    @field_validator("pairs")
    @classmethod
    def _are_stages(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for reference in pairs:
            if not reference.startswith(STAGE_PREFIX):
                raise ValueError(f"{reference!r} is not of the form {STAGE_PREFIX}NAME")
        return pairs


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
    compare_with: str | None = None
    """Name of an earlier evaluation of the same problems: the difference is reported with a paired interval."""
    may_be_training_problems: bool = False
    """Allows problems that an earlier stage trains on, for a look at the training set; else they stop the run."""

    @model_validator(mode="after")
    def _reranks_something(self) -> Self:
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
    SFTStage | CollectStage | RewardModelStage | PPOStage | MineStage | EvaluateStage, Field(discriminator="kind")
]


class RunConfig(Settings):
    """One run."""

    name: str
    """Names the run's folder; two drivers of one name are refused."""
    seed: int = Field(default=1, ge=0)
    """Everything random is derived from it."""
    folder: Path = Path("runs")
    """Where run folders lie."""
    prompt: PromptConfig = PromptConfig()
    """How prompts are rendered."""
    generators: GeneratorsConfig = GeneratorsConfig()
    """The generators."""
    executors: ExecutorsConfig = ExecutorsConfig()
    """The executors."""
    scorers: ScorersConfig = ScorersConfig()
    """The scorers, where a stage scores with a model."""
    supervision: SupervisionConfig = SupervisionConfig()
    """How actors are watched, replaced and let go."""
    ray: RayConfig = RayConfig()
    """The Ray cluster."""
    placement: Placement = Separated()
    """Who shares what."""
    wandb: WandbConfig | None = None
    """Weights & Biases; none: JSON lines, TensorBoard and Ray's metrics alone."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """In order; a finished stage is passed over when the same run is started again. An item of ``kind: repeat`` with
    ``rounds`` and ``stages`` stands for those stages several times over (cluster/repeat.py)."""

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        return StageBase._is_a_file_name(name)

    @field_validator("stages", mode="before")
    @classmethod
    def _without_repeats(cls, stages: Any) -> Any:
        return written_out(stages)

    @model_validator(mode="after")
    def _stages_name_earlier_stages(self) -> Self:
        seen: dict[str, str] = {}
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"stages: the name {stage.name!r} is used twice")
            for field, reference in stage_references(stage):
                kinds = _MADE_BY.get(field, ["ppo", "sft"])
                if seen.get(reference) not in kinds:
                    wanted = " or ".join(kinds)
                    raise ValueError(f"stages.{stage.name}.{field}: {reference!r} is no earlier stage of kind {wanted}")
            seen[stage.name] = stage.kind
        return self

    @model_validator(mode="after")
    def _weights_are_given_to_all_or_none(self) -> Self:
        for stage in self.stages:
            weights = [source.weight for source in getattr(stage, "problems", ())]
            given = [weight for weight in weights if weight is not None]
            if given and not isinstance(stage, PPOStage):
                raise ValueError(f"stages.{stage.name}.problems: weight is for stages of kind ppo")
            if given and len(given) != len(weights):
                raise ValueError(f"stages.{stage.name}.problems: give every set a weight, or none")
        return self

    @model_validator(mode="after")
    def _one_gpu_is_shared_in_turns(self) -> Self:
        if not isinstance(self.placement, Colocated):
            return self
        engine = self.generators.engine
        if self.generators.count != 1 or engine.device != "cuda" or engine.tensor_parallel_size != 1:
            raise ValueError("placement colocated is one GPU: it needs generators.count 1, device cuda, no split")
        late = [stage.name for stage in self.stages if isinstance(stage, PPOStage) and stage.max_staleness]
        if late:
            raise ValueError(f"placement colocated is synchronous: stages.{late[0]}.max_staleness must be 0")
        return self

    @property
    def run_folder(self) -> Path:
        return self.folder / self.name

    @property
    def trainer_processes(self) -> int:
        """Processes of the largest trainer; each reserves a CPU."""
        return max([stage.ranks for stage in self.stages if isinstance(stage, PPOStage)], default=1)


# Which kinds of stages make what a field names; a model where the field is not listed.
_MADE_BY = {
    "compare_with": ["evaluate"],
    "rerank": ["reward_model"],
    "earlier": ["reward_model"],
    "reward_model": ["reward_model"],
    "pairs": ["collect", "mine"],
    "positives": ["collect"],
    "base": ["ppo", "reward_model", "sft"],
}


def scored_by(stage: Stage) -> str | None:
    """The scalar-head model whose scorers work while the stage does; None where there is none."""
    match stage:
        case PPOStage():
            return next((term.model for term in stage.rewards if isinstance(term, RewardModelTermConfig)), None)
        case MineStage():
            return stage.reward_model
        case EvaluateStage():
            return stage.rerank
        case _:
            return None


def stage_references(stage: Stage) -> list[tuple[str, str]]:
    """(field, stage name) of each earlier stage that ``stage`` takes something from."""
    match stage:
        case SFTStage():
            named = [("base", stage.base)]
        case PPOStage():
            named = [
                ("policy", stage.policy),
                *(("reward_model", term.model) for term in stage.rewards if isinstance(term, RewardModelTermConfig)),
            ]
        case EvaluateStage():
            named = [("model", stage.model), ("rerank", stage.rerank)]
        case CollectStage():
            named = [("model", stage.model)]
        case RewardModelStage():
            named = [("base", stage.base), ("earlier", stage.earlier), *(("pairs", name) for name in stage.pairs)]
        case MineStage():
            named = [("model", stage.model), ("reward_model", stage.reward_model), ("positives", stage.positives)]
    references = [
        (field, value.removeprefix(STAGE_PREFIX)) for field, value in named if value and value.startswith(STAGE_PREFIX)
    ]
    if isinstance(stage, EvaluateStage) and stage.compare_with is not None:
        references.append(("compare_with", stage.compare_with))
    return references


def load_recipe(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads a recipe; ``overrides`` are ``a.b.c=value`` with YAML values (stages by name or position).

    Raises ConfigError in one sentence that names the field.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {path} is not a mapping of fields")
    for override in overrides or []:
        _apply(data, override)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"recipe {path}: {_sentence(error)}") from None


def _apply(data: Any, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override!r} is not of the form field=value")
    *parents, last = key.split(".")
    place = data
    for part in parents:
        place = _child(place, part, key)
    if isinstance(place, list):
        place[_position(place, last, key)] = yaml.safe_load(text)
    else:
        place[last] = yaml.safe_load(text)


def _child(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, key)]
    if not isinstance(place, dict):
        raise ConfigError(f"--set {key}: {part!r} lies under a value that has no fields")
    return place.setdefault(part, {})


def _position(items: list[Any], part: str, key: str) -> int:
    for index, item in enumerate(items):
        if part == str(index) or (isinstance(item, dict) and item.get("name") == part):
            return index
    raise ConfigError(f"--set {key}: the list has no item {part!r}")


def _sentence(error: ValidationError) -> str:
    """The first complaint, with the way to its field, and how many more there are."""
    first, *rest = error.errors(include_url=False)
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such field"
    elif "input" in first and not isinstance(first["input"], dict | list):
        message += f" (is {first['input']!r})"
    more = f"; and {len(rest)} more" if rest else ""
    return (f"{where}: " if where else "") + message + more
