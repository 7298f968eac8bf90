"""Packed rows against the plain way: every sequence alone, through transformers' own attention."""

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learner.errors import EmptyCompletionError, TooLongError
from learner.models import for_packed_rows
from learner.packing import TokenSequence, as_sequence, assign, pack
from learner.policy import Policy, check_packed_path
from learner.trajectory import Trajectory

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 1,
}
FAMILIES = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=5)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1)
    ),
}


def sequences(lengths=(9, 4, 13, 6), seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for index, length in enumerate(lengths):
        trained = np.arange(length) >= rng.integers(1, length - 1)
        made.append(TokenSequence(f"s{index}", rng.integers(2, 40, length).astype(np.int64), trained))
    return made


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_a_row_knows_the_trained_tokens_of_each_of_its_sequences():
    examples = sequences()
    for row in pack(examples, 20):
        assert row.trained_lengths.tolist() == [examples[index].num_trained for index in row.members]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_one_by_one_in_loss_and_gradients(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().double().eval()
    examples = sequences()
    weights = torch.randn(sum(example.num_trained for example in examples), dtype=torch.float64)

    alone = []
    for example in examples:
        ids = torch.from_numpy(example.ids)
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        logprobs = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        alone.append(logprobs[torch.from_numpy(example.trained[1:])])
    (torch.cat(alone) * weights).sum().backward()
    expected = gradients(model)

    model.zero_grad()
    policy = Policy(for_packed_rows(model))
    check_packed_path(policy)
    rows = pack(examples, 20)
    assert len(rows) == 2
    packed = torch.zeros_like(weights)
    for row in rows:
        result = policy(row).logprobs
        packed[row.flat] = result.detach()
        (result * weights[row.flat]).sum().backward()

    torch.testing.assert_close(packed, torch.cat(alone).detach(), rtol=1e-9, atol=1e-11)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_what_stands_in_a_neighbour_is_inert(tiny_model):
    policy, examples = Policy(tiny_model), sequences()
    (row,) = pack(examples, 64)
    before = policy(row).logprobs
    other = np.array(examples[1].ids)
    other[:] = 39
    (changed,) = pack([examples[0], TokenSequence("x", other, examples[1].trained), *examples[2:]], 64)
    start, stop = examples[0].num_trained, examples[0].num_trained + examples[1].num_trained
    after = policy(changed).logprobs
    assert torch.equal(before[:start], after[:start])
    assert torch.equal(before[stop:], after[stop:])


def test_a_row_by_hand():
    #            p  p  a  a    p  b  b  b
    a = TokenSequence("a", np.array([2, 3, 4, 5]), np.array([False, False, True, True]))
    b = TokenSequence("b", np.array([6, 7, 8, 9]), np.array([False, True, True, True]))
    (row,) = pack([a, b], 8)
    assert row.input_ids.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert row.predicting.tolist() == [1, 2, 4, 5, 6]
    assert row.targets.tolist() == [4, 5, 7, 8, 9]
    assert row.flat.tolist() == [0, 1, 2, 3, 4]
    assert row.ends.tolist() == [3, 7]


def test_rows_cover_every_sequence_once_within_the_budget():
    rng = np.random.default_rng(1)
    examples = sequences(tuple(int(n) for n in rng.integers(3, 30, 50)))
    rows = pack(examples, 64)
    assert sorted(index for row in rows for index in row.members) == list(range(50))
    assert sorted(torch.cat([row.flat for row in rows]).tolist()) == list(range(sum(e.num_trained for e in examples)))
    loads = [row.num_tokens for row in rows]
    assert max(loads) <= 64
    assert len(rows) <= 1 + sum(loads) / 64 * 1.1
    assert min(loads) > 0.85 * max(loads)  # equal cost


def test_assignment_goes_longest_first_into_the_emptiest_row():
    assert assign([1, 2, 3, 4, 5], 8) == [(0, 1, 4), (2, 3)]  # 5 | 4, 3 to the 4, 2 to the 5, 1 to the first of two 7s
    assert assign([4, 4, 4], 8) == [(0, 2), (1,)]


def test_assignment_is_deterministic_and_handles_the_ends():
    assert assign([], 10) == []
    assert assign([10, 10], 10) == [(0,), (1,)]
    assert assign([5, 5, 5, 5], 10) == assign([5, 5, 5, 5], 10) == [(0, 2), (1, 3)]


def test_a_sequence_longer_than_a_row_is_an_error_that_names_it():
    with pytest.raises(TooLongError, match="trajectory s2: 13 tokens, limit 12"):
        pack(sequences(), 12)


def test_turns_are_laid_end_to_end(make_trajectory):
    first, second = make_trajectory(prompt=(2, 3), completion=(4, 5)), make_trajectory(prompt=(6,), completion=(7, 1))
    both = Trajectory(first.id, 0, (*first.turns, *second.turns))
    sequence = as_sequence(both)
    assert sequence.ids.tolist() == [2, 3, 4, 5, 6, 7, 1]
    assert sequence.trained.tolist() == [False, False, True, True, False, True, True]


def test_nothing_to_train_is_an_error_that_names_it(make_trajectory):
    for empty in (make_trajectory(completion=()), make_trajectory(loss_mask=(False, False, False))):
        with pytest.raises(EmptyCompletionError, match="run/ppo/0/p0/0/0"):
            as_sequence(empty)
    with pytest.raises(ValueError, match="empty prompt"):
        as_sequence(make_trajectory(prompt=()))
