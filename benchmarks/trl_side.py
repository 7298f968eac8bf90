"""TRL's side of `benchmarks.learner trl`: runs in an environment with TRL 0.24 and nothing of this repository."""

from __future__ import annotations

import json
import os
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import PPOConfig, PPOTrainer
from trl.trainer import ppo_trainer

EOS = 1


class StepTimes(TrainerCallback):
    """CPU seconds between the ends of two steps."""

    def __init__(self) -> None:
        self.marks = [time.process_time()]

    def on_log(self, *_: object, **__: object) -> None:
        self.marks.append(time.process_time())


def set_lengths(lengths: list[list[int]]) -> None:
    """Each response of a step ends where it is told to, with its end token; none is sampled beyond the longest."""
    sample, remaining = ppo_trainer.batch_generation, iter(lengths)

    def sample_and_end(model, queries, batch_size, pad_id, config):
        step = next(remaining)
        config.max_new_tokens = max(step)
        tokens, logits = sample(model, queries, batch_size, pad_id, config)
        responses = tokens[:, queries.shape[1] :]
        responses[responses <= EOS] = EOS + 1
        for response, length in zip(responses, step, strict=True):
            response[length - 1] = EOS
        return tokens, logits

    ppo_trainer.batch_generation = sample_and_end


def main() -> None:
    side = json.loads(os.environ["BENCHMARK_SIDE"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {
        "vocab_size": side["vocabulary"],
        "hidden_size": side["hidden_size"],
        "num_hidden_layers": side["num_layers"],
        "num_attention_heads": side["hidden_size"] // side["head_dim"],
        "num_key_value_heads": side["hidden_size"] // side["head_dim"],
        "intermediate_size": side["intermediate_size"],
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    policy, reference = LlamaForCausalLM(LlamaConfig(**shape)), LlamaForCausalLM(LlamaConfig(**shape))
    reference.load_state_dict(policy.state_dict())
    critic = LlamaForSequenceClassification(LlamaConfig(**shape, num_labels=1))
    # the reward must be a module that scores hidden states: the smallest there is
    tiny = {**shape, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    reward = LlamaForSequenceClassification(LlamaConfig(**{**tiny, "num_key_value_heads": 1}, num_labels=1))
    words = {"<pad>": 0, "<eos>": EOS, **{f"w{i}": i for i in range(2, side["vocabulary"])}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )
    prompts = torch.randint(2, side["vocabulary"], (side["samples"] * side["steps"], side["prompt"]))
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        settings = PPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
            per_device_train_batch_size=side["samples"], gradient_accumulation_steps=1, num_mini_batches=1,
            local_rollout_forward_batch_size=side["samples"], num_ppo_epochs=side["epochs"],
            total_episodes=side["samples"] * side["steps"], response_length=max(map(max, side["lengths"])),
            temperature=1.0, kl_coef=0.05, num_sample_generations=0, learning_rate=3e-6, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = PPOTrainer(
            args=settings, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
            value_model=critic, train_dataset=Dataset.from_dict({"input_ids": prompts.tolist()}), callbacks=[times],
        )  # fmt: skip
        trainer.stop_token_id = EOS  # for the truncation alone: nothing that is sampled ends a response early
        set_lengths(side["lengths"])
        trainer.train()
    steps = [end - begin for begin, end in zip(times.marks, times.marks[1:], strict=False)]
    print(json.dumps({"cpu_s": steps[: side["steps"]]}))


if __name__ == "__main__":
    main()
