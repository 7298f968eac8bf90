# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The scalar-head model: critic, reward model, reranker, discriminator and process reward model are all this one.

A backbone and one linear layer named ``score``. Per token it is a value function or a line reward, at the last token a
score of the whole sequence. One class and one head name, so that a critic that starts as a reward model is a copy.

Its folder is a Hugging Face model folder: the backbone's config, and ``model.safetensors`` with the backbone's weights
under ``model.`` and the head's under ``score.``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from learner.errors import ModelRefusedError
from learner.model_config import ComputeConfig
from learner.models import for_packed_rows, refuse_unsupported
from learner.packing import PackedRow
from learner.parallel import SINGLE, Ranks, shard, to_be_sharded, whole
from learner.policy import PLAIN, hidden_states, prepare

WEIGHTS_FILE = "model.safetensors"
KIND_FILE = "scalar_head.json"

Reads = Literal["last_token", "line_ends"]
"""Where a model's numbers mean what it was trained for: at a sequence's last token, or at each line's."""


def reads_of(folder: str | Path) -> Reads:
    """Where the numbers of the model in ``folder`` are to be read."""
    return json.loads((Path(folder) / KIND_FILE).read_text()).get("reads", "last_token")


class ScalarHeadModel(nn.Module):
    """Backbone ``model`` and head ``score``; one number for each token.

    ``hidden_layer`` puts a layer of the backbone's width between the two, so that the head is an MLP:
    score(tanh(score_hidden(h))). Its first weights depend on nothing.
    """

    def __init__(self, backbone: Any, compute: ComputeConfig = PLAIN, *, hidden_layer: bool = False) -> None:
        super().__init__()
        self.compute = compute
        self.model: PreTrainedModel = backbone
        width = backbone.config.hidden_size
        self.score = nn.Linear(width, 1).to(backbone.dtype)
        self.score_hidden: nn.Linear | None = None
        if hidden_layer:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.score_hidden = nn.Linear(width, width).to(backbone.dtype)
        with torch.no_grad():
            self.score.weight.zero_()
            self.score.bias.zero_()

    @staticmethod
    def from_causal_lm(
        model: PreTrainedModel, *, bias: float = 0.0, hidden_layer: bool = False, ranks: Ranks = SINGLE
    ) -> ScalarHeadModel:
        """A copy of a causal LM's backbone under a head that says ``bias`` for everything. On several ranks it comes
        sharded, while the causal LM is still whole."""
        backbone: nn.Module = model.base_model
        scalar = ScalarHeadModel(to_be_sharded(backbone, ranks).requires_grad_(True), hidden_layer=hidden_layer)
        scalar.set_bias(bias)
        shard(scalar, ranks, values={f"model.{name}": tensor for name, tensor in backbone.named_parameters()})
        return scalar

    @staticmethod
    def from_pretrained(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> ScalarHeadModel:
        """Loads what ``save_pretrained`` wrote. Raises ModelRefusedError if the folder holds no scalar-head model."""
        folder = Path(folder)
        if not (folder / KIND_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
            raise ModelRefusedError(
                f"{str(folder)!r} holds no scalar-head model ({KIND_FILE} or {WEIGHTS_FILE} is missing)"
            )
        config = AutoConfig.from_pretrained(folder)
        refuse_unsupported(config)
        told = json.loads((folder / KIND_FILE).read_text())
        backbone = for_packed_rows(AutoModel.from_config(config, dtype=dtype))
        scalar = ScalarHeadModel(backbone, hidden_layer=told.get("hidden_layer", False))
        scalar.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return scalar

    def save_pretrained(self, folder: str | Path, *, reads: Reads = "last_token", ranks: Ranks = SINGLE) -> None:
        """Writes config, weights and a note of what this is. All ranks gather, the first writes."""
        folder = Path(folder)
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.state_dict().items():
            gathered = whole(tensor)
            if ranks.is_first:
                tensors[name] = gathered.cpu().contiguous()
        if ranks.is_first:
            self._write(folder, tensors, reads)
        ranks.wait()

    def _write(self, folder: Path, tensors: dict[str, Tensor], reads: Reads) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        told = {
            "head": "score",
            "backbone_prefix": "model",
            "hidden_layer": self.score_hidden is not None,
            "reads": reads,
        }
        (folder / KIND_FILE).write_text(json.dumps(told) + "\n")

    def set_bias(self, bias: float) -> None:
        """The head's constant."""
        with torch.no_grad():
            self.score.bias.fill_(bias)

    def forward(self, row: PackedRow) -> Float[Tensor, " T"]:
        """A number for each token of the row, from what stands up to and including it; in host memory.

        The value of the state in which a trained token was chosen is that of the token before: ``out[row.predicting]``.
        The score of a whole sequence is that of its last token: ``out[row.ends]``.
        """
        weight, bias = self.score.weight, self.score.bias
        hidden = hidden_states(self.model, row.to(weight.device), self.compute).to(weight.dtype)
        if self.score_hidden is not None:
            hidden = torch.tanh(self.score_hidden(hidden))
        return (torch.mv(hidden, weight[0]) + bias).cpu()

    def compute_as(self, compute: ComputeConfig) -> ScalarHeadModel:
        """Sets precision and memory; returns itself."""
        self.compute = compute
        prepare(self.model, compute)
        return self
