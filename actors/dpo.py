"""One dpo stage's trainer as a worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.training import TrainingWorker
from learner.dpo import DPOFigures, judge_dpo, train_dpo
from learner.export import export_huggingface
from learner.models import load_causal_lm, load_tokenizer
from learner.preferences import PreferencePair
from learner.scalar_config import DPOConfig
from learner.scalar_training import Saving, ScalarProgress


class DPOTrainer(TrainingWorker[DPOConfig]):
    """One dpo stage's trainer."""

    def train(
        self,
        policy: str,
        pairs: Sequence[PreferencePair],
        held_out: Sequence[PreferencePair],
        output: str,
        saving: Saving | None = None,
    ) -> tuple[ScalarProgress, DPOFigures]:
        """Trains from the folder ``policy``, which is the reference too, and writes a Hugging Face folder; goes on from
        a checkpoint if there is one."""
        model = load_causal_lm(policy)
        final = train_dpo(model, self._config, pairs, progress=self._note, saving=saving)
        figures = judge_dpo(model, load_causal_lm(policy), self._config, held_out)
        export_huggingface(model, Path(output), tokenizer=load_tokenizer(policy, model))
        return final, figures
