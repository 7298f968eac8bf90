import numpy as np
import pytest
import torch
from torch import tensor

from learner.logprobs import TiedGradient, tied_embedding, token_logprobs
from learner.memory import peak_bytes, reset_peak
from learner.model_config import NewModelConfig
from learner.models import new_causal_lm
from learner.packing import TokenSequence, pack
from learner.placement import HOST
from learner.policy import Policy

F64 = torch.float64


def inputs(tokens=7, width=4, vocabulary=11, bias=True):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, dtype=F64, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=F64, generator=generator, requires_grad=True)
    offset = torch.randn(vocabulary, dtype=F64, generator=generator, requires_grad=True) if bias else None
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden, weight, targets, offset


def plain(hidden, weight, targets, bias, temperature):
    log_p = (torch.nn.functional.linear(hidden, weight, bias) / temperature).log_softmax(1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(1)


def test_two_tokens_by_hand():
    # logits (0, ln 3): probabilities 1/4 and 3/4
    weight = tensor([[0.0], [1.0]], dtype=F64)
    result = token_logprobs(tensor([[3.0], [3.0]], dtype=F64).log(), weight, tensor([0, 1]))
    assert result.logprobs.exp().tolist() == pytest.approx([0.25, 0.75])
    entropy = -(0.25 * tensor(0.25).log() + 0.75 * tensor(0.75).log())
    assert result.entropy.tolist() == pytest.approx([float(entropy)] * 2)


@pytest.mark.parametrize("chunk_elements", [1, 25, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_the_plain_way(chunk_elements, temperature, bias):
    hidden, weight, targets, offset = inputs(bias=bias)
    wanted = [hidden, weight] + ([offset] if offset is not None else [])
    up_logprobs, up_entropy = torch.randn(2, len(targets), dtype=F64)

    def total(logprobs, entropy):
        return (logprobs * up_logprobs + entropy * up_entropy).sum()

    result = token_logprobs(
        hidden, weight, targets, bias=offset, temperature=temperature, chunk_elements=chunk_elements
    )
    expected = plain(hidden, weight, targets, offset, temperature)
    torch.testing.assert_close(result.logprobs, expected[0])
    torch.testing.assert_close(result.entropy, expected[1])
    ours = torch.autograd.grad(total(*result), wanted)
    theirs = torch.autograd.grad(total(*expected), wanted)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_is_that_of_finite_differences():
    hidden, weight, targets, offset = inputs(tokens=3, width=2, vocabulary=4)
    assert torch.autograd.gradcheck(
        lambda h, w, b: token_logprobs(h, w, targets, bias=b, temperature=0.7, chunk_elements=4),
        (hidden, weight, offset),
    )


def test_the_logits_are_never_whole():
    # 512 tokens x 4096 words = 2M logits; at most 8 rows of them at a time
    hidden = torch.randn(512, 8, requires_grad=True)
    weight = torch.randn(4096, 8, requires_grad=True)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Watch():
        result = token_logprobs(hidden, weight, torch.zeros(512, dtype=torch.int64), chunk_elements=8 * 4096)
        result.logprobs.sum().backward()
    assert max(sizes) <= 8 * 4096


def test_no_tokens_give_no_numbers():
    hidden, weight, _, _ = inputs(bias=False)
    result = token_logprobs(hidden[:0], weight, torch.zeros(0, dtype=torch.int64))
    assert result.logprobs.shape == (0,)
    result.logprobs.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_hundreds_of_chunks_add_up_in_half_precision():
    """In bfloat16 the sum of the chunks' gradients would stop growing: each is a two-hundredth of it."""
    generator = torch.Generator().manual_seed(0)
    hidden = (1 + 0.1 * torch.randn(2000, 4, generator=generator)).bfloat16().requires_grad_()
    weight = torch.randn(16, 4, generator=generator).bfloat16().requires_grad_()
    bias = torch.zeros(16, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(2000, dtype=torch.int64)
    token_logprobs(hidden, weight, targets, bias=bias, chunk_elements=16 * 4).logprobs.sum().backward()
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    token_logprobs(exact[0], exact[1], targets, bias=exact[2]).logprobs.sum().backward()
    for ours, theirs in zip((weight, bias), exact[1:], strict=True):
        assert ours.grad.dtype == torch.bfloat16
        assert float((ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()) < 0.01


@pytest.mark.parametrize(("tied", "matrices"), [(True, 1), (False, 2)])
def test_the_gradient_of_a_vocabulary_is_one_matrix_for_each_that_is_trained(tied, matrices):
    """A tied input embedding adds its rows to the output layer's gradient, without a matrix of its own."""
    shape = NewModelConfig(hidden_size=512, num_layers=1, intermediate_size=24, tie_word_embeddings=tied)
    policy = Policy(new_causal_lm(shape, vocab_size=50_000, eos_token_id=1, pad_token_id=0, seed=3))
    embedding = policy.model.get_input_embeddings()
    ids = np.arange(2, 14)
    (row,) = pack([TokenSequence("s", ids, np.arange(12) > 4)], 16)
    loss = policy(row).logprobs.sum()
    reset_peak(HOST)
    before = peak_bytes(HOST)
    loss.backward()
    assert peak_bytes(HOST) - before < (matrices + 0.5) * embedding.weight.nbytes
    ours = embedding.weight.grad.clone()
    assert ours.layout == torch.strided
    policy.zero_grad()
    logits = policy.model(input_ids=torch.from_numpy(ids)[None], packed_lengths=(12,), use_cache=False).logits[0]
    logits.log_softmax(-1)[row.predicting, row.targets].sum().backward()
    torch.testing.assert_close(ours, embedding.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding_id", [None, 3])
def test_a_tied_embedding_and_its_output_layer_have_the_gradient_of_torch_s_own(padding_id):
    weight, ids = torch.randn(9, 4, dtype=F64, requires_grad=True), tensor([3, 5, 3, 8, 5])
    targets = tensor([1, 3, 0, 8, 2])

    def ours(scale):
        tied = TiedGradient()
        hidden = tied_embedding(ids, weight, tied, padding_id=padding_id).mul(scale).tanh()
        return token_logprobs(hidden, weight, targets, tied=tied).logprobs

    def theirs(scale):
        hidden = torch.nn.functional.embedding(ids, weight, padding_idx=padding_id).mul(scale).tanh()
        return (hidden @ weight.T).log_softmax(1)[torch.arange(5), targets]

    torch.testing.assert_close(ours(1.0), theirs(1.0))
    gradients = [  # two passes in one backward, and one whose output layer has no part in the loss
        torch.autograd.grad(f(1.0).sum() + 3 * f(0.5).square().sum(), weight)[0] for f in (ours, theirs)
    ]
    torch.testing.assert_close(*gradients)
    embedded = tied_embedding(ids, weight, TiedGradient())
    torch.testing.assert_close(
        torch.autograd.grad(embedded.sum(), weight)[0],
        torch.autograd.grad(torch.nn.functional.embedding(ids, weight).sum(), weight)[0],
    )
