"""Values where there is one device; places with fake tensors, for which ``meta`` plays the accelerator."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import AdamW

from learner.config import GAE, CriticConfig, KLConfig, PPOConfig
from learner.model_config import ComputeConfig, OptimizerConfig
from learner.optim import ScheduledOptimizer
from learner.packing import as_sequence
from learner.placement import HOST, at_work, compute_device, settle
from learner.ppo import PPOLearner
from learner.scalar_config import ScalarTrainingConfig
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import ScalarTrainer

DEVICE = torch.device("meta")


class Traveller(nn.Module):
    """Keeps a diary of where it was sent."""

    def __init__(self):
        super().__init__()
        self.diary = []

    def to(self, device):
        self.diary.append(device.type)


def test_a_model_waits_where_its_field_says_and_works_on_the_device():
    model = Traveller()
    settle(model, DEVICE)
    settle(model, DEVICE, "host")
    assert model.diary == ["meta", "cpu"]
    with at_work(model, DEVICE, "host"):
        assert model.diary[2:] == ["meta"]
    assert model.diary[2:] == ["meta", "cpu"]
    with contextlib.suppress(KeyError), at_work(model, DEVICE, "host"):
        raise KeyError
    assert model.diary[4:] == ["meta", "cpu"]  # whatever happened
    with at_work(model, DEVICE, "device"), at_work(None, DEVICE, "host"):
        pass
    assert len(model.diary) == 6  # it was there


@pytest.fixture
def fake_devices(monkeypatch):
    """Tensors that know their place and hold no values; AdamW's fused kernel does not know ``meta``."""
    monkeypatch.setattr(
        "learner.optim.torch.optim.AdamW", lambda *args, **settings: AdamW(*args, **{**settings, "fused": False})
    )
    with FakeTensorMode():
        yield


@pytest.mark.usefixtures("fake_devices")
@pytest.mark.parametrize(("states", "kind"), [("device", "meta"), ("host", "cpu")])
def test_moments_lie_where_their_field_says(states, kind):
    model = nn.Linear(4, 4, device=DEVICE)
    optimizer = ScheduledOptimizer(model, OptimizerConfig(), states=states)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer._move_parameters()
    held = optimizer.moment_bytes()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert held[kind] >= 2 * 20 * 4  # two moments of 16 + 4 numbers
    if states == "host":
        assert set(held) == {"cpu"}


@pytest.mark.usefixtures("fake_devices")
def test_moments_that_were_restored_while_their_model_waited_come_to_the_device_with_it():
    """A critic whose placement is ``host``, after a resume or an undone step."""
    model = nn.Linear(4, 4, device=DEVICE)
    optimizer = ScheduledOptimizer(model, OptimizerConfig())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer._move_parameters()
    for parameter in model.parameters():
        optimizer._place_moments(parameter, HOST)  # as torch does to those of a model that lies there
    found = []
    optimizer._adamw.step = lambda: found.append(set(optimizer.moment_bytes()))
    optimizer._move_parameters()
    assert found == [{"meta"}]


def test_trainers_on_examples_and_the_critics_warm_up_lay_moments_where_their_field_says(
    tiny_model, make_trajectory, monkeypatch
):
    asked = []

    def asked_for(*arguments, states="device"):
        asked.append(states)
        return ScheduledOptimizer(*arguments, states=states)

    for module in ("critic", "scalar_training"):
        monkeypatch.setattr(f"learner.{module}.ScheduledOptimizer", asked_for)
    for states in ("device", "host"):
        compute, rows = ComputeConfig(optimizer_states=states), {"row_tokens": 64, "max_trajectory_tokens": 32}
        settings = PPOConfig(advantage=GAE(critic=CriticConfig(warmup_steps=1)), compute=compute, num_steps=4, **rows)
        rollouts = [make_trajectory(0, i, reward=float(i)) for i in range(3)]
        PPOLearner(copy.deepcopy(tiny_model), settings).warm_up_critic(rollouts, rollouts)
        examples = [(as_sequence(rollout),) for rollout in rollouts]
        model = ScalarHeadModel.from_causal_lm(tiny_model)
        ScalarTrainer(model, ScalarTrainingConfig(compute=compute), examples, lambda numbers, *_: numbers.sum())
    assert asked == ["device", "device", "host", "host"]


def test_moments_in_host_memory_change_no_number():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        ScheduledOptimizer(model, OptimizerConfig(weight_decay=0.1, warmup_steps=2), states=states)
        for model, states in zip(models, ("device", "host"), strict=True)
    ]
    for step in range(4):
        rows = torch.randn(7, 3)
        for model, optimizer in zip(models, optimizers, strict=True):
            model(rows).square().sum().backward()
            optimizer.step(progress=step / 4)
        if step == 1:  # through a checkpoint and a snapshot
            optimizers[1].load_state_dict(optimizers[1].state_dict())
            optimizers[1].restore(optimizers[1].snapshot())
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_offloaded_models_train_as_those_that_stay(tiny_model, make_trajectory):
    def trained(place):
        settings = PPOConfig(
            advantage=GAE(critic=CriticConfig(placement=place)), kl=KLConfig(placement=place), num_steps=4,
            compute=ComputeConfig(optimizer_states=place), row_tokens=64, max_trajectory_tokens=32,
        )  # fmt: skip
        learner = PPOLearner(copy.deepcopy(tiny_model), settings)
        for reward in (0.0, 1.0):
            learner.step([[make_trajectory(0, i, reward=reward + i) for i in range(3)]])
        return learner

    stayed, offloaded = trained("device"), trained("host")
    for model in ("policy", "critic"):
        pairs = zip(getattr(stayed, model).parameters(), getattr(offloaded, model).parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert set(offloaded.policy_optimizer.moment_bytes()) == {"cpu"}


def test_the_learner_calls_its_models_to_work_and_sends_them_back(tiny_model, make_trajectory, monkeypatch):
    moves = []
    settings = PPOConfig(
        advantage=GAE(critic=CriticConfig(placement="host")), kl=KLConfig(placement="host"), num_steps=4,
        row_tokens=64, max_trajectory_tokens=32,
    )  # fmt: skip
    learner = PPOLearner(tiny_model, settings)
    learner.device = torch.device("cpu", 0)  # told apart from the host by its index
    for name, model in (("reference", learner.reference), ("critic", learner.critic)):
        monkeypatch.setattr(
            model, "to", lambda to, n=name: moves.append((n, "home" if to == HOST and to.index is None else "work"))
        )
    learner.step([[make_trajectory(0, i, reward=float(i)) for i in range(3)]])
    visit = [("reference", "work"), ("critic", "work"), ("critic", "home"), ("reference", "home")]
    assert moves == [*visit, ("critic", "work"), ("critic", "home")]


def test_a_gpu_that_is_not_there_is_an_error_only_if_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_device("auto") == compute_device("cpu") == HOST
    with pytest.raises(ValueError, match=r"compute.device is 'cuda', but this process sees no GPU"):
        compute_device("cuda")
