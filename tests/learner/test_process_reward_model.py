import copy

import numpy as np
import pytest
import torch

from learner.critic import values_of
from learner.line_labels import LabelledAnswer, labels_of
from learner.model_config import OptimizerConfig
from learner.packing import pack
from learner.process_reward_model import (
    PositionPredictor,
    answer_sequence,
    judge_lines,
    line_figures,
    line_loss,
    line_places,
    train_process_reward_model,
)
from learner.scalar_config import ScalarTrainingConfig
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import readings_of, scored_sequence

BREAK, COMMENT, WRONG = 2, 3, 4
FAST = OptimizerConfig(learning_rate=1e-2, head_factor=5.0)


def answer(index, lines=None):
    """Lines of one token and a break; a line of token WRONG and all lines after it are bad."""
    rng = np.random.default_rng(index)
    lines = lines or [int(t) for t in rng.choice([COMMENT, WRONG, *range(10, 30)], rng.integers(2, 7))]
    ids = [token for line in lines for token in (line, BREAK)]
    neutral = [line == COMMENT for line in lines]
    code = [line for line in lines if line != COMMENT]
    num_good = code.index(WRONG) if WRONG in code else len(code)
    prompt = tuple(int(t) for t in rng.integers(30, 40, rng.integers(1, 5)))
    places = tuple(range(1, len(ids), 2))
    passed = num_good == len(code)
    return LabelledAnswer(
        f"p{index}", f"a{index}", "m", prompt, tuple(ids), passed, places, tuple(labels_of(neutral, num_good))
    )


@pytest.fixture
def scalar(tiny_model):
    torch.manual_seed(0)
    model = ScalarHeadModel.from_causal_lm(tiny_model)
    with torch.no_grad():
        model.score.weight.normal_(0, 0.5)
    return model


def test_the_loss_by_hand():
    # (0.5 - 1)^2 + (-0.5 - 0)^2 + (0 + 1)^2
    loss = line_loss(torch.tensor([0.5, -0.5, 0.0]), torch.tensor([1.0, 0.0, -1.0]))
    assert float(loss) == pytest.approx(0.25 + 0.25 + 1.0)


def test_the_first_step_s_loss_is_the_mean_over_answers_of_the_sum_over_lines(scalar):
    answers = [answer(index) for index in range(6)]
    expected = []
    for one in answers:
        numbers = scalar(pack([answer_sequence(one)], 64)[0]).detach()
        read = numbers[[len(one.prompt_ids) + token for token in one.line_tokens]].numpy()
        expected.append(float(((read - np.array(one.labels)) ** 2).sum()))
    for row_tokens in (24, 4096):
        config = ScalarTrainingConfig(batch_examples=6, row_tokens=row_tokens)
        final = train_process_reward_model(copy.deepcopy(scalar), config, answers)
        assert final.loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_what_stands_after_the_last_line_s_end_has_no_gradient(scalar):
    one = LabelledAnswer("p", "a", "m", (30,), (10, BREAK, 11, 12), False, (1,), (-1,))
    other = LabelledAnswer("p", "a", "m", (30,), (10, BREAK, 13, 14), False, (1,), (-1,))
    weights = []
    for answers in ([one], [other]):
        model = copy.deepcopy(scalar)
        train_process_reward_model(model, ScalarTrainingConfig(optimizer=FAST), answers)
        weights.append(model.score.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], scalar.score.weight)


def test_it_learns_where_programs_go_wrong_and_not_only_when(scalar):
    config = ScalarTrainingConfig(epochs=6, optimizer=FAST, row_tokens=256)
    train = [answer(index) for index in range(300)]
    train_process_reward_model(scalar, config, train)
    held_out = [answer(index) for index in range(1000, 1100)]
    figures = judge_lines(scalar, held_out, PositionPredictor(train), row_tokens=256)
    assert figures.accuracy > 0.95
    assert figures.accuracy > figures.by_position + 0.05
    assert figures.first_bad > 0.9 > figures.first_bad_by_position
    neutral = answer(0, [10, COMMENT, 11])
    (scores,) = readings_of(scalar, [answer_sequence(neutral)], [line_places(neutral)], 64)
    assert abs(scores[1]) < 0.5 < min(scores[0], scores[2])


