import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from actors.config import GeneratorConfig
from actors.rewards import ProcessTermConfig, RewardModelTermConfig
from cluster import checks, leakage
from cluster.checks import check_engine, check_inputs, check_tokenizers
from cluster.errors import ConfigError
from cluster.inputs import problems_of, resolve_model
from cluster.labels import write_labels
from cluster.leakage import check_leakage, learned_by
from cluster.learned_problems import read_learned, write_learned
from cluster.run_folder import RunFolder
from cluster.stage_config import (
    CollectStage,
    DPOStage,
    EvaluateStage,
    LineLabelsStage,
    MineStage,
    PPOStage,
    ProblemSource,
    ProcessRewardModelStage,
    RewardModelStage,
    SFTStage,
)
from learner.line_labels import LabelledAnswer
from problems.datasets import load_problems
from problems.tokenizer import save_tokenizer, train_tokenizer, vocabulary_digest

TRAIN = (ProblemSource(spec="synthetic:split=train,count=3,depth=1-2,seed=1"),)
TEST = (ProblemSource(spec="synthetic:split=test,count=3,depth=2,seed=1"),)


def test_the_test_split_may_be_evaluated_and_not_trained_on() -> None:
    check_inputs([EvaluateStage(name="e", model="stage:a", problems=TEST)])
    check_inputs([PPOStage(name="p", policy="stage:a", problems=TRAIN)])
    with pytest.raises(ConfigError, match=r"stages\.p\.problems: .* may not be trained on \(use train, split test\)"):
        check_inputs([PPOStage(name="p", policy="stage:a", problems=TEST)])


def test_a_set_of_several_splits_is_trained_on_by_one_and_evaluated_on_by_another(tmp_path: Path) -> None:
    path = tmp_path / "mbpp.jsonl"
    rows = [
        {"task_id": i, "text": f"task {i}", "code": f"def f{i}(): return 1", "test_list": [f"assert f{i}() == 1"]}
        for i in (20, 700, 701)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    train, test, none = (
        (ProblemSource.model_validate({"spec": f"mbpp:{path}", "split": split}),)
        for split in ("train", "test", "validation")
    )
    assert [problem.id for problem in problems_of(train)] == ["Mbpp/700", "Mbpp/701"]
    stages = [
        PPOStage(name="p", policy="stage:a", problems=train),
        EvaluateStage(name="e", model="stage:p", problems=test),
    ]
    check_inputs(stages)
    assert (check_leakage(stages).num_train, check_leakage(stages).num_evaluate) == (2, 1)
    with pytest.raises(ConfigError, match=r"none of 3 is of split 'validation'"):
        check_inputs([EvaluateStage(name="e", model="stage:p", problems=none)])


def test_what_a_licence_keeps_for_evaluation_may_not_be_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "humaneval-cpp.jsonl"
    row = {"name": "a", "language": "cpp", "prompt": "int f() {", "tests": "}\nint main() {}", "stop_tokens": ["\n}"]}
    path.write_text(json.dumps(row))
    source = (ProblemSource(spec=f"multipl-e:{path}"),)
    check_inputs([EvaluateStage(name="e", model="stage:a", problems=source)])
    with pytest.raises(ConfigError, match=r"'MultiPL-E/cpp/a' may not be trained on \(use evaluate, split test\)"):
        check_inputs([PPOStage(name="p", policy="stage:a", problems=source)])


def test_a_malformed_row_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "humaneval.jsonl"
    path.write_text('{"task_id": "HumanEval/0"}\n')
    with pytest.raises(ConfigError, match=r"humaneval\.jsonl, line 1: field prompt"):
        check_inputs([EvaluateStage(name="e", model="stage:a", problems=(ProblemSource(spec=f"humaneval:{path}"),))])


def test_a_missing_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="neither a folder nor a model that the hub gave"):
        check_inputs([EvaluateStage(name="e", model=str(tmp_path / "absent"), problems=TEST)])
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        check_inputs([EvaluateStage(name="e", model=str(tmp_path), problems=TEST)])


