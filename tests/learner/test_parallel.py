"""Two ranks (gloo, FSDP2) against one: the same numbers to rounding."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from learner.config import Correction
from learner.models import load_causal_lm
from learner.packing import assign
from learner.parallel import SINGLE, Ranks, decoder_layers, shard, to_be_sharded
from learner.scalar_head import ScalarHeadModel

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("two_ranks.py")
FIGURES = SCRIPT.with_name("figures_at_a_fixed_seed.json")
TIME_LIMIT_S = 270  # of a machine that is busy; pytest itself gives up at 300

_spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
two_ranks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(two_ranks)


def run_two(folder, other_checkpoint):
    """Two processes train together; what the first wrote."""
    folder.mkdir()
    command = [sys.executable, str(SCRIPT)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([*command, str(rank), str(folder), str(other_checkpoint)], env=environment)
        for rank in range(2)
    ]
    try:
        assert [process.wait(TIME_LIMIT_S) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return torch.load(folder / "results.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.set_num_threads(1)
    one = two_ranks.train(folder / "one", SINGLE)
    return folder, one, run_two(folder / "two", folder / "one" / "checkpoint")


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_two_ranks_train_the_same_weights_as_one(results):
    _, one, two = results
    same(one["weights"], two["weights"])


def test_in_double_precision_two_ranks_and_one_differ_in_its_last_digits_only(results):
    """So that what differs in single precision is its rounding, which an optimizer magnifies."""
    one, two = two_ranks.in_double(SINGLE), results[2]["double"]
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(two[name], tensor, rtol=1e-9, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}")


def test_two_ranks_report_the_same_figures_as_one(results):
    _, one, two = results
    assert one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        if not name.startswith(("learner/time", "learner/tokens_per_s", "learner/memory")):
            assert two["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_a_checkpoint_of_one_rank_goes_on_on_two_and_back(results):
    folder, one, two = results
    same(one["weights"], two["resumed"])
    same(one["weights"], two_ranks.go_on(folder / "two" / "checkpoint", SINGLE))


def test_on_as_many_ranks_a_checkpoint_goes_on_bit_for_bit(results):
    two = results[2]
    for name, tensor in two["weights"].items():
        assert torch.equal(two["again"][name], tensor), name
    whole, resumed = two["sft"]["figures"]
    assert resumed == whole


def test_the_export_of_two_ranks_is_whole(results):
    folder, _, two = results
    state = load_causal_lm(folder / "two" / "export").state_dict()
    for name, tensor in two["weights"].items():
        assert torch.equal(state[name], tensor), name


def test_two_ranks_fine_tune_as_one_and_stop_together(results):
    folder, _, two = results
    one = two_ranks.fine_tune(folder / "one", SINGLE)
    same(one["weights"], two["sft"]["weights"])
    for ours, theirs in zip(one["figures"], two["sft"]["figures"], strict=True):
        assert theirs[0] == pytest.approx(ours[0], rel=1e-4)
        assert theirs[1] == ours[1]
    assert one["figures"][0] == one["figures"][1]  # resumed: bit for bit
    state = load_causal_lm(folder / "two" / "sft-export").state_dict()
    for name, tensor in two["sft"]["weights"].items():
        assert torch.equal(state[name], tensor), name


def test_two_ranks_train_the_same_adapter_as_one(results):
    same(two_ranks.adapt(SINGLE), results[2]["lora"])


def test_two_ranks_undo_a_step_of_a_gradient_that_is_not_finite(results):
    """Before its updates the critic and, under a correction, the policy make a pass without a backward pass."""
    of_one = [two_ranks.undo(SINGLE, correction) for correction in (None, Correction())]
    assert results[2]["undone"] == of_one == [{"named": ("run/ppo/0/p2/1/0",), "changed": []}] * 2


def test_two_ranks_train_the_same_reward_model_as_one(results):
    folder, _, two = results
    one = two_ranks.score_pairs(folder / "one", SINGLE)
    torch.testing.assert_close(two["reward"]["scores"], one["scores"], rtol=1e-4, atol=1e-5)
    assert two["reward"]["loss"] == pytest.approx(one["loss"], rel=1e-4)
    written = [ScalarHeadModel.from_pretrained(folder / which / "reward").state_dict() for which in ("one", "two")]
    same(*written)


def test_a_copy_to_be_sharded_holds_no_values_and_keeps_its_ties(tiny_model):
    """Its values come from the whole one shard by shard, so that no rank holds the model twice."""
    hollow = to_be_sharded(tiny_model, Ranks(0, 2, mesh=create_autospec(DeviceMesh, instance=True)))
    assert all(parameter.is_meta for parameter in hollow.parameters())
    assert hollow.get_output_embeddings().weight is hollow.get_input_embeddings().weight
    assert [name for name, _ in hollow.named_parameters()] == [name for name, _ in tiny_model.named_parameters()]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(hollow.buffers(), tiny_model.buffers(), strict=True))
    assert not any(parameter.is_meta for parameter in to_be_sharded(tiny_model, SINGLE).parameters())


def test_sharding_a_whole_model_copies_none_of_it(tiny_model, monkeypatch):
    """A copy beside the whole model, on every rank, would be the largest thing of the whole run."""
    monkeypatch.setattr("learner.parallel.fully_shard", lambda *_, **__: None)
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor, **_: pytest.fail(f"{tuple(tensor.shape)} was copied"))
    shard(tiny_model, Ranks(0, 2, mesh=create_autospec(DeviceMesh, instance=True)))


def test_rows_come_in_multiples_of_the_ranks():
    for costs in ([5] * 7, [9, 1, 1, 1, 1], [10] * 4):
        rows = assign(costs, 10, multiple_of=2)
        assert len(rows) % 2 == 0
        assert sorted(index for row in rows for index in row) == list(range(len(costs)))
    assert assign([10] * 3, 10, multiple_of=2) == [(0,), (1,), (2,)]  # nothing to give to the second rank


def test_one_rank_is_left_as_it_is(tiny_model):
    kinds = [type(module) for module in tiny_model.modules()]
    shard(tiny_model, SINGLE)
    assert [type(module) for module in tiny_model.modules()] == kinds
    assert len(decoder_layers(tiny_model)) == 2
    assert Ranks.joined() == SINGLE


def test_figures_at_a_fixed_seed_are_those_of_every_version_before():
    """Guards refactors: whoever changes these numbers changes what is computed, and says so.

    On a kind of machine whose figures stand in the file they are the same to the last bit; elsewhere, where other
    kernels sum in another order, to rounding. A new kind: add what the failed comparison prints.
    """
    trained = two_ranks.learner(SINGLE)
    flat = [trajectory for group in two_ranks.batch(100) for trajectory in group]
    metrics = trained.warm_up_critic(flat, flat) | trained.step(two_ranks.batch(0)).metrics
    known = json.loads(FIGURES.read_text())
    of_any = next(iter(known.values()))
    figures = {name: float.hex(metrics[name]) for name in of_any}
    assert {name: metrics[name] for name in of_any} == pytest.approx(
        {name: float.fromhex(value) for name, value in of_any.items()}, rel=1e-4
    )
    assert known.get(this_kind_of_machine(), figures) == figures, this_kind_of_machine()


def this_kind_of_machine():
    """What decides the last bits: torch's release, its instruction set, and the processor that MKL dispatches by."""
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {processor and processor[1]}"
