"""The stages line_labels and process_reward_model whole, with models and executors stood in for; no Ray, no engine."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from ray.exceptions import ActorDiedError

from actors.executor import Executed, Execution
from actors.generator import GenerationRequest, GenerationResult
from actors.scorer import Scorer, ScoringConfig
from cluster.actor_config import SupervisionConfig
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.generator_pool import Generated
from cluster.labels import LABELS, read_labels, write_labels
from cluster.rollout import Rollout
from cluster.run_folder import RunFolder, read_lines
from cluster.stage_config import LineLabelsStage, ProblemSource, ProcessRewardModelStage
from cluster.stages.line_labels import label_lines
from cluster.stages.process_reward_model import fit_process_reward_model
from cluster.tokenizers import LoadedTokenizer
from learner.line_labels import LabelledAnswer
from learner.model_config import ComputeConfig, OptimizerConfig
from learner.scalar_config import ScalarTrainingConfig
from learner.scalar_head import reads_of
from learner.scalar_training import ScalarProgress
from learner.trajectory import FinishReason, Turn, VersionSpan
from problems.identity import WeightsVersion
from problems.prompting import PromptStyle
from problems.tokenizer import vocabulary_digest
from sandbox.verdict import CaseResult, Outcome, Verdict
from tests.cluster.test_rollout import EOS, Bytes, Spans, token_bytes

GOOD, BAD, NOTE = "    g\n", "    b\n", "    # n\n"
SOURCE = ProblemSource(spec="synthetic:split=train,count=6,depth=1,seed=2")


class Vocabulary(Bytes):
    def get_vocab(self) -> dict[str, int]:
        return {f"<0x{byte:02X}>": byte for byte in range(256)}


class Writers:
    """Answers of good, bad and comment lines, drawn by the request's seed; a completion ends what was begun."""

    asked = 0

    async def stream(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        for request in requests:
            Writers.asked += 1
            rng = random.Random(request.id.sampling_seed())
            is_probe = ".probe." in request.id.stage
            lines = [GOOD] if is_probe else rng.choices([GOOD, BAD, NOTE], weights=[6, 1, 2], k=rng.randint(2, 6))
            ids = np.array([*"".join(lines).encode(), EOS], np.int32)
            span = VersionSpan(WeightsVersion(0, 0), 0, len(ids))
            turn = Turn(
                request.prompt_ids, ids, np.ones(len(ids), np.bool_), np.full(len(ids), -0.5, np.float32), (span,),
                FinishReason.STOP,
            )  # fmt: skip
            yield Generated(GenerationResult(request.id, turn), "writer", 0.0, 0.0)


class Judges:
    """A program passes if none of its lines is bad."""

    async def run(self, work: Execution) -> Executed:
        await asyncio.sleep(0)
        outcome = Outcome.WRONG_ANSWER if BAD.encode() in work.program.source else Outcome.PASSED
        cases = tuple(CaseResult(outcome) for _ in work.suite.cases)
        return Executed(Verdict(outcome, num_cases=len(cases), cases=cases), 0.0, 0.0)


class Panel:
    rows: dict[str, SimpleNamespace]

    def __init__(self) -> None:
        self.rows = {}

    def begin(self, name: str, total: float) -> None:
        self.rows[name] = SimpleNamespace(done=0.0, total=total)

    def progress(self, name: str, done: float, _what: str = "") -> None:
        self.rows[name].done = done

    def figures(self, _figures: dict[str, str]) -> None: ...


def context_of(root: Path, model: Path) -> RunContext:
    tokenizer = LoadedTokenizer(Vocabulary(), token_bytes(), PromptStyle("plain", (EOS,)))
    served: list[str] = []

    def rollout(loaded, sampling, terms, *, execute_cut):
        return Rollout(
            Writers(), Judges(), terms=terms, style=loaded.style, tokenizer=loaded.tokenizer,
            token_bytes=loaded.token_bytes, sampling=sampling, execute_cut=execute_cut, metrics=Spans(),
        )  # fmt: skip

    async def serve(_model: Path, version: WeightsVersion) -> None:
        assert str(version) not in served, "two models were served under one version"
        served.append(str(version))

    config = SimpleNamespace(name="run", seed=1, supervision=SupervisionConfig())
    return SimpleNamespace(
        config=config, folder=RunFolder(root), panel=Panel(), generators=Writers(), executors=Judges(),
        model_path=lambda _: model, tokenizer=lambda _: tokenizer, rollout=rollout, serve=serve,
        metrics=SimpleNamespace(log=lambda *_: None), report=lambda *_: None,
    )  # fmt: skip


def labels_stage(**fields) -> LineLabelsStage:
    policies = ("stage:a", "stage:b@5")
    return LineLabelsStage(name="labels", policies=policies, problems=(SOURCE,), samples=4, completions=3, **fields)


async def test_every_policy_s_answers_are_labelled_and_a_second_start_asks_for_nothing(tmp_path: Path) -> None:
    context = context_of(tmp_path, tmp_path / "model")
    folder = context.folder.stage("labels")
    figures = await label_lines(context, labels_stage(), folder, 0)
    digest = _tokenizer(folder.root / LABELS)
    answers = read_labels(folder.root / LABELS, digest)
    assert {answer.policy for answer in answers} == {"stage:a", "stage:b@5"}
    assert len(answers) == figures["num_answers"] == 6 * 4 * 2 - figures["num_without_lines"]
    for answer in answers:
        expected, is_lost = [], False
        for line in bytes(answer.completion_ids[:-1]).decode().splitlines(keepends=True):
            is_lost = is_lost or line == BAD
            expected.append(0 if line == NOTE else -1 if is_lost else 1)
        assert list(answer.labels) == expected
        assert answer.num_completions <= 3 * len(answer.counted).bit_length()
        assert answer.num_probes == 0 or not answer.passed
    probes = read_lines(folder.root / "probes.jsonl")
    assert figures["num_completions"] == sum(probe["completions"] for probe in probes) > 0

    asked = Writers.asked
    again = await label_lines(context_of(tmp_path, tmp_path / "model"), labels_stage(), folder, 1)
    assert Writers.asked == asked
    assert {**again, "search_s": 0} == {**figures, "search_s": 0}
    assert read_labels(folder.root / LABELS, digest) == answers


def _tokenizer(path: Path) -> str:
    return pq.read_schema(path).metadata[b"crucible.tokenizer"].decode()


async def test_a_budget_labels_what_it_pays_for(tmp_path: Path) -> None:
    context = context_of(tmp_path, tmp_path / "model")
    figures = await label_lines(context, labels_stage(max_completions=30), context.folder.stage("labels"), 0)
    assert figures["num_completions"] <= 30
    assert figures["num_over_budget"] > 0
    spent: Counter[str] = Counter()
    for answer in read_labels(*_labels(context)):
        spent[answer.policy] += answer.num_completions
    assert 0 < spent["stage:a"] <= 15  # its half
    assert spent["stage:b@5"] > 0


async def test_a_second_start_loses_no_label_that_was_paid_for(tmp_path: Path) -> None:
    """What the later policy's probes cost is not charged to the earlier one, which had its share before."""
    context, stage = context_of(tmp_path, tmp_path / "model"), labels_stage(max_completions=60)
    figures = await label_lines(context, stage, context.folder.stage("labels"), 0)
    answers, asked = read_labels(*_labels(context)), Writers.asked
    again = await label_lines(context_of(tmp_path, tmp_path / "model"), stage, context.folder.stage("labels"), 1)
    assert Writers.asked == asked
    assert read_labels(*_labels(context)) == answers
    assert {**again, "search_s": 0} == {**figures, "search_s": 0}
    assert {answer.policy for answer in answers if answer.num_probes} == {"stage:a", "stage:b@5"}


def _labels(context: RunContext) -> tuple[Path, str]:
    path = context.folder.stage("labels").root / LABELS
    return path, _tokenizer(path)


class InThread:
    """An actor whose calls run in a thread."""

    def __init__(self, kind: type, *arguments: object, **_: object) -> None:
        self._worker = kind(*arguments)

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: asyncio.to_thread(getattr(self._worker, name), *arguments))


