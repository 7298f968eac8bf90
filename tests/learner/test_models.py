import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    DbrxConfig,
    DeepseekV3Config,
    MixtralConfig,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from learner.errors import ModelRefusedError, TokenizerMismatchError
from learner.export import export_huggingface, weight_buckets
from learner.model_config import NewModelConfig
from learner.models import (
    check_tokenizer,
    disable_dropout,
    load_causal_lm,
    load_tokenizer,
    new_causal_lm,
    num_parameters,
    refuse_unsupported,
)
from learner.policy import Policy, check_packed_path


def tokenizer(size, eos="<e>"):
    words = {"<p>": 0, "<e>": 1, **{f"w{i}": i for i in range(2, size)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<p>")), eos_token=eos, pad_token="<p>"
    )


def test_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    one, same, other = (
        new_causal_lm(NewModelConfig(hidden_size=64), vocab_size=40, eos_token_id=1, pad_token_id=0, seed=seed)
        for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), state)
    name = next(name for name, _ in one.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_an_export_loads_again_with_its_tokenizer(tiny_model, tmp_path):
    export_huggingface(tiny_model, tmp_path / "model", tokenizer=tokenizer(40))
    again = load_causal_lm(tmp_path / "model")
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert len(load_tokenizer(tmp_path / "model", again)) == 40
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_may_be_rounded_and_replaces_an_older_one(tiny_model, tmp_path):
    for dtype in (None, torch.bfloat16):
        export_huggingface(tiny_model, tmp_path / "model", dtype=dtype)
    assert load_causal_lm(tmp_path / "model", dtype=torch.bfloat16).dtype == torch.bfloat16
    name, parameter = next(iter(tiny_model.named_parameters()))
    loaded = load_causal_lm(tmp_path / "model").state_dict()[name]
    assert torch.equal(loaded, parameter.detach().bfloat16().float())
    # and it is loaded as what it is where nobody says as what
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto").dtype == torch.bfloat16
    assert next(tiny_model.parameters()).dtype == torch.float32
    assert str(tiny_model.config.dtype).endswith("float32")  # the live one's is as it was


def test_buckets_hold_every_weight_once_and_tied_ones_under_one_name(tiny_model):
    buckets = list(weight_buckets(tiny_model, 4096))
    names = [name for bucket in buckets for name, _ in bucket]
    assert len(buckets) > 1
    assert len(set(names)) == len(names)
    assert "lm_head.weight" not in names
    assert "model.embed_tokens.weight" in names
    assert sum(tensor.numel() for bucket in buckets for _, tensor in bucket) == num_parameters(tiny_model)
    for bucket in buckets:
        assert len(bucket) == 1 or sum(tensor.nbytes for _, tensor in bucket) <= 4096
        assert all(tensor.is_contiguous() and not tensor.requires_grad for _, tensor in bucket)


@pytest.mark.parametrize("config", [MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig, DeepseekV3Config, DbrxConfig])
def test_a_mixture_of_experts_is_refused_by_name(config):
    with pytest.raises(ModelRefusedError, match=f"'{config.model_type}' is a mixture of experts"):
        refuse_unsupported(config())


def test_dropout_within_a_model_s_own_functions_is_off_too():
    shape = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    plain = OPTForCausalLM(OPTConfig(**shape, word_embed_proj_dim=32, dropout=0.5)).train()
    ids = torch.arange(2, 20)[None]
    assert not torch.equal(plain(ids).logits, plain(ids).logits)
    disable_dropout(plain)
    assert torch.equal(plain(ids).logits, plain(ids).logits)


def test_a_model_that_changes_its_logits_is_refused():
    config = Qwen2Config()
    config.final_logit_softcapping = 30.0
    with pytest.raises(ModelRefusedError, match="final_logit_softcapping"):
        refuse_unsupported(config)


def test_trajectories_that_outrun_the_model_s_positions_are_refused_at_the_start(tiny_model):
    with pytest.raises(ModelRefusedError, match=r"128 positions \(max_position_embeddings\), fewer than the 129"):
        check_packed_path(Policy(tiny_model), max_tokens=129)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelRefusedError, match="nowhere"):
        load_causal_lm(tmp_path / "nowhere")


def test_tokenizers_that_do_not_belong_are_refused(tiny_model):
    check_tokenizer(tokenizer(40), tiny_model.config)
    with pytest.raises(TokenizerMismatchError, match="41 tokens, the model's vocab_size is 40"):
        check_tokenizer(tokenizer(41), tiny_model.config)
    with pytest.raises(TokenizerMismatchError, match="eos_token_id 5"):
        check_tokenizer(tokenizer(40, eos="w5"), tiny_model.config)
    with pytest.raises(TokenizerMismatchError, match="no end-of-sequence"):
        check_tokenizer(tokenizer(40, eos=None), tiny_model.config)


def test_dropout_is_switched_off_everywhere():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    disable_dropout(model)
    ones = torch.ones(1000, 2)
    assert torch.equal(model.train()(ones), model.eval()(ones))


def test_a_frozen_copy_stays_as_it_was(tiny_model):
    policy = Policy(tiny_model)
    copy = policy.frozen_copy()
    with torch.no_grad():
        next(policy.parameters()).add_(1.0)
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert not torch.equal(next(copy.parameters()), next(policy.parameters()))
