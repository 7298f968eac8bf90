import pytest
import torch
from torch import tensor

from learner.kl import kl_estimate

F64 = torch.float64


def estimate(name, current, reference):
    return kl_estimate(
        name, current_logprobs=tensor(current, dtype=F64), reference_logprobs=tensor(reference, dtype=F64)
    ).tolist()


def test_by_hand():
    assert estimate("k1", [-1.0, -2.0], [-1.5, -1.0]) == [0.5, -1.0]
    assert estimate("k2", [-1.0, -2.0], [-1.5, -1.0]) == [0.125, 0.5]
    assert estimate("k3", [-1.0, -2.0], [-1.5, -1.0]) == pytest.approx([2.718281828**-0.5 - 0.5, 2.718281828 - 2.0])


def test_equal_policies_diverge_by_nothing():
    for name in ("k1", "k2", "k3"):
        assert estimate(name, [-0.7], [-0.7]) == [0.0]


def test_k1_and_k3_are_unbiased_and_k2_and_k3_never_negative():
    p, q = tensor([0.7, 0.2, 0.1], dtype=F64), tensor([0.5, 0.25, 0.25], dtype=F64)
    exact = float((p * (p / q).log()).sum())
    for name in ("k1", "k3"):
        values = kl_estimate(name, current_logprobs=p.log(), reference_logprobs=q.log())
        assert float((p * values).sum()) == pytest.approx(exact)
    for name in ("k2", "k3"):
        assert (kl_estimate(name, current_logprobs=p.log(), reference_logprobs=q.log()) >= 0).all()


def test_as_a_loss_k2_has_the_gradient_of_the_divergence_and_k1_none():
    logits = tensor([0.3, -0.2, 0.1], dtype=F64, requires_grad=True)
    reference = tensor([0.5, 0.25, 0.25], dtype=F64).log()
    current = logits.log_softmax(0)
    exact = torch.autograd.grad((current.exp() * (current - reference)).sum(), logits, retain_graph=True)[0]

    def expected_gradient(name):
        values = kl_estimate(name, current_logprobs=current, reference_logprobs=reference)
        return torch.autograd.grad((current.detach().exp() * values).sum(), logits, retain_graph=True)[0]

    torch.testing.assert_close(expected_gradient("k2"), exact)
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros(3, dtype=F64))


def test_k3_of_a_hopeless_token_is_finite():
    assert estimate("k3", [-200.0], [-1.0])[0] == pytest.approx(2.718281828459045**20 - 21)


def test_k3_of_nearly_equal_policies_keeps_its_digits_and_sign_in_single_precision():
    apart = torch.linspace(-3e-4, 3e-4, 1000)
    values = kl_estimate("k3", current_logprobs=apart, reference_logprobs=torch.zeros(1000))
    assert (values >= 0).all()
    torch.testing.assert_close(values, apart.square() / 2 + -(apart**3) / 6, rtol=1e-3, atol=1e-11)
