# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Optimizers and their schedules, one for each model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from learner.model_config import OptimizerConfig
from learner.parallel import local, reshard, whole
from learner.placement import HOST, Place

HEAD_PREFIXES = ("score.", "score_hidden.")  # of learner.scalar_head


def learning_rate_factor(config: OptimizerConfig, *, step: int, progress: float) -> float:
    """Share of the peak rate.

    Linear warm-up over ``warmup_steps``; times a constant, line or cosine from 1 to ``final_fraction`` by ``progress``.

    Args:
        config: the schedule.
        step: optimizer steps already made; the first step has (0 + 1) / warmup_steps of the peak.
        progress: of the stage, 0 at its begin and 1 at its end (clamped).
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    done = min(max(progress, 0.0), 1.0)
    if config.schedule == "constant":
        return warmup
    shape = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return warmup * (config.final_fraction + (1 - config.final_fraction) * shape)


class ScheduledOptimizer:
    """AdamW over one model with its schedule and gradient clipping.

    ``step`` is a sentence of three verbs: measure the gradient, set the rate, move. A gradient that is not finite stops
    it before anything has moved.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig, *, states: Place = "device") -> None:
        """
        Args:
            model: those of its parameters that want a gradient are trained.
            config: rate, schedule, clipping, decay.
            states: where the moments lie between steps.
        """
        self.config = config
        self._states = states
        self._model = model
        self.num_steps = 0
        self.learning_rate = 0.0
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._adamw = torch.optim.AdamW(
            _parameter_groups(model, config),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=True,
        )

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def gradient_norm(self) -> float:
        """Global 2-norm of the gradients accumulated so far."""
        return float(whole(nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])))

    def step(self, *, progress: float) -> float:
        """One update from the gradients that have been accumulated; they are cleared.

        Args:
            progress: of the stage, in [0, 1].

        Returns:
            The gradient's global 2-norm before clipping; if it is not finite, nothing was changed.
        """
        norm = float(whole(clip_gradients(self._parameters, self.config.max_grad_norm)))
        if math.isfinite(norm):
            factor = learning_rate_factor(self.config, step=self.num_steps, progress=progress)
            self.learning_rate = self.config.learning_rate * factor
            for group in self._adamw.param_groups:
                group["lr"] = self.learning_rate * group["rate_factor"]
            self._move_parameters()
            self.num_steps += 1
        self.zero_grad()
        return norm

    def _move_parameters(self) -> None:
        """AdamW's step; with moments in host memory one parameter at a time, so that few are on the device at once."""
        if self._states == "device":
            for parameter in self._parameters:  # loaded or restored while their model waited in host memory
                self._place_moments(parameter, parameter.device)
            self._adamw.step()
            return
        gradients = [(parameter, parameter.grad) for parameter in self._parameters]
        self.zero_grad()
        for parameter, gradient in gradients:
            parameter.grad = gradient
            self._place_moments(parameter, parameter.device)
            self._adamw.step()
            self._place_moments(parameter, HOST)
            parameter.grad = None

    def _place_moments(self, parameter: nn.Parameter, device: torch.device) -> None:
        moments = self._adamw.state.get(parameter, {})
        for name, value in moments.items():
            moments[name] = value.to(device)

    def moment_bytes(self) -> dict[str, int]:
        """Bytes of the moments by the kind of device they lie on now."""
        held: dict[str, int] = {}
        for moments in self._adamw.state.values():
            for value in moments.values():
                held[value.device.type] = held.get(value.device.type, 0) + local(value).nbytes
        return held

    def _settle_moments(self) -> None:
        """Loaded moments come to the device of their parameters: back to where they belong."""
        if self._states == "host":
            for parameter in self._parameters:
                self._place_moments(parameter, HOST)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: moments by parameter name, shards of them on several ranks."""
        state = {"adamw": get_optimizer_state_dict(self._model, self._adamw), **self._counters()}
        self._forget_made_up_moments()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_optimizer_state_dict(self._model, self._adamw, state["adamw"])
        self.num_steps, self.learning_rate = state["num_steps"], state["learning_rate"]
        self._forget_made_up_moments()
        self._settle_moments()

    def snapshot(self) -> dict[str, Any]:
        """A copy of this rank's state in host memory, for ``restore``."""
        return {"adamw": _host_copy(self._adamw.state_dict()), **self._counters()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Back to a snapshot; gradients are cleared."""
        self._adamw.load_state_dict(snapshot["adamw"])
        self._settle_moments()
        self.num_steps, self.learning_rate = snapshot["num_steps"], snapshot["learning_rate"]
        self.zero_grad()

    def _counters(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "learning_rate": self.learning_rate}

    def _forget_made_up_moments(self) -> None:
        """Asked for the state before the first step, torch makes an empty step to have one, and counts it."""
        if self.num_steps == 0:
            self._adamw.state.clear()


def _host_copy(value: Any) -> Any:
    """A nested structure with its tensors copied to host memory."""
    if isinstance(value, Tensor):
        return value.detach().to(HOST, copy=True)
    if isinstance(value, dict):
        return {key: _host_copy(part) for key, part in value.items()}
    return [_host_copy(part) for part in value] if isinstance(value, list) else value


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales the gradients in place to a global 2-norm of at most ``max_norm``; returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm)


def _parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not; the scalar head has a rate of its own."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim >= 2, name.startswith(HEAD_PREFIXES)), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "rate_factor": config.head_factor if is_head else 1.0,
        }
        for (decays, is_head), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


class Undo:
    """A copy, in host memory, of a model's trained weights and its optimizer's state."""

    def __init__(self, model: nn.Module, optimizer: ScheduledOptimizer) -> None:
        self._model, self._optimizer = model, optimizer
        reshard(model)
        trained = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
        self._weights = {name: local(tensor.detach()).to(HOST, copy=True) for name, tensor in trained}
        self._snapshot = optimizer.snapshot()

    def restore(self) -> None:
        """Puts everything back in place; gradients are cleared."""
        reshard(self._model)
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if name in self._weights:
                    local(parameter).copy_(self._weights[name])
        self._optimizer.restore(self._snapshot)
