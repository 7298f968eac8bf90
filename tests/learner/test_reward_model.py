import copy
import math

import numpy as np
import pytest
import torch

from learner.errors import CheckpointError, NonFiniteGradientError, TokenOutsideVocabularyError, TooLongError
from learner.model_config import OptimizerConfig
from learner.packing import pack
from learner.preferences import PreferencePair, ScoredAnswer
from learner.reward_model import calibration, judge_pairs, pair_figures, train_reward_model
from learner.scalar_config import RewardModelConfig
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import Saving, pack_examples, scored_sequence, scores_of

FAST = OptimizerConfig(learning_rate=1e-2, head_factor=5.0)


def pair(index, good=(5, 6), bad=(7, 8)):
    """A good answer holds token 5, a bad one token 7; lengths differ at random."""
    rng = np.random.default_rng(index)
    filler = [tuple(int(t) for t in rng.integers(10, 40, rng.integers(1, 6))) for _ in range(3)]
    chosen = ScoredAnswer(f"p{index}", f"p{index}/good", filler[0], filler[1] + good, 1.0, True)
    rejected = ScoredAnswer(f"p{index}", f"p{index}/bad", filler[0], filler[2] + bad, 0.0, False)
    return PreferencePair(chosen, rejected)


@pytest.fixture
def scalar(tiny_model):
    torch.manual_seed(0)
    model = ScalarHeadModel.from_causal_lm(tiny_model)
    with torch.no_grad():
        model.score.weight.normal_(0, 0.5)
    return model


def test_it_learns_the_order_of_pairs_that_it_has_not_seen(scalar):
    before = judge_pairs(scalar, [pair(index) for index in range(500, 560)], row_tokens=64)
    train_reward_model(scalar, RewardModelConfig(optimizer=FAST, row_tokens=128), [pair(index) for index in range(300)])
    after = judge_pairs(scalar, [pair(index) for index in range(500, 560)], row_tokens=64)
    assert after.accuracy > 0.95 > before.accuracy
    assert after.loss < 0.3 * math.log(2)


def test_mined_pairs_are_learned_and_the_old_ones_kept(scalar):
    """Hard negatives look right to the first ranker: a good answer's end, and before it what no good answer holds."""

    def mined(index):
        return pair(index, good=(5, 6), bad=(9, 5, 6))

    config = RewardModelConfig(optimizer=FAST, row_tokens=128)
    first, again = copy.deepcopy(scalar), copy.deepcopy(scalar)
    old = [pair(index) for index in range(300)]
    train_reward_model(first, config, old)
    train_reward_model(again, config, [*old, *(mined(index) for index in range(2000, 2200))])
    held_out = {"old": [pair(i) for i in range(500, 560)], "mined": [mined(i) for i in range(3000, 3060)]}
    before, after = (
        {name: judge_pairs(model, pairs, row_tokens=64).accuracy for name, pairs in held_out.items()}
        for model in (first, again)
    )
    assert before["mined"] < 0.7
    assert after["mined"] > 0.95
    assert after["old"] > 0.95
    assert after["old"] >= before["old"] - 0.02


def test_the_gradient_of_a_batch_does_not_depend_on_the_rows(scalar):
    pairs = [pair(index) for index in range(7)]
    weights = []
    for row_tokens in (40, 4096):
        model = copy.deepcopy(scalar).double()
        config = RewardModelConfig(batch_examples=7, optimizer=FAST, row_tokens=row_tokens)
        train_reward_model(model, config, pairs)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(weights[0], weights[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("margin", "bias", "centring", "loss"),
    [
        (0.0, 0.0, 0.0, math.log(2)),
        (0.25, 0.0, 0.0, math.log(1 + math.exp(0.25))),  # the margin is not won by equal scores
        (0.0, 0.5, 0.1, math.log(2) + 0.1),  # 0.1 * (0.5 + 0.5)^2
    ],
)
def test_margin_and_centring_reach_the_training(scalar, margin: float, bias: float, centring: float, loss: float):
    with torch.no_grad():
        scalar.score.weight.zero_()
    scalar.set_bias(bias)
    losses: list[float] = []
    config = RewardModelConfig(batch_examples=7, margin=margin, centring=centring, row_tokens=128)
    train_reward_model(scalar, config, [pair(i) for i in range(7)], progress=lambda at: losses.append(at.loss))
    assert losses[0] == pytest.approx(loss, rel=1e-6)


def test_both_members_of_a_pair_stand_in_one_row_in_their_order():
    examples = [(scored_sequence(f"a{i}", [2], [3] * (i + 1)), scored_sequence(f"b{i}", [4], [5])) for i in range(9)]
    seen = []
    for row, members in pack_examples(examples, 24):
        assert row.num_tokens <= 24
        firsts = row.input_ids[torch.cat([torch.tensor([0]), row.ends[:-1] + 1])].tolist()
        assert firsts == [2, 4] * len(members)
        seen += members
    assert sorted(seen) == list(range(9))


def test_a_score_is_that_of_the_sequence_alone(scalar):
    sequences = [scored_sequence(f"s{i}", [2, 3], list(range(5, 6 + i))) for i in range(6)]
    together = scores_of(scalar, sequences, 64)
    alone = [float(scalar(pack([sequence], 64)[0])[-1].detach()) for sequence in sequences]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)


