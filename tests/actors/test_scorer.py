"""The scorer's model: where it waits, and that its numbers do not depend on it."""

import numpy as np
import pytest
import torch

from actors.scorer import Scorer, ScoringConfig
from learner.model_config import ComputeConfig, NewModelConfig
from learner.models import new_causal_lm
from learner.scalar_head import ScalarHeadModel

SHAPE = NewModelConfig(hidden_size=16, num_layers=1, head_dim=8, intermediate_size=24, max_position_embeddings=64)
ANSWERS = [(np.array([2, 3], np.int32), np.array([5, 6, 1], np.int32)), (np.array([4], np.int32), np.array([7]))]


@pytest.fixture
def folder(tmp_path):
    model = ScalarHeadModel.from_causal_lm(new_causal_lm(SHAPE, vocab_size=40, eos_token_id=1, pad_token_id=0, seed=3))
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(("place", "visits"), [("device", []), ("host", ["work", "home"])])
def test_a_reward_model_comes_to_the_device_for_a_batch_or_stays_there(folder, monkeypatch, place, visits):
    expected = Scorer(folder, ScoringConfig(ComputeConfig(), 64, 1)).score(ANSWERS)
    scorer, seen = Scorer(folder, ScoringConfig(ComputeConfig(), 64, 1, place)), []
    scorer._device = torch.device("cpu", 0)  # told apart from the host by its index
    monkeypatch.setattr(scorer._model, "to", lambda to: seen.append("home" if to.index is None else "work"))
    assert scorer.score(ANSWERS).tolist() == expected.tolist()
    assert seen == visits