def test_a_model_of_the_hub_lies_in_the_runs_folder_and_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other nodes see that folder, and not the driver's cache, whose names are links to its blobs."""
    cache = tmp_path / "cache"
    (cache / "snapshot").mkdir(parents=True)

    def fetch(reference: str) -> str:
        assert reference == "someone/a-model"
        return str(cache / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    (cache / "blob-1").write_text("first")
    (cache / "snapshot" / "config.json").symlink_to("../blob-1")
    folder = RunFolder(tmp_path / "run")
    (model,) = {resolve_model("someone/a-model", folder) for _ in range(2)}
    assert model.is_relative_to(folder.root)
    (cache / "snapshot" / "config.json").unlink()
    (cache / "blob-2").write_text("second")
    (cache / "snapshot" / "config.json").symlink_to("../blob-2")
    (cache / "blob-1").unlink()
    assert (resolve_model("someone/a-model", folder) / "config.json").read_text() == "first"
    (tmp_path / "config.json").touch()
    assert resolve_model(str(tmp_path), folder) == tmp_path  # a folder is used where it lies


def stages(evaluate: EvaluateStage) -> list:
    return [PPOStage(name="p", policy="stage:a", problems=TRAIN), evaluate]


def test_problems_that_are_learned_from_may_not_be_evaluated_on() -> None:
    split = check_leakage(stages(EvaluateStage(name="e", model="stage:p", problems=TEST)))
    assert (split.num_train, split.num_evaluate) == (3, 3)
    assert split.train_digest != split.evaluate_digest
    with pytest.raises(ConfigError, match=r"stages\.e evaluates on problems that stages\.p learns from"):
        check_leakage(stages(EvaluateStage(name="e", model="stage:p", problems=TRAIN)))
    check_leakage(stages(EvaluateStage(name="e", model="stage:p", problems=TRAIN, may_be_training_problems=True)))


def taught_on_train(folder: Path) -> str:
    """A model as an earlier run left it: of a policy that had learned from TRAIN, and began as one of unknown past."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    run = [
        PPOStage(name="p", policy=str(folder), problems=TRAIN),
        EvaluateStage(name="e", model="stage:p", problems=TEST),  # nothing is learned from that
        RewardModelStage(name="r", base="stage:p", pairs=("stage:p",)),
    ]
    write_learned(folder, learned_by("r", run, RunFolder(folder)))
    return str(folder)


def test_a_model_says_what_it_has_learned_from_in_runs_to_come(tmp_path: Path) -> None:
    model = taught_on_train(tmp_path / "model")
    assert len(read_learned(Path(model))) == 6  # an id and a prompt for each of 3
    check_leakage([EvaluateStage(name="e", model=model, problems=TEST)])
    on_train = EvaluateStage(name="e", model=model, problems=TRAIN)
    with pytest.raises(ConfigError, match=rf"stages\.e evaluates on .* the model '{model}' has learned from \(6 ids"):
        check_leakage([on_train])
    check_leakage([on_train.model_copy(update={"may_be_training_problems": True})])
    reranker = EvaluateStage(name="e", model="stage:a", rerank=model, samples=2, problems=TRAIN)
    with pytest.raises(ConfigError, match="has learned from"):
        check_leakage([reranker])
    # What is made of it knows them too, and so does what is evaluated beside it in one recipe.
    made_of_it = PPOStage(name="p", policy=model, problems=(ProblemSource(spec=TRAIN[0].spec.replace("d=1", "d=2")),))
    assert read_learned(Path(model)) < learned_by("p", [made_of_it], RunFolder(tmp_path / "run"))
    again = [made_of_it, EvaluateStage(name="e", model="stage:p", problems=TRAIN)]
    with pytest.raises(ConfigError, match="has learned from"):
        check_leakage(again)
    shutil.rmtree(model)  # a run that goes on behind that stage asks for its model no more
    check_leakage(again, num_finished=1)


def test_a_record_of_another_form_is_named_with_the_way_out(tmp_path: Path) -> None:
    model = Path(taught_on_train(tmp_path / "model"))
    (model / "learned_problems.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"learned_problems\.json is not a list of hashes .*; take it away"):
        check_leakage([EvaluateStage(name="e", model=str(model), problems=TEST)])


def test_a_prompt_under_another_id_is_a_leak_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {spec: list(problems_of((ProblemSource(spec=spec),))) for spec in (TRAIN[0].spec, TEST[0].spec)}
    prompt = "\n  ".join(sets[TRAIN[0].spec][1].prompt.split(" "))  # the same words, other blanks
    sets[TEST[0].spec][0] = replace(sets[TEST[0].spec][0], prompt=prompt)
    monkeypatch.setattr(leakage, "problems_of", lambda sources: sets[sources[0].spec])
    with pytest.raises(ConfigError, match=r"1 ids or prompts in both"):
        check_leakage(stages(EvaluateStage(name="e", model="stage:p", problems=TEST)))


def test_a_reward_model_that_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    absent = str(tmp_path)
    learned = PPOStage(
        name="p", policy="stage:a", problems=TRAIN, rewards=(RewardModelTermConfig(model=absent),), execute_share=0.1
    )
    mining = MineStage(name="m", model="stage:a", reward_model=absent, problems=TRAIN)
    retrained = RewardModelStage(name="r", base="stage:a", pairs=("stage:c",), earlier=absent)
    for stage in (learned, mining, retrained):
        with pytest.raises(ConfigError, match=r"has no config\.json"):
            check_inputs([stage])


def test_stop_strings_that_the_engines_do_not_look_for_are_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problems = [replace(problem, stop_strings=("\ndef",)) for problem in problems_of(TEST)]
    monkeypatch.setattr(checks, "problems_of", lambda _: problems)
    evaluates, learns = (
        EvaluateStage(name="e", model="stage:a", problems=TEST),
        SFTStage(name="s", base="stage:a", corpus=None, problems=TRAIN),
    )
    with pytest.raises(ConfigError, match=r"stages\.e\.problems: answers to 'synthetic/.*engine\.stop_strings: true"):
        check_engine(GeneratorConfig(), [learns, evaluates])
    check_engine(GeneratorConfig(stop_strings=True), [learns, evaluates])
    check_engine(GeneratorConfig(), [learns])  # it samples nothing


@pytest.mark.parametrize(
    ("config", "is_refused"),
    [
        ({"max_position_embeddings": 512}, True),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default"}}, True),
        ({"max_position_embeddings": 512, "rope_scaling": {"type": "yarn", "factor": 4.0}}, False),
        ({"max_position_embeddings": 1024, "rope_scaling": None}, False),
        ({}, False),
    ],
)
def test_a_model_with_fewer_positions_than_its_engine_is_asked_for_is_named(
    tmp_path: Path, config: dict, is_refused: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    engine, stage = GeneratorConfig(max_model_len=1024), EvaluateStage(name="e", model=str(tmp_path), problems=TEST)
    if is_refused:
        with pytest.raises(ConfigError, match=r"stages\.e: model .* has 512 positions, .*max_model_len is 1024; lower"):
            check_engine(engine, [stage])
    else:
        check_engine(engine, [stage])


def scalar_head(folder: Path, reads: str, *more: str) -> str:
    """A folder that says what a scalar-head model of that kind says of itself."""
    folder.mkdir()
    (folder / "scalar_head.json").write_text(json.dumps({"reads": reads}))
    for name in ("config.json", *more):
        (folder / name).write_text("{}")
    return str(folder)


def test_a_model_whose_number_is_read_elsewhere_is_named_before_anything_starts(tmp_path: Path) -> None:
    """A reward model, a process reward model, a discriminator and a language model, each where another is asked for."""
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text("{}")
    lm = str(tmp_path / "lm")
    by_answer, by_line = scalar_head(tmp_path / "rm", "last_token"), scalar_head(tmp_path / "prm", "line_ends")
    discriminator = scalar_head(tmp_path / "d", "last_token", "discriminator.json")

    def paid_by(term):
        return PPOStage(name="p", policy="stage:a", problems=TRAIN, rewards=(term,), execute_share=0.0)

    wrong = [
        ("rewards", "end of each line", paid_by(RewardModelTermConfig(model=by_line))),
        ("rewards", "last token", PPOStage(
            name="p", policy="stage:a", problems=TRAIN, rewards=(ProcessTermConfig(model=by_answer),)
        )),
        ("rewards", "no scalar-head", paid_by(RewardModelTermConfig(model=lm))),
        ("critic_from", "no scalar-head", PPOStage(name="p", policy="stage:a", problems=TRAIN, critic_from=lm)),
        ("reward_model", "end of each line", MineStage(name="m", model=lm, reward_model=by_line, problems=TRAIN)),
        ("earlier", "no scalar-head", RewardModelStage(name="r", base="stage:a", pairs=("stage:c",), earlier=lm)),
        ("rerank", "no scalar-head", EvaluateStage(name="e", model="stage:a", problems=TEST, rerank=discriminator)),
    ]  # fmt: skip
    for field, says, stage in wrong:
        with pytest.raises(ConfigError, match=rf"stages\.\w\.{field}: .*{says}"):
            check_inputs([stage])
    for sound in (by_answer, by_line):
        check_inputs([EvaluateStage(name="e", model="stage:a", problems=TEST, rerank=sound)])
    check_inputs([paid_by(RewardModelTermConfig(model=by_answer))])


def test_labels_of_an_evaluation_s_problem_and_of_another_tokenizer_are_named(tmp_path: Path, models) -> None:
    a, b = models
    labels = tmp_path / "labels.parquet"
    (problem,) = (problem.id for problem in load_problems(TEST[0].spec)[:1])
    answer = LabelledAnswer(problem, "x", a, (5,), (6, 7), False, (1,), (-1,), 1, 2, "", "python")
    write_labels(labels, [answer], vocabulary_digest(AutoTokenizer.from_pretrained(a)))
    learns = ProcessRewardModelStage(name="prm", base=a, labels=(str(labels),))
    check_tokenizers([learns])
    with pytest.raises(ConfigError, match="holds token ids of tokenizer"):
        check_tokenizers([ProcessRewardModelStage(name="prm", base=b, labels=(str(labels),))])
    evaluates = EvaluateStage(name="e", model=a, problems=TEST)
    with pytest.raises(ConfigError, match=r"stages\.e evaluates on problems that stages\.prm learns from"):
        check_leakage([learns, evaluates])
    write_labels(labels, [replace(answer, problem_id="another")], vocabulary_digest(AutoTokenizer.from_pretrained(a)))
    assert check_leakage([learns, evaluates]).num_train == 0


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """Two folders with a tokenizer each; they read ids differently."""
    folders = []
    for name, text in (("a", "return x + 1"), ("b", "while True: break")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "qwen2"}')
        save_tokenizer(train_tokenizer([text] * 20, 300), folder, max_tokens=64)
        folders.append(str(folder))
    return folders[0], folders[1]


def test_a_model_that_reads_another_tokenizer_s_ids_is_named_before_anything_starts(models: tuple[str, str]) -> None:
    a, b = models
    learned = (RewardModelTermConfig(model=b),)
    collect = CollectStage(name="c", model=a, problems=TRAIN)
    elsewhere = CollectStage(name="d", model=b, problems=TRAIN)
    tuned = PPOStage(name="t", policy=a, problems=TRAIN)
    wrong = {
        "rewards": [PPOStage(name="p", policy=a, problems=TRAIN, rewards=learned, execute_share=0.0)],
        "critic_from": [PPOStage(name="p", policy=a, problems=TRAIN, critic_from=b)],
        "rerank": [tuned, EvaluateStage(name="e", model="stage:t", problems=TEST, rerank=b)],
        "reward_model": [MineStage(name="m", model=a, reward_model=b, problems=TRAIN)],
        "positives": [elsewhere, MineStage(name="m", model=a, reward_model=a, problems=TRAIN, positives="stage:d")],
        "base": [collect, RewardModelStage(name="r", base=b, pairs=("stage:c",))],
        "earlier": [collect, RewardModelStage(name="r", base=a, pairs=("stage:c",), earlier=b)],
        "completer": [LineLabelsStage(name="l", policies=(a,), completer=b, problems=TRAIN)],
        "policy": [collect, DPOStage(name="o", policy=b, pairs=("stage:c",))],
    }
    for field, stages_ in wrong.items():
        with pytest.raises(ConfigError, match=rf"\.{field}: .* has another tokenizer than"):
            check_tokenizers(stages_)
    # Its own, or one that an earlier stage of the run will have inherited.
    check_tokenizers([collect, RewardModelStage(name="r", base=a, pairs=("stage:c",))])
    ranker = RewardModelStage(name="r", base="stage:t", pairs=("stage:c",))
    check_tokenizers([tuned, collect, ranker, EvaluateStage(name="e", model=a, problems=TEST, rerank="stage:r")])
