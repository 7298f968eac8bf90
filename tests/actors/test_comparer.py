"""The discriminator as workers: trained, saved, and comparing in batches."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from actors.comparer import Comparer, DiscriminatorTrainer, _compared, read_config
from actors.comparison import TooLong
from actors.scorer import ScoringConfig
from learner.discriminator import ComparisonPair, Reader, scores_of_texts
from learner.export import export_huggingface
from learner.model_config import ComputeConfig, NewModelConfig
from learner.models import new_causal_lm
from learner.scalar_config import DiscriminatorConfig
from learner.scalar_head import ScalarHeadModel
from problems.tokenizer import save_tokenizer, train_tokenizer

CONFIG = DiscriminatorConfig(epochs=1, max_tokens=32, batch_examples=4, row_tokens=256)


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that was trained from a language model, and then once more from itself."""
    folder = tmp_path_factory.mktemp("discriminator")
    save_tokenizer(train_tokenizer(["return a + b;\n"] * 5, 270), folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    shape = NewModelConfig(hidden_size=32, num_layers=1, head_dim=32, intermediate_size=32, max_position_embeddings=64)
    model = new_causal_lm(shape, vocab_size=len(tokenizer), eos_token_id=1, pad_token_id=0, seed=1)
    export_huggingface(model, folder / "base", tokenizer=tokenizer)
    pairs = [ComparisonPair(f"p{i}", f"n{i}", "add\n", f"a-{i}\n", f"a+{i}\n") for i in range(12)]
    trainer = DiscriminatorTrainer(CONFIG, threads=1)
    for base, output in (("base", "first"), ("first", "second")):
        too_long = ComparisonPair("p", "n", "x" * 40, "a", "b")
        done = trainer.train(str(folder / base), [*pairs, too_long], pairs[:3], str(folder / output))
        assert (done.num_too_long, done.held_out.num_pairs, done.progress.step) == (1, 3, 3)
        assert trainer.progress() == done.progress
    return str(folder / "second")


def test_comparisons_are_antisymmetric_zero_for_equals_and_do_not_depend_on_the_batch(discriminator: str) -> None:
    comparer = Comparer(discriminator, ScoringConfig(ComputeConfig(), 256, 1))
    one, other, same, long = comparer.score(
        [
            ("add\n", "a-1\n", "a+1\n"),
            ("add\n", "a+1\n", "a-1\n"),
            ("add\n", "a+1\n", "a+1\n"),
            ("add\n", "a+1\n" * 10, "a+1\n"),
        ]
    )
    assert isinstance(one, float)
    assert isinstance(other, float)
    assert one == pytest.approx(-other, abs=1e-6)
    assert 0 < abs(one) < 1
    model, texts = ScalarHeadModel.from_pretrained(discriminator).eval(), [("add\n", "a-1\n"), ("add\n", "a+1\n")]
    reader = Reader(AutoTokenizer.from_pretrained(discriminator), CONFIG)
    answer, reference = scores_of_texts(model, reader, texts, 256).tolist()
    assert one == pytest.approx(math.tanh(answer - reference), abs=1e-6)  # the better the answer, the higher
    assert same == pytest.approx(0, abs=1e-6)
    assert long == TooLong()
    (alone,) = comparer.score([("add\n", "a-1\n", "a+1\n")])  # the reference is remembered by now
    assert alone == pytest.approx(one, abs=1e-6)
    assert torch.get_num_threads() == 1


def test_the_higher_score_wins_by_hand() -> None:
    assert _compared(1.5, 1.0) == pytest.approx(0.462117, abs=1e-6)  # tanh(1/2)
    assert _compared(1.0, 1.5) == pytest.approx(-0.462117, abs=1e-6)
    assert _compared(math.nan, 1.0) == TooLong()


def test_a_folder_without_a_discriminator_is_refused(discriminator: str, tmp_path: Path) -> None:
    assert read_config(Path(discriminator)) == CONFIG
    with pytest.raises(ValueError, match="holds no discriminator"):
        read_config(tmp_path)
