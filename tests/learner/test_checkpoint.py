import json
import random

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from learner import checkpoint
from learner.checkpoint import (
    first_difference,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    weights_fingerprint,
)
from learner.config import KLConfig, PPOConfig
from learner.errors import CheckpointError

CONFIG = PPOConfig()


def save(folder, value=1.0):
    save_checkpoint(folder, kind="ppo", settings=CONFIG, state={"weights": torch.full((3,), value), "num_steps": 4})


def load(folder, kind="ppo", settings=CONFIG):
    state = {"weights": torch.zeros(3), "num_steps": 0}
    return load_checkpoint(folder, kind=kind, settings=settings, state=state)


def test_what_was_saved_comes_back(tmp_path):
    save(tmp_path / "c")
    save(tmp_path / "c", value=2.0)
    state = load(tmp_path / "c")
    assert state["weights"].tolist() == [2.0] * 3
    assert state["num_steps"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("moment", ["save", "_fsync", "publish_folder"])
def test_a_kill_in_the_middle_leaves_the_last_good_one(tmp_path, monkeypatch, moment):
    save(tmp_path / "c")

    def killed(*_: object, **__: object):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dcp if moment == "save" else checkpoint, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "c", value=2.0)
    assert load(tmp_path / "c")["weights"].tolist() == [1.0] * 3
    save(tmp_path / "c", value=3.0)
    assert load(tmp_path / "c")["weights"].tolist() == [3.0] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["c"]  # nothing is left over


def test_one_cut_short_or_damaged_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load(tmp_path / "absent")
    save(tmp_path / "c")
    file = next((tmp_path / "c" / "state").glob("*.distcp"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        load(tmp_path / "c")
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        load(tmp_path / "c")
    file.unlink()
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        load(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load(tmp_path / "c")


def test_one_of_another_config_or_kind_is_refused_by_field(tmp_path):
    save(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"kl\.coefficient: 0\.02 there, 0\.5 here"):
        load(tmp_path / "c", settings=PPOConfig(kl=KLConfig(coefficient=0.5)))
    with pytest.raises(CheckpointError, match="'ppo'"):
        load(tmp_path / "c", kind="sft")


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({"a": torch.zeros(4)}, r"weights\.a: \[3\] there, \[4\] here"),
        ({"a": torch.zeros(3), "b": torch.zeros(1)}, r"weights\.b: None there, \[1\] here"),
        ({}, r"weights\.a: \[3\] there, None here"),
    ],
    ids=["wider", "deeper", "shallower"],
)
def test_one_of_another_model_is_refused_by_tensor(tmp_path, weights, complaint):
    """Torch would read a deeper model's checkpoint into a shallower one without a word."""
    save_checkpoint(tmp_path / "c", kind="ppo", settings=CONFIG, state={"weights": {"a": torch.ones(3)}, "step": 4})
    state = {"weights": weights, "step": 0}
    with pytest.raises(CheckpointError, match=f"another model: {complaint}"):
        load_checkpoint(tmp_path / "c", kind="ppo", settings=CONFIG, state=state)


def test_torch_s_own_failure_is_an_error_that_callers_catch(tmp_path, monkeypatch):
    """It derives from BaseException, and would end an actor whose caller waits for an Exception."""

    def fails(*_: object, **__: object):
        raise dcp.api.CheckpointException("write", {0: (OSError("No space left on device"), None)})

    monkeypatch.setattr(dcp, "save", fails)
    with pytest.raises(CheckpointError, match="rank 0: No space left on device"):
        save(tmp_path / "c")


def test_the_first_difference_is_found_in_depth():
    assert first_difference({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}) is None
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b: 1 there, 2 here"
    assert first_difference({}, {"a": 1}) == "a: None there, 1 here"


def test_all_random_states_come_back(tmp_path):
    state = random_state()
    save_checkpoint(tmp_path / "c", kind="x", settings=CONFIG, state=state)

    def draw():
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    expected = draw()
    draw()
    restore_random_state(load_checkpoint(tmp_path / "c", kind="x", settings=CONFIG, state=random_state()))
    assert draw() == expected


@pytest.mark.parametrize("num_gpus", [2, 0])
def test_the_random_states_of_gpus_come_back_where_there_are_as_many(tmp_path, monkeypatch, num_gpus):
    states = [torch.tensor([1, 2, 3], dtype=torch.uint8), torch.tensor([4, 5, 6], dtype=torch.uint8)]
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
        state = random_state()
    save_checkpoint(tmp_path / "c", kind="x", settings=CONFIG, state=state)
    state, restored = load_checkpoint(tmp_path / "c", kind="x", settings=CONFIG, state=random_state()), []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    restore_random_state(state)
    assert [state.tolist() for state in restored] == [[1, 2, 3], [4, 5, 6]][:num_gpus]


def test_a_fingerprint_tells_models_apart(tiny_model):
    before = weights_fingerprint(tiny_model)
    assert weights_fingerprint(tiny_model) == before
    with torch.no_grad():
        next(tiny_model.parameters()).view(-1)[0] += 1e-6
    assert weights_fingerprint(tiny_model) != before


def test_the_manifest_is_readable(tmp_path):
    save(tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["kind"] == "ppo"
    assert manifest["settings"]["kl"]["coefficient"] == 0.02
