"""The one-kernel path of packed attention. Without a GPU its kernel is replaced by a plain one of the same meaning."""

import pytest
import torch

from learner import attention, varlen
from learner.attention import rows_attention
from learner.varlen import fits_one_kernel, packed_varlen_attention

LENGTHS = (5, 1, 7, 3)
SHAPES = pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (6, 1)])
WINDOWS = pytest.mark.parametrize("window", [None, 1, 3, 7, 100])


def inputs(heads, key_heads, width=8, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    tokens = sum(LENGTHS)
    return [
        torch.randn(1, count, tokens, width, generator=generator, dtype=torch.float64)
        .to(device, dtype)
        .requires_grad_()
        for count in (heads, key_heads, key_heads)
    ]


def plain_kernel(query, key, value, bounds, key_bounds, longest, key_longest, *, scale=None, window_size=(-1, -1),
                 enable_gqa=False):  # fmt: skip
    """What torch documents: [T, H, D]; query i sees keys [i - left, i + right] of its own sequence, -1 is no bound."""
    assert (longest, key_longest) == (max(LENGTHS),) * 2
    assert bounds.dtype == torch.int32
    assert torch.equal(bounds, key_bounds)
    left, right = window_size
    assert enable_gqa or query.shape[1] == key.shape[1]
    key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    owner = torch.bucketize(torch.arange(len(query)), bounds[1:], right=True)
    ahead = torch.arange(len(query))[None, :] - torch.arange(len(query))[:, None]  # key minus query
    seen = (owner[:, None] == owner[None, :]) & (ahead <= (len(query) if right < 0 else right))
    seen &= ahead >= -(len(query) if left < 0 else left)
    scores = torch.einsum("qhd,khd->hqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)


@pytest.mark.parametrize("knows_groups", [True, False], ids=["torch 2.13", "torch 2.11"])
@pytest.mark.parametrize(
    ("causal", "window"), [(True, None), (True, 1), (True, 3), (True, 7), (True, 100), (False, None)]
)
@SHAPES
def test_what_the_kernel_is_given_means_what_the_loop_computes(
    monkeypatch, heads, key_heads, window, causal, knows_groups
):
    monkeypatch.setattr(varlen.varlen, "varlen_attn", plain_kernel)
    monkeypatch.setattr(varlen, "_KNOWS_GROUPS", knows_groups)
    ours, loop = inputs(heads, key_heads), inputs(heads, key_heads)
    settings = {"lengths": LENGTHS, "scale": 0.3, "sliding_window": window, "causal": causal}
    one, many = packed_varlen_attention(*ours, **settings), rows_attention(*loop, **settings)
    torch.testing.assert_close(one, many)
    up = torch.randn_like(many)
    one.backward(up)
    many.backward(up)
    for x, y in zip(ours, loop, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@SHAPES
@WINDOWS
def test_torch_s_own_function_takes_the_call(heads, key_heads, window):
    """On tensors without values: signature, shapes and dtypes; no kernel runs."""
    rows = [x.detach() for x in inputs(heads, key_heads, dtype=torch.bfloat16, device="meta")]
    output = packed_varlen_attention(*rows, lengths=LENGTHS, scale=None, sliding_window=window)
    assert output.shape == (1, sum(LENGTHS), heads, 8)
    assert output.dtype == torch.bfloat16


class OnGpu(torch.Tensor):
    """Says that it is there."""

    is_cuda = True
    device = torch.device("cuda")


def pretended(width=64, dtype=torch.bfloat16):
    return torch.empty(1, 4, 9, width, dtype=dtype).as_subclass(OnGpu)


@pytest.mark.parametrize(
    ("query", "value", "dropout", "capability", "fits"),
    [
        (pretended(), pretended(), 0.0, (9, 0), True),
        (pretended(dtype=torch.float32), pretended(), 0.0, (9, 0), False),
        (torch.empty(1, 4, 9, 64, dtype=torch.bfloat16), pretended(), 0.0, (9, 0), False),
        (pretended(), pretended(), 0.1, (9, 0), False),
        (pretended(width=68), pretended(width=68), 0.0, (9, 0), False),
        (pretended(width=512), pretended(width=512), 0.0, (9, 0), False),
        (pretended(), pretended(width=32), 0.0, (9, 0), False),
        (pretended(), pretended(), 0.0, (7, 5), False),
    ],
    ids=["all", "float32", "cpu", "dropout", "odd width", "too wide", "two widths", "too old"],
)
def test_it_is_taken_where_the_kernel_can_be(monkeypatch, query, value, dropout, capability, fits):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert fits_one_kernel(query, value, dropout) == fits


def test_under_autocast_float32_from_the_rotary_embedding_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    query = pretended(dtype=torch.float32)
    assert not fits_one_kernel(query, query, 0.0)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: {"cuda": torch.bfloat16}[kind])
    assert fits_one_kernel(query, query, 0.0)


def test_packed_attention_goes_by_it(monkeypatch):
    monkeypatch.setattr(attention, "fits_one_kernel", lambda *_: True)
    monkeypatch.setattr(varlen.varlen, "varlen_attn", plain_kernel)
    rows = inputs(4, 2)
    calls = []
    monkeypatch.setattr(
        attention, "packed_varlen_attention", lambda *a, **k: calls.append(k) or packed_varlen_attention(*a, **k)
    )
    rows_attention(*rows, lengths=LENGTHS, scale=None, sliding_window=3)
    assert calls == [{"lengths": LENGTHS, "scale": None, "sliding_window": 3, "causal": True}]


@pytest.mark.gpu
@SHAPES
@pytest.mark.parametrize("window", [None, 3])
def test_on_a_gpu_the_kernel_computes_what_the_loop_does(heads, key_heads, window):
    """Not yet run: no machine with a GPU was at hand."""
    ours = inputs(heads, key_heads, width=64, dtype=torch.bfloat16, device="cuda")
    loop = [x.detach().clone().requires_grad_() for x in ours]
    settings = {"lengths": LENGTHS, "scale": None, "sliding_window": window}
    assert fits_one_kernel(ours[0], ours[2], 0.0)
    one = rows_attention(*ours, **settings)
    many = rows_attention(*(x.float() for x in loop), **settings)
    torch.testing.assert_close(one.float(), many, rtol=2e-2, atol=2e-2)
    up = torch.randn_like(many)
    one.backward(up.bfloat16())
    many.backward(up)
    for x, y in zip(ours, loop, strict=True):
        torch.testing.assert_close(x.grad.float(), y.grad.float(), rtol=5e-2, atol=5e-2)