def test_figures_by_hand():
    figures = pair_figures(
        chosen_scores=np.array([2.0, 0.0, 1.0, 1.0]),
        rejected_scores=np.array([0.0, 1.0, 1.0, 0.0]),
        length_differences=np.array([3.0, -2.0, 0.0, -1.0]),
    )
    assert figures.accuracy == pytest.approx(2.5 / 4)  # right, wrong, equal, right
    assert figures.accuracy_longer == 1.0
    assert figures.accuracy_shorter == 0.5
    # differences 2, -1, 0, 1 against 3, -2, 0, -1; means 0.5 and 0
    assert figures.length_correlation == pytest.approx(7 / math.sqrt(5 * 14))
    expected = [math.log(1 + math.exp(-d)) for d in (2, -1, 0, 1)]
    assert figures.loss == pytest.approx(sum(expected) / 4)


def test_calibration_by_hand():
    # sigmoid(0) = .5 (half right), sigmoid(2) = .8808 twice, one of them wrong
    result = calibration(np.array([0.0, 2.0, -2.0]))
    assert result.counts.tolist() == [1, 2]
    assert result.confidence.tolist() == pytest.approx([0.5, 0.880797], abs=1e-6)
    assert result.accuracy.tolist() == [0.5, 0.5]
    assert result.error == pytest.approx(2 / 3 * 0.380797, abs=1e-6)


def test_a_model_that_likes_length_is_seen():
    lengths = np.array([4.0, -3.0, 2.0, -5.0])
    figures = pair_figures(chosen_scores=lengths, rejected_scores=np.zeros(4), length_differences=lengths)
    assert (figures.accuracy_longer, figures.accuracy_shorter) == (1.0, 0.0)
    assert figures.length_correlation == pytest.approx(1.0)


def test_the_seed_decides_everything(scalar):
    def weights(seed):
        model = copy.deepcopy(scalar)
        pairs = [pair(index) for index in range(40)]
        train_reward_model(model, RewardModelConfig(seed=seed, batch_examples=8), pairs)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


class KilledError(Exception):
    pass


def killed_at(step):
    def progress(latest):
        if latest.step == step:
            raise KilledError

    return progress


def test_cut_short_it_goes_on_from_its_checkpoint_bit_for_bit(scalar, tmp_path):
    config = RewardModelConfig(batch_examples=8, epochs=2)  # a pass has 5 steps
    pairs, saving, steps = [pair(index) for index in range(40)], Saving(tmp_path / "newest", every_s=0.0), []
    straight, broken, resumed = (copy.deepcopy(scalar) for _ in range(3))
    final = train_reward_model(straight, config, pairs)
    with pytest.raises(KilledError):
        train_reward_model(broken, config, pairs, progress=killed_at(7), saving=saving)
    assert train_reward_model(resumed, config, pairs, progress=steps.append, saving=saving) == final
    assert [latest.step for latest in steps] == [7, 8, 9, 10]
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(CheckpointError, match="another set of examples"):
        train_reward_model(broken, config, pairs[1:], saving=saving)
    with pytest.raises(CheckpointError, match="another config: epochs"):
        train_reward_model(broken, config.model_copy(update={"epochs": 3}), pairs, saving=saving)


def test_a_training_that_is_over_does_nothing_again(scalar, tmp_path):
    config, pairs = RewardModelConfig(batch_examples=8), [pair(index) for index in range(40)]
    again, saving, steps = copy.deepcopy(scalar), Saving(tmp_path / "newest", every_s=0.0), []
    train_reward_model(scalar, config, pairs, saving=saving)
    assert train_reward_model(again, config, pairs, progress=steps.append, saving=saving).step == 5
    assert steps == []
    for one, other in zip(scalar.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_pair_longer_than_a_row_is_named(scalar):
    long = pair(0, good=(5,) * 30)
    with pytest.raises(TooLongError, match="p0/good"):
        train_reward_model(scalar, RewardModelConfig(row_tokens=32), [long])


def test_no_pairs_are_an_error(scalar):
    with pytest.raises(ValueError, match="no examples"):
        train_reward_model(scalar, RewardModelConfig(), [])
    with pytest.raises(ValueError, match="no pairs"):
        judge_pairs(scalar, [], row_tokens=64)


def test_a_gradient_that_is_not_finite_names_the_pair_and_keeps_the_weights(scalar):
    """One embedding is broken, and one answer holds its token."""
    with torch.no_grad():
        scalar.model.get_input_embeddings().weight[9] = float("nan")
    before = [parameter.detach().clone() for parameter in scalar.parameters()]
    pairs = [pair(0), pair(1), pair(2, good=(9,)), pair(3)]
    with pytest.raises(NonFiniteGradientError) as caught:
        train_reward_model(scalar, RewardModelConfig(batch_examples=4, row_tokens=128), pairs)
    assert caught.value.trajectories == ("p2/good", "p2/bad")
    for parameter, old in zip(scalar.parameters(), before, strict=True):
        assert torch.equal(parameter.nan_to_num(), old.nan_to_num())


def test_an_answer_with_a_token_that_the_model_does_not_have_is_named(scalar):
    with pytest.raises(TokenOutsideVocabularyError, match="p1/good: token id 40 outside the vocabulary of 40"):
        train_reward_model(scalar, RewardModelConfig(), [pair(0), pair(1, good=(40,))])
