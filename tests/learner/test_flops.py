import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from learner.flops import critic_arithmetic, peak_flops, peak_of_name, policy_arithmetic
from learner.packing import TokenSequence, pack
from learner.policy import Policy
from learner.scalar_head import ScalarHeadModel
from learner.stepmetrics import PartTimes, Passed, speed_metrics


def sequences(lengths, trained_from=2):
    return [TokenSequence(str(n), np.arange(n) % 40, np.arange(n) >= trained_from) for n in lengths]


def counted(module, examples):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for row in pack(examples, 1000):
            module(row)
    return counter.get_total_flops()


def test_matrix_products_are_those_that_torch_counts(tiny_model):
    """Sequences of one length; torch counts attention whole or not at all (by kernel), so that it is set apart."""
    policy, critic = Policy(tiny_model), ScalarHeadModel.from_causal_lm(tiny_model)
    short, long = sequences([8] * 4), sequences([32] * 4)
    for arithmetic, module, trained_only in (
        (policy_arithmetic(policy), policy, True),
        (critic_arithmetic(critic), critic, False),
    ):
        for examples in (short, long):
            attention = sum(2 * arithmetic.attention_width * s.num_tokens**2 for s in examples)
            ours = arithmetic.forward(examples, trained_only=trained_only) - attention
            theirs = counted(module, examples)
            assert theirs == pytest.approx(ours, rel=0.02) or theirs == pytest.approx(ours + 2 * attention, rel=0.02)


def test_attention_grows_with_the_square_of_a_sequence_and_not_of_the_row(tiny_model):
    arithmetic = policy_arithmetic(Policy(tiny_model))
    one, four = arithmetic.forward(sequences([64], 64)), arithmetic.forward(sequences([16] * 4, 16))
    assert one - four == 2 * arithmetic.attention_width * (64**2 - 4 * 16**2)
    assert arithmetic.attention_width == 2 * 16


def test_peaks_are_known_by_name():
    assert peak_of_name("NVIDIA H200") == 989e12
    assert peak_of_name("NVIDIA H100 PCIe") == 756e12
    assert peak_of_name("NVIDIA L40S") == 362e12
    assert peak_of_name("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_of_name("Some other device") is None
    assert peak_flops(torch.device("cpu")) is None


def test_speed_is_work_over_time(monkeypatch):
    clock = iter([0.0, 1.0, 5.0])
    monkeypatch.setattr("learner.stepmetrics.time.perf_counter", lambda: next(clock))
    times = PartTimes()
    with times.part("policy"):
        pass
    passed = {"policy": Passed(tokens=800, flops=1e12), "critic": Passed(tokens=0, flops=0.0)}
    assert speed_metrics(times, passed, peak=1e12) == {
        "learner/tokens_per_s_policy": 200.0,
        "learner/mfu_policy": 0.25,
    }
    assert "learner/mfu_policy" not in speed_metrics(times, passed, peak=None)