def test_readings_are_those_of_the_sequence_alone(scalar):
    answers = [answer(index) for index in range(7)]
    together = readings_of(scalar, [answer_sequence(a) for a in answers], [line_places(a) for a in answers], 48)
    for one, read in zip(answers, together, strict=True):
        alone = scalar(pack([answer_sequence(one)], 64)[0]).detach()[line_places(one)]
        assert read.tolist() == pytest.approx(alone.tolist(), rel=1e-5)
    assert readings_of(scalar, [], [], 48) == []


def test_the_position_predictor_by_hand():
    # first lines: + + -; second lines: + - -; third lines: -
    seen = [answer(0, [10, 11]), answer(1, [10, WRONG, 11]), answer(2, [WRONG, 12])]
    assert PositionPredictor(seen).scores(4).tolist() == [1.0, -1.0, -1.0, -1.0]
    assert PositionPredictor([answer(0, [COMMENT, 10])]).scores(2).tolist() == [1.0, 1.0]  # comments are not counted


def test_figures_by_hand():
    figures = line_figures(
        scores=[np.array([0.5, -0.1, -2.0]), np.array([0.2, 0.3]), np.array([-0.5])],
        by_position=[np.array([1.0, 1.0, -1.0]), np.array([1.0, 1.0]), np.array([1.0])],
        labels=[np.array([1.0, -1.0, -1.0]), np.array([1.0, 1.0]), np.array([-1.0])],
        passed=[False, True, False],
    )
    assert figures.accuracy == 1.0
    assert figures.by_position == pytest.approx(4 / 6)
    assert figures.majority == pytest.approx(0.5)
    assert figures.squared_error == pytest.approx((0.25 + 0.81 + 1.0 + 0.64 + 0.49 + 0.25) / 6)
    assert figures.first_bad == 1.0
    assert figures.first_bad_by_position == 0.0
    assert [(p.position, p.num_lines) for p in figures.positions] == [(1, 3), (2, 2), (3, 1)]
    assert [p.by_position for p in figures.positions] == pytest.approx([2 / 3, 0.5, 1.0])


def test_a_first_bad_line_that_is_found_too_early_or_too_late():
    labels = [np.array([1.0, 1.0, -1.0])] * 4
    scores = [np.array(row) for row in ([1.0, 1, -1], [1.0, -1, 1], [-1.0, -1, -1], [1.0, 1, 1])]
    figures = line_figures(scores=scores, by_position=scores, labels=labels, passed=[False] * 4)
    assert (figures.first_bad, figures.first_bad_early, figures.first_bad_late) == (0.25, 0.5, 0.25)


def test_without_answers_there_is_nothing_to_learn_or_to_judge(scalar):
    with pytest.raises(ValueError, match="no examples"):
        train_process_reward_model(scalar, ScalarTrainingConfig(), [])
    with pytest.raises(ValueError, match="no line"):
        judge_lines(scalar, [], PositionPredictor([]), row_tokens=64)


def test_the_value_of_the_state_after_a_line_is_what_is_read_at_the_lines_end(tiny_model):
    """A critic that begins as the model says of a state what the model says of the lines so far, token for token."""
    torch.manual_seed(0)
    model = ScalarHeadModel.from_causal_lm(tiny_model)
    with torch.no_grad():
        model.score.weight.normal_()
    sequences = [scored_sequence(f"a{n}", [3, 4, 5][:n], list(range(6, 6 + 3 * n))) for n in (1, 2, 3)]
    values = values_of(model, sequences, 64).numpy()
    read = readings_of(model, sequences, [range(s.num_tokens - s.num_trained, s.num_tokens) for s in sequences], 64)
    begin = 0
    for sequence, numbers in zip(sequences, read, strict=True):
        of_this = values[begin : begin + sequence.num_trained]
        assert np.allclose(of_this[1:], numbers[:-1], rtol=0, atol=1e-6)  # of token i + 1, after token i
        assert np.ptp(of_this) > 0.01
        begin += sequence.num_trained
