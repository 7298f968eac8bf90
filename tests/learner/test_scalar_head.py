import json

import numpy as np
import pytest
import torch

from learner.errors import ModelRefusedError
from learner.packing import TokenSequence, pack
from learner.scalar_head import ScalarHeadModel


def row():
    first = TokenSequence("a", np.array([2, 3, 4]), np.array([False, True, True]))
    second = TokenSequence("b", np.array([5, 6, 7, 8]), np.array([False, False, True, True]))
    return pack([first, second], 16)[0]


def test_it_begins_as_the_constant_it_is_told(tiny_model):
    critic = ScalarHeadModel.from_causal_lm(tiny_model, bias=0.25)
    assert critic(row()).tolist() == [0.25] * 7
    critic.set_bias(-1.0)
    assert critic(row()).tolist() == [-1.0] * 7


def test_it_is_a_copy_and_not_a_view_of_the_policy(tiny_model):
    critic = ScalarHeadModel.from_causal_lm(tiny_model)
    with torch.no_grad():
        critic.model.get_input_embeddings().weight.zero_()
    assert tiny_model.get_input_embeddings().weight.any()


def test_a_token_s_number_depends_on_nothing_after_it(tiny_model):
    critic = ScalarHeadModel.from_causal_lm(tiny_model)
    torch.nn.init.normal_(critic.score.weight)
    before = critic(row())
    changed = TokenSequence("b", np.array([5, 6, 7, 39]), np.array([False, False, True, True]))
    first = TokenSequence("a", np.array([2, 3, 4]), np.array([False, True, True]))
    after = critic(pack([first, changed], 16)[0])
    assert torch.equal(before[:6], after[:6])
    assert before[6] != after[6]


def test_saved_and_loaded_it_says_the_same(tiny_model, tmp_path):
    critic = ScalarHeadModel.from_causal_lm(tiny_model, bias=0.1)
    torch.nn.init.normal_(critic.score.weight)
    critic.save_pretrained(tmp_path / "critic")
    again = ScalarHeadModel.from_pretrained(tmp_path / "critic")
    assert torch.equal(again(row()), critic(row()))
    assert json.loads((tmp_path / "critic" / "config.json").read_text())["model_type"] == tiny_model.config.model_type
    assert set(again.state_dict()) >= {"score.weight", "score.bias"}


def test_a_folder_without_one_is_refused(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(ModelRefusedError, match="no scalar-head model"):
        ScalarHeadModel.from_pretrained(tmp_path)