@pytest.fixture
def labelled(tmp_path: Path, tiny_model: Path) -> tuple[RunContext, list[LabelledAnswer]]:
    """A run folder with a label file of the tiny model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model))
    rng = random.Random(0)
    answers = []
    for index in range(60):
        num_good = rng.randint(0, 3)
        labels = (*[1] * num_good, *[-1] * (3 - num_good))
        ids = tuple(token for label in labels for token in (10 if label > 0 else 20, 5))
        answers.append(
            LabelledAnswer(f"p{index % 20}", f"a{index}", "m", (7, 8), ids, num_good == 3, (1, 3, 5), labels)
        )
    context = context_of(tmp_path, tiny_model)
    context.tokenizer = lambda _: SimpleNamespace(tokenizer=tokenizer)
    write_labels(context.folder.stage("labels").root / LABELS, answers, vocabulary_digest(tokenizer))
    return context, answers


def prm_stage(**fields) -> ProcessRewardModelStage:
    train = ScalarTrainingConfig(
        epochs=8, batch_examples=8, optimizer=OptimizerConfig(learning_rate=5e-3, head_factor=5)
    )
    return ProcessRewardModelStage(
        name="prm", base="stage:base", labels=("stage:labels",), train=train, held_out_share=0.3, **fields
    )


async def test_a_model_learns_the_labels_and_its_numbers_can_be_read_at_lines(labelled, monkeypatch) -> None:
    monkeypatch.setattr("cluster.stages.one_trainer.start_actor", InThread)
    monkeypatch.setattr("cluster.stages.one_trainer.end_actor", lambda _: None)
    context, answers = labelled
    folder = context.folder.stage("prm")
    figures = await fit_process_reward_model(context, prm_stage(selection="full"), folder)
    assert figures["held_out_accuracy"] > 0.9 > figures["held_out_accuracy_by_position"]
    assert figures["num_answers"] + figures["num_held_out_answers"] == len(answers)
    held_out = json.loads((folder.root / "lines.json").read_text())
    assert [row["position"] for row in held_out["positions"]] == [1, 2, 3]
    assert reads_of(folder.model) == "line_ends"
    scorer = Scorer(str(folder.model), ScoringConfig(ComputeConfig(), 512, 1))
    asked = [(np.array([7, 8]), np.array([10, 5, 20, 5]), np.array([1, 3]))]
    (numbers,) = scorer.read(asked)
    assert numbers[0] > 0 > numbers[1]
    assert scorer.score([asked[0][:2]]) == pytest.approx(numbers[1:])


async def test_a_trainer_that_is_lost_is_replaced_by_one_that_goes_on(labelled, monkeypatch) -> None:
    trainers: list[InThread] = []

    class Mortal(InThread):
        """The second one dies after step 5."""

        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            trainers.append(self)
            self.steps: list[int] = []
            self._worker._note = self._noted

        def _noted(self, progress: ScalarProgress) -> None:
            self.steps.append(progress.step)
            if self in trainers[1:2] and progress.step == 5:
                raise ActorDiedError

    monkeypatch.setattr("cluster.stages.one_trainer.start_actor", Mortal)
    monkeypatch.setattr("cluster.stages.one_trainer.end_actor", lambda _: None)
    context, _ = labelled
    stage = prm_stage(selection="full", checkpoint_every_minutes=1e-9)
    undisturbed, disturbed = context.folder.stage("prm"), context.folder.stage("prm-again")
    figures = await fit_process_reward_model(context, stage, undisturbed)
    assert await fit_process_reward_model(context, stage, disturbed) == figures
    last = figures["steps"]
    assert [trainer.steps for trainer in trainers] == [[*range(1, last + 1)], [*range(1, 6)], [*range(5, last + 1)]]
    weights = [(folder.model / "model.safetensors").read_bytes() for folder in (undisturbed, disturbed)]
    assert weights[0] == weights[1]
    assert not disturbed.checkpoints.exists()


async def test_an_answer_that_no_row_holds_is_left_out_and_counted(labelled, monkeypatch) -> None:
    monkeypatch.setattr("cluster.stages.one_trainer.start_actor", InThread)
    monkeypatch.setattr("cluster.stages.one_trainer.end_actor", lambda _: None)
    context, answers = labelled
    file = context.folder.stage("labels").root / LABELS
    long = [
        replace(answers[index], name=f"long{index}", completion_ids=answers[index].completion_ids + (10,) * 60)
        for index in range(3)
    ]
    write_labels(file, [*answers, *long], _tokenizer(file))
    stage = prm_stage(selection="full")
    stage = stage.model_copy(update={"train": stage.train.model_copy(update={"row_tokens": 64, "epochs": 1})})
    figures = await fit_process_reward_model(context, stage, context.folder.stage("prm"))
    assert figures["num_too_long"] == 3
    assert figures["num_answers"] + figures["num_held_out_answers"] == len(answers)
    write_labels(file, long, _tokenizer(file))
    with pytest.raises(ConfigError, match=r"too few \(3 more are longer than train.row_tokens 64\)"):
        await fit_process_reward_model(context, stage, context.folder.stage("prm-again"))


async def test_too_few_answers_and_foreign_labels_are_refused(labelled, tmp_path: Path) -> None:
    context, answers = labelled
    path = tmp_path / "foreign.parquet"
    write_labels(path, answers, "another")
    with pytest.raises(ConfigError, match="token ids of tokenizer another"):
        await fit_process_reward_model(
            context, prm_stage().model_copy(update={"labels": (str(path),)}), context.folder.stage("prm")
        )
    passing = [answer for answer in answers if answer.passed]
    file = context.folder.stage("labels").root / LABELS
    write_labels(file, passing, _tokenizer(file))
    with pytest.raises(ConfigError, match=r"0 answers to learn from \(selection revised_only\)"):
        await fit_process_reward_model(context, prm_stage(), context.folder.stage("prm"))
