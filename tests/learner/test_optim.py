import math

import pytest
import torch
from torch import nn

from learner.model_config import OptimizerConfig
from learner.optim import ScheduledOptimizer, Undo, learning_rate_factor


def factor(step=100, progress=0.0, **settings):
    return learning_rate_factor(OptimizerConfig(**settings), step=step, progress=progress)


def test_schedules_by_hand():
    assert factor(schedule="constant", progress=0.9) == 1.0
    assert factor(schedule="linear", final_fraction=0.2, progress=0.5) == pytest.approx(0.6)
    assert factor(schedule="cosine", final_fraction=0.0, progress=0.5) == pytest.approx(0.5)
    for schedule in ("linear", "cosine"):
        assert factor(schedule=schedule, final_fraction=0.1, progress=0.0) == pytest.approx(1.0)
        assert factor(schedule=schedule, final_fraction=0.1, progress=1.0) == pytest.approx(0.1)
        assert factor(schedule=schedule, final_fraction=0.1, progress=7.0) == pytest.approx(0.1)


def test_warm_up_rises_linearly_and_begins_above_zero():
    assert [factor(step=s, warmup_steps=4, schedule="constant") for s in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]


def linear_with_gradient(value):
    model = nn.Linear(2, 1)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return model


def test_a_step_moves_against_the_gradient_by_the_rate():
    model = linear_with_gradient(1.0)
    before = model.weight.detach().clone()
    optimizer = ScheduledOptimizer(model, OptimizerConfig(learning_rate=0.01, schedule="constant", eps=1e-12))
    norm = optimizer.step(progress=0.0)
    assert norm == pytest.approx(math.sqrt(3))
    # Adam's first step is the rate itself, whatever the gradient's size
    torch.testing.assert_close(model.weight.detach(), before - 0.01)
    assert model.weight.grad is None
    assert (optimizer.num_steps, optimizer.learning_rate) == (1, 0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    model = linear_with_gradient(bad)
    before = model.weight.detach().clone()
    optimizer = ScheduledOptimizer(model, OptimizerConfig())
    assert not math.isfinite(optimizer.step(progress=0.0))
    assert torch.equal(model.weight, before)
    assert optimizer.num_steps == 0


def test_only_matrices_decay():
    model = nn.Linear(2, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, schedule="constant")
    ScheduledOptimizer(model, config).step(progress=0.0)
    assert model.weight.tolist() == [[pytest.approx(0.95)] * 2]
    assert model.bias.tolist() == [1.0]


def test_what_is_undone_is_as_before_bit_for_bit():
    model = linear_with_gradient(1.0)
    optimizer = ScheduledOptimizer(model, OptimizerConfig())
    optimizer.step(progress=0.0)
    memory, weight = Undo(model, optimizer), model.weight.detach().clone()
    moments = optimizer.state_dict()["adamw"]["state"]["weight"]["exp_avg"].clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -3.0)
    optimizer.step(progress=0.5)
    memory.restore()
    assert torch.equal(model.weight, weight)
    assert torch.equal(optimizer.state_dict()["adamw"]["state"]["weight"]["exp_avg"], moments)
    assert optimizer.num_steps == 1


def test_asking_for_the_state_before_the_first_step_changes_nothing():
    asked, not_asked = linear_with_gradient(1.0), linear_with_gradient(1.0)
    not_asked.load_state_dict(asked.state_dict())
    optimizers = [ScheduledOptimizer(model, OptimizerConfig()) for model in (asked, not_asked)]
    gradients = {name: parameter.grad for name, parameter in asked.named_parameters()}
    optimizers[0].zero_grad()
    optimizers[0].load_state_dict(optimizers[0].state_dict())
    for name, parameter in asked.named_parameters():
        parameter.grad = gradients[name]
    for optimizer in optimizers:
        optimizer.step(progress=0.0)
    assert torch.equal(asked.weight, not_asked.weight)


def test_a_scalar_head_may_have_a_rate_of_its_own():
    model = nn.ModuleDict({"model": nn.Linear(2, 1), "score": nn.Linear(2, 1)})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    config = OptimizerConfig(learning_rate=0.01, head_factor=5.0, schedule="constant", eps=1e-12)
    ScheduledOptimizer(model, config).step(progress=0.0)
    for name, parameter in model.named_parameters():
        moved = 0.05 if name.startswith("score.") else 0.01
        torch.testing.assert_close(parameter.detach(), before[name] - moved)
