"""The phrase tokenizer: exact, deterministic, aligned with lines, and read by Hugging Face."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from problems.prompting import PromptStyle, TokenBytes, render_prompt
from problems.synthetic import CorpusConfig, SyntheticConfig, corpus, synthetic_problems
from problems.tokenizer import EOS_ID, EOS_TOKEN, PAD_ID, PAD_TOKEN, save_tokenizer, train_tokenizer

TEXTS = [
    prompt + completion
    for prompt, completion in corpus(CorpusConfig(count=1500, languages={"python": 2.0, "java": 1.0}))
]
FOREIGN = ["", "é ü 漢字 🙂\r\n\tx\r", "a\x00\x7f\u2028", 'def f(xs):\n    """keep 12, then 7."""\n', "  \n\n   42\n"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS), path)
    return path


@pytest.fixture(scope="module")
def hugging_face(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_vocabulary_has_the_size_asked_for_and_special_tokens_first(folder: Path):
    tokenizer = train_tokenizer(TEXTS)
    assert tokenizer.get_vocab_size() == 1024
    assert (tokenizer.token_to_id(PAD_TOKEN), tokenizer.token_to_id(EOS_TOKEN)) == (PAD_ID, EOS_ID)
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == EOS_TOKEN


def test_training_is_the_same_in_another_process():
    command = (
        "import hashlib\n"
        "from problems.synthetic import CorpusConfig, corpus\n"
        "from problems.tokenizer import train_tokenizer\n"
        "texts = [p + c for p, c in corpus(CorpusConfig(count=1500, languages={'python': 2.0, 'java': 1.0}))]\n"
        "print(hashlib.sha256(train_tokenizer(texts).to_str().encode()).hexdigest())\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ | {"PYTHONHASHSEED": "5", "RAYON_NUM_THREADS": "3"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert printed.strip() == hashlib.sha256(train_tokenizer(TEXTS).to_str().encode()).hexdigest()


@pytest.mark.parametrize("text", FOREIGN + TEXTS[:20])
def test_decoding_gives_back_every_text_and_token_bytes_agree(text: str, hugging_face):
    ids = hugging_face.encode(text, add_special_tokens=False)
    assert hugging_face.decode(ids) == text
    assert TokenBytes.of(hugging_face).decode(ids) == text.encode()


def test_every_byte_has_a_token(hugging_face):
    token_bytes = TokenBytes.of(hugging_face)
    pieces = set(token_bytes.pieces(range(token_bytes.vocab_size)))
    assert {bytes([byte]) for byte in range(256)} <= pieces


def test_newlines_and_digits_are_tokens_of_their_own(hugging_face):
    token_bytes = TokenBytes.of(hugging_face)
    for piece in token_bytes.pieces(range(token_bytes.vocab_size)):
        assert piece == b"\n" or b"\n" not in piece
        assert len(piece) == 1 or not any(byte in b"0123456789" for byte in piece)


def test_special_tokens_stand_for_no_bytes_and_end_no_text(hugging_face):
    ids = hugging_face.encode("    return n\n", add_special_tokens=False)
    token_bytes = TokenBytes.of(hugging_face)
    assert token_bytes.decode([*ids, EOS_ID, PAD_ID]) == b"    return n\n"
    assert token_bytes.pieces([EOS_ID, 999_999]) == [b"", b""]
    assert hugging_face.eos_token_id == EOS_ID
    assert hugging_face.pad_token_id == PAD_ID
    assert hugging_face.decode([*ids, EOS_ID], skip_special_tokens=True) == "    return n\n"


def test_encoding_of_prompt_and_completion_joins_at_the_line(hugging_face):
    for problem in synthetic_problems(SyntheticConfig(count=20)):
        prompt = hugging_face.encode(problem.prompt)
        completion = hugging_face.encode(problem.reference_completions[0])
        assert hugging_face.encode(problem.references[0]) == prompt + completion


def test_programs_are_short_in_tokens():
    texts = [prompt + completion for prompt, completion in corpus(CorpusConfig(count=3000))]
    tokenizer = train_tokenizer(texts)
    problems = synthetic_problems(SyntheticConfig(count=200))
    completions = [len(tokenizer.encode(problem.reference_completions[0]).ids) for problem in problems]
    assert sum(completions) / len(completions) < 32
    assert max(completions) <= 64


def test_vocabulary_too_small_for_all_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size must be at least 258"):
        train_tokenizer(TEXTS, 257)


def test_folder_with_a_model_config_loads_the_same_tokenizer(folder: Path, tmp_path: Path):
    from transformers import AutoTokenizer, LlamaConfig

    save_tokenizer(train_tokenizer(TEXTS), tmp_path)
    # Llama, not Qwen2: for that model type transformers puts Qwen's own pre-tokenizer in the place of ours, silently.
    LlamaConfig(vocab_size=1024, hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    beside_model, alone = AutoTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(folder)
    for text in FOREIGN + TEXTS[:20]:
        assert beside_model.encode(text) == alone.encode(text)
        assert beside_model.decode(beside_model.encode(text)) == text


class FakeChat:
    """The renderer's view of a chat tokenizer: it remembers what it was asked."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return list(text.encode())

    def apply_chat_template(self, conversation, **kwargs) -> list[int]:
        assert kwargs == {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
        return list("|".join(f"{turn['role']}:{turn['content']}" for turn in conversation).encode())


def test_prompt_is_rendered_plain_or_by_the_chat_template():
    [problem] = synthetic_problems(SyntheticConfig(count=1))
    plain = render_prompt(problem.prompt, PromptStyle("plain", (1,)), FakeChat())
    assert bytes(plain).decode() == problem.prompt
    chat = render_prompt(problem.prompt, PromptStyle("chat", (1,), system="be brief"), FakeChat())
    assert bytes(chat).decode() == f"system:be brief|user:{problem.prompt}"
    with pytest.raises(ValueError, match="'html'"):
        render_prompt(problem.prompt, PromptStyle("html", (1,)), FakeChat())


def test_fingerprint_changes_with_every_field_of_the_style():
    styles = [
        PromptStyle("plain", (1,)),
        PromptStyle("chat", (1,)),
        PromptStyle("plain", (1, 2)),
        PromptStyle("plain", (1,), system="x"),
        PromptStyle("plain", (1,), stop=("x",)),
    ]
    assert len({style.fingerprint() for style in styles}) == 5
    assert PromptStyle("plain", (1,)).fingerprint() == styles[0].fingerprint()


def test_added_tokens_stand_for_their_text_and_sentencepiece_bytes_for_themselves():
    byte_level = TokenBytes({"Ġx": 0, "Ċ": 1, "<think é>": 2, "<end>": 3, "Ã": 4}, {3}, {2, 3})
    assert byte_level.pieces([0, 1, 2, 3, 4]) == [b" x", b"\n", "<think é>".encode(), b"", b"\xc3"]
    sentence_piece = TokenBytes({"\u2581x": 0, "<0x0A>": 1, "</s>": 2, "é": 3}, {2})
    assert sentence_piece.pieces([0, 1, 2, 3]) == [b" x", b"\n", b"", "é".encode()]
