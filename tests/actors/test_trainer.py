"""The trainer's worker: checkpoints beside the training."""

import threading

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from actors.trainer import FineTuner, TrainerWorker
from learner import checkpoint_writer
from learner.checkpoint import save_checkpoint, weights_fingerprint
from learner.config import GAE, GroupBaseline, PPOConfig, SFTConfig
from learner.critic import values_of
from learner.errors import TokenizerMismatchError
from learner.export import export_huggingface
from learner.model_config import NewModelConfig, OptimizerConfig
from learner.models import load_causal_lm, new_causal_lm
from learner.packing import as_sequence
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import readings_of
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion
from problems.prompting import PromptStyle

SHAPE = NewModelConfig(hidden_size=16, num_layers=1, head_dim=8, intermediate_size=24, max_position_embeddings=64)
CONFIG = PPOConfig(
    num_steps=4, advantage=GroupBaseline(), optimizer=OptimizerConfig(learning_rate=1e-2), row_tokens=64,
    max_trajectory_tokens=32,
)  # fmt: skip


@pytest.fixture
def model(tmp_path):
    words = {"<p>": 0, "<e>": 1, **{f"w{i}": i for i in range(2, 40)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<p>")), eos_token="<e>", pad_token="<p>"
    )
    policy = new_causal_lm(SHAPE, vocab_size=40, eos_token_id=1, pad_token_id=0, seed=3)
    export_huggingface(policy, tmp_path / "model", tokenizer=tokenizer)
    return str(tmp_path / "model")


@pytest.fixture
def make_worker(model, tmp_path):
    made = []

    def make(checkpoint=None, lineage=0):
        worker = TrainerWorker(CONFIG, f"test-trainer-{tmp_path.name}-{len(made)}", threads=1)
        worker.start(model, checkpoint, lineage, str(tmp_path / f"steps{len(made)}.jsonl"))
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.close()


def groups(step):
    def trajectory(sample):
        turn = Turn(
            np.array([2, 3], np.int32), np.array([5 + sample, 6, 1], np.int32), np.ones(3, np.bool_),
            np.full(3, -3.5, np.float32), (VersionSpan(WeightsVersion(0, step), 0, 3),), FinishReason.STOP,
        )  # fmt: skip
        return Trajectory(TrajectoryId("r", "ppo", step, "p", sample), 0, (turn,), (RewardEvent("t", float(sample)),))

    return [[trajectory(sample) for sample in range(3)]]


def weights_of(worker):
    return torch.cat([tensor.flatten() for bucket in worker._started.weights() for _, tensor in bucket]).clone()


def test_it_says_which_weights_it_began_with_and_not_those_of_the_checkpoint(model, tmp_path, make_worker):
    trained = make_worker()
    trained.step(groups(0))
    trained.begin_save(str(tmp_path / "checkpoints"))
    trained.finish_save()
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    again = TrainerWorker(CONFIG, f"test-again-{tmp_path.name}", threads=1)
    began = again.start(model, str(checkpoint), 1, str(tmp_path / "again.jsonl"))
    assert began == weights_fingerprint(load_causal_lm(model))
    assert began != weights_fingerprint(again._started.policy.model)
    again.close()


def test_steps_go_on_while_a_checkpoint_is_written_and_are_not_in_it(make_worker, tmp_path, monkeypatch):
    may_write = threading.Event()
    monkeypatch.setattr(
        checkpoint_writer, "save_checkpoint", lambda *a, **k: may_write.wait(60) and save_checkpoint(*a, **k)
    )
    worker = make_worker()
    worker.step(groups(0))
    before = weights_of(worker)
    assert worker.begin_save(str(tmp_path / "checkpoints"), {"pass": 0.5}) == WeightsVersion(0, 1)
    waiting = threading.Thread(target=worker.finish_save)  # as the other concurrency group's thread does
    waiting.start()
    assert worker.step(groups(1)).version == WeightsVersion(0, 2)
    assert waiting.is_alive()
    assert not list((tmp_path / "checkpoints").glob("*"))
    may_write.set()
    waiting.join(60)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["L0.S1"]
    after = weights_of(worker)
    assert not torch.equal(before, after)
    resumed = make_worker(str(tmp_path / "checkpoints" / "L0.S1"), lineage=1)
    assert torch.equal(weights_of(resumed), before)
    assert resumed.step(groups(1)).version == WeightsVersion(1, 2)
    assert torch.equal(weights_of(resumed), after)  # bit for bit the step that followed


def test_what_goes_wrong_in_the_write_is_raised_by_who_waits_for_it(make_worker, tmp_path):
    worker = make_worker()
    (tmp_path / "file").write_text("in the way")
    worker.begin_save(str(tmp_path / "file"))
    worker.step(groups(0))
    with pytest.raises(OSError, match="file"):
        worker.finish_save()
    worker.begin_save(str(tmp_path / "checkpoints"))
    worker.finish_save()
    assert (tmp_path / "checkpoints" / "L0.S1").is_dir()


def test_a_critic_that_begins_as_another_model_says_what_that_one_says(model, tmp_path):
    torch.manual_seed(4)
    judge = ScalarHeadModel.from_causal_lm(new_causal_lm(SHAPE, vocab_size=40, eos_token_id=1, pad_token_id=0, seed=9))
    torch.nn.init.normal_(judge.score.weight)
    judge.set_bias(0.25)
    judge.save_pretrained(tmp_path / "prm", reads="line_ends")
    worker = TrainerWorker(CONFIG.model_copy(update={"advantage": GAE()}), "test-trainer-critic", threads=1)
    worker.start(model, None, 0, str(tmp_path / "steps.jsonl"), str(tmp_path / "prm"))
    critic = worker._started.critic
    sequences = [as_sequence(trajectory) for trajectory in groups(0)[0]]
    values = values_of(critic, sequences, 64)
    assert torch.equal(values, values_of(judge, sequences, 64))
    # What the judge reads at a token is the value of the state behind it, in which the next one is chosen.
    places = [range(1, 4)] * len(sequences)  # the prompts' last token and all but the last of the completions'
    read = np.concatenate(readings_of(judge, sequences, places, 64))
    assert values.numpy() == pytest.approx(read, abs=1e-6)
    assert len({round(value, 5) for value in read[:3]}) == 3
    assert all(parameter.requires_grad for parameter in critic.parameters())
    worker.close()


@pytest.mark.parametrize("words", [39, 41])
def test_fine_tuning_with_another_model_s_tokenizer_is_refused(model, tmp_path, words):
    """Larger: ids without an embedding. Smaller, but with another end: completions would never end."""
    vocabulary = {"<p>": 0, "<e>" if words > 40 else "w1": 1, **{f"w{i}": i for i in range(2, words)}}
    end = "<e>" if words > 40 else "w5"
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<p>")), eos_token=end, pad_token="<p>"
    )
    other.save_pretrained(tmp_path / "other")
    tuner = FineTuner(SFTConfig(max_steps=1), threads=1)
    style = PromptStyle("plain", (1,))
    with pytest.raises(TokenizerMismatchError, match=r"41 tokens|eos_token_id 5"):
        tuner.train(
            str(tmp_path / "other"), model, SHAPE, style, [("w2", "w3")], str(tmp_path / "out"),
            str(tmp_path / "checkpoint"), 60.0,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_fine_tuning_that_was_cut_short_goes_on_where_it_was(model, tmp_path):
    def fine_tune(output, checkpoint, last_step=None):
        tuner = FineTuner(
            SFTConfig(max_steps=6, batch_examples=2, seed=3, max_example_tokens=32, row_tokens=64), threads=1
        )
        note = tuner._note

        def stop_there(progress):
            note(progress)
            if progress.step == last_step:
                tuner.stop()

        tuner._note = stop_there
        pairs = [(f"w{i} w{i + 1}", f"w{i + 2} w{i + 3}") for i in range(2, 12)]
        arguments = (model, model, SHAPE, PromptStyle("plain", (1,)), pairs)
        return tuner.train(*arguments, str(tmp_path / output), str(tmp_path / checkpoint), 0.0)

    whole = fine_tune("whole", "a")
    assert fine_tune("half", "b", last_step=3).step == 3
    rest = fine_tune("rest", "b")
    assert (rest.step, rest.loss, rest.tokens) == (6, whole.loss, whole.tokens)
    weights = [load_causal_lm(tmp_path / name).state_dict() for name in ("whole", "rest")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
