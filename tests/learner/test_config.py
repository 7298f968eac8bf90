import pytest
from pydantic import ValidationError

from learner.config import GAE, Correction, GroupBaseline, KLConfig, OverlongPenalty, PPOConfig, SFTConfig
from learner.filter_config import BestOfN, BestWorst, RandomK
from learner.model_config import NewModelConfig, Settings


def every_settings_class(base=Settings):
    for kind in base.__subclasses__():
        yield kind
        yield from every_settings_class(kind)


def test_plain_data_and_back():
    config = PPOConfig(filter=BestWorst(), advantage=GroupBaseline(baseline="grpo"))
    assert PPOConfig.model_validate(config.model_dump(mode="json")) == config
    parsed = PPOConfig.model_validate(
        {"filter": {"kind": "random_k", "k": 3}, "advantage": {"kind": "gae", "lam": 1.0}}
    )
    assert parsed.filter == RandomK(k=3)
    assert parsed.advantage == GAE(lam=1.0)


def test_every_field_says_what_it_means():
    undocumented = [
        f"{kind.__name__}.{name}"
        for kind in every_settings_class()
        for name, field in kind.model_fields.items()
        if not field.description and name != "kind"
    ]
    assert undocumented == []


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: PPOConfig.model_validate({"clip": 0.2}), "clip"),
        (lambda: PPOConfig.model_validate({"filter": {"kind": "best"}}), "filter"),
        (lambda: PPOConfig(row_tokens=100, max_trajectory_tokens=200), "max_trajectory_tokens 200 is more"),
        (lambda: PPOConfig(filter=BestOfN(), advantage=GroupBaseline(over="kept")), "compares one sample with itself"),
        (lambda: KLConfig(coefficient=float("nan")), "coefficient"),
        (lambda: SFTConfig(), "max_steps and max_seconds"),
        (lambda: SFTConfig(max_steps=1, row_tokens=100, max_example_tokens=101), "max_example_tokens 101 is more"),
        (lambda: NewModelConfig(hidden_size=100, head_dim=64), "not a multiple of head_dim"),
        (lambda: NewModelConfig(hidden_size=192, head_dim=64, num_key_value_heads=2), "not a multiple"),
    ],
)
def test_wrong_settings_are_refused_by_name(make, complaint):
    with pytest.raises(ValidationError, match=complaint):
        make()


def test_a_divergence_in_the_loss_is_k3_unless_another_is_named():
    assert (KLConfig().estimator, KLConfig(place="loss").estimator) == ("k1", "k3")
    assert {KLConfig(place="loss", estimator=name).estimator for name in ("k1", "k2", "k3")} == {"k1", "k2", "k3"}


def test_settings_can_t_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        PPOConfig().seed = 3


def test_variants_that_do_not_go_together_are_refused():
    with pytest.raises(ValidationError, match="dual_clip belongs to policy_loss 'clipped', not to 'gspo'"):
        PPOConfig(policy_loss="gspo", dual_clip=3.0)
    with pytest.raises(ValidationError, match=r"overlong\.buffer_tokens 20 is not below overlong\.max_tokens 20"):
        OverlongPenalty(max_tokens=20, buffer_tokens=20)


def test_the_likelihood_refuses_what_it_would_not_look_at():
    raft = {"policy_loss": "likelihood", "filter": BestOfN(), "advantage": GroupBaseline(baseline="none")}
    anchored = KLConfig(place="loss", estimator="k2")
    assert PPOConfig(**raft, kl=anchored).policy_loss == "likelihood"
    with pytest.raises(ValidationError, match="has no advantages"):
        PPOConfig(**{**raft, "advantage": GAE()}, kl=anchored)
    with pytest.raises(ValidationError, match="looks at no reward"):
        PPOConfig(**raft)
    with pytest.raises(ValidationError, match="leave correction out"):
        PPOConfig(**raft, kl=anchored, correction=Correction())
