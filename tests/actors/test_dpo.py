"""A dpo stage's worker, in this process: it trains, judges by problems held out, and writes a model to sample from."""

from pathlib import Path

import pytest
import torch

from actors.dpo import DPOTrainer
from learner.export import export_huggingface
from learner.model_config import NewModelConfig, OptimizerConfig
from learner.models import load_causal_lm, new_causal_lm
from learner.preferences import PreferencePair, ScoredAnswer
from learner.scalar_config import DPOConfig
from problems.tokenizer import save_tokenizer, train_tokenizer


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    from transformers import AutoTokenizer

    save_tokenizer(train_tokenizer(["return x + 1"] * 20, 300), tmp_path / "tokenizer", max_tokens=64)
    shape = NewModelConfig(hidden_size=16, num_layers=1, head_dim=8, intermediate_size=24)
    model = new_causal_lm(shape, vocab_size=300, eos_token_id=1, pad_token_id=0, seed=3)
    export_huggingface(model, tmp_path / "policy", tokenizer=AutoTokenizer.from_pretrained(tmp_path / "tokenizer"))
    return tmp_path / "policy"


def pair(index: int) -> PreferencePair:
    """Good answers hold token 50, bad ones token 70."""
    prompt = (10 + index % 7, 20)
    answers = [
        ScoredAnswer(f"p{index}", f"p{index}/{token}", prompt, (30 + index % 5, token, 1), score, bool(score))
        for token, score in ((50, 1.0), (70, 0.0))
    ]
    return PreferencePair(*answers)


def test_a_policy_is_trained_judged_and_written(policy: Path, tmp_path: Path) -> None:
    config = DPOConfig(epochs=3, batch_examples=8, optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2))
    trainer = DPOTrainer(config, threads=1)
    assert trainer.progress() is None
    progress, figures = trainer.train(
        str(policy), [pair(i) for i in range(80)], [pair(i) for i in range(80, 100)], str(tmp_path / "out")
    )
    assert progress == trainer.progress()
    assert progress.step == progress.num_steps == 30
    assert figures.num_pairs == 20
    assert figures.accuracy == 1.0
    before, after = (load_causal_lm(folder) for folder in (policy, tmp_path / "out"))
    assert not torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    assert (tmp_path / "out" / "tokenizer.json").exists()
