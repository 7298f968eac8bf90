"""``crucible rerank``: a file of programs, ranked by a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cluster.cli import app
from learner.model_config import NewModelConfig
from learner.models import new_causal_lm
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import scored_sequence, scores_of
from problems.tokenizer import save_tokenizer, train_tokenizer

PROMPT = "def f(x):\n"
PROGRAMS = ["    return x\n", "    return x + 1\n", "    return x\n", "    pass\n"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reranker of random weights with a head that is not zero."""
    folder = tmp_path_factory.mktemp("ranker")
    tokenizer = train_tokenizer([PROMPT + program for program in PROGRAMS] * 5, 300)
    config = NewModelConfig(hidden_size=32, head_dim=32, intermediate_size=32, num_layers=1)
    causal = new_causal_lm(config, vocab_size=300, eos_token_id=0, pad_token_id=None, seed=1)
    ranker = ScalarHeadModel.from_causal_lm(causal)
    torch.manual_seed(0)
    torch.nn.init.normal_(ranker.score.weight)
    ranker.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_tokens=128)
    return folder


def ranked(model: Path, tmp_path: Path, text: str, *more: str):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(text)
    arguments = ["rerank", "--model", str(model), "--programs", str(source), "-o", str(output), *more]
    return CliRunner().invoke(app, arguments), output


def test_scores_are_the_models_own_and_equal_ones_keep_their_order(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    line = {"prompt": PROMPT, "programs": PROGRAMS, "id": 7}
    done, output = ranked(model, tmp_path, json.dumps(line) + "\n\n" + json.dumps(line | {"id": 8}) + "\n")
    assert done.exit_code == 0, done.output
    first, second = (json.loads(row) for row in output.read_text().splitlines())
    assert (first["id"], second["id"]) == (7, 8)
    assert first["scores"] == second["scores"]

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    ranker = ScalarHeadModel.from_pretrained(model)
    for program, score in zip(PROGRAMS, first["scores"], strict=True):
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in (PROMPT, program)]
        sequence = scored_sequence("x", ids[0], [*ids[1], tokenizer.eos_token_id])
        assert score == pytest.approx(float(scores_of(ranker, [sequence], 128)[0]), abs=1e-5)
    ranking = first["ranking"]
    assert sorted(ranking) == [0, 1, 2, 3]
    assert (np.diff([first["scores"][place] for place in ranking]) <= 0).all()
    assert ranking.index(2) == ranking.index(0) + 1  # the same program twice
    assert len(set(first["scores"])) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"prompt": "a", "programs": ["b"]}\n{"prompt": 3, "programs": ["b"]}',
            "line 2: prompt: Input should be a valid",
        ),
        ('{"prompt": "a"}', "line 1: programs: Field required"),
        ('{"prompt": "a", "programs": []}', "line 1: programs: List should have at least 1 item"),
        ("no json", "line 1: the line: Invalid JSON"),
        ('{"prompt": "", "programs": ["b"]}', "line 1: example answer 0: an empty prompt"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_written(model: Path, tmp_path: Path, text: str, says: str) -> None:
    done, output = ranked(model, tmp_path, text)
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())
    assert not output.exists()


def test_a_reranker_that_prefers_nothing_is_refused_and_nothing_is_written(model: Path, tmp_path: Path) -> None:
    ranker = ScalarHeadModel.from_pretrained(model)
    torch.nn.init.zeros_(ranker.score.weight)
    alike = tmp_path / "alike"
    shutil.copytree(model, alike)
    ranker.save_pretrained(alike)
    done, output = ranked(alike, tmp_path, json.dumps({"prompt": PROMPT, "programs": PROGRAMS}))
    assert done.exit_code == 2
    assert "gives all 3 answers the score 0" in " ".join(done.output.split())
    assert not output.exists()
    done, output = ranked(alike, tmp_path, json.dumps({"prompt": PROMPT, "programs": PROGRAMS[:1] * 2}))
    assert done.exit_code == 0, done.output  # the same program twice is no choice


def test_what_is_no_reranker_is_refused(tmp_path: Path) -> None:
    done, _ = ranked(tmp_path, tmp_path, "{}")
    assert done.exit_code == 2
    assert "holds no scalar-head model" in " ".join(done.output.split())


def test_a_model_that_reads_lines_or_texts_is_no_reranker_of_answers(model: Path, tmp_path: Path) -> None:
    by_line, discriminator = tmp_path / "prm", tmp_path / "discriminator"
    for folder in (by_line, discriminator):
        shutil.copytree(model, folder)
    (by_line / "scalar_head.json").write_text('{"reads": "line_ends"}')
    (discriminator / "discriminator.json").write_text("{}")
    for folder, says in ((by_line, "the end of each line"), (discriminator, "no scalar-head model of answers")):
        done, output = ranked(folder, tmp_path, '{"prompt": "a", "programs": ["b"]}')
        assert done.exit_code == 2
        assert says in " ".join(done.output.split())
        assert not output.exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a", "programs": ["b"]}')
    for output, says in ((tmp_path, "is a folder"), (tmp_path / "absent" / "out.jsonl", "cannot be written")):
        arguments = ["rerank", "--model", str(model), "--programs", str(source), "-o", str(output)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1
        assert says in " ".join(done.output.split())


def test_a_line_ends_where_json_lines_end(model: Path, tmp_path: Path) -> None:
    line = json.dumps({"prompt": PROMPT, "programs": PROGRAMS, "note": "a\u2028b"}, ensure_ascii=False)
    done, output = ranked(model, tmp_path, line)
    assert done.exit_code == 0, done.output
    assert json.loads(output.read_text())["note"] == "a\u2028b"
