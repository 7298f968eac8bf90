"""What can go wrong in an actor. Every class is picklable (one message) and says what is left to do."""

from __future__ import annotations


class ActorError(Exception):
    """Root of this room's errors."""


class EngineUnavailableError(ActorError):
    """vLLM is not installed, or its engine did not come up. Trying again on the same machine does not help."""


class EngineDiedError(ActorError):
    """The engine process ended under a request or a push. The work it held is issued again elsewhere, same identity."""


class WeightTransportError(ActorError):
    """Root of what goes wrong on the weights' way from the trainer to a generator."""


class WeightPhaseError(WeightTransportError):
    """A phase was called out of order, or with another version than the phase before it. Nothing was changed."""


class WeightsMissingError(WeightTransportError):
    """The ticket's files are not there: retired too early, or published on another node. Nothing was changed."""


class WeightsCorruptedError(WeightTransportError):
    """A published file differs from its checksum. Nothing was changed: the engine goes on with the weights it had."""


class WeightsLostError(WeightTransportError):
    """The load failed half-way, so the engine's weights are of no version. It stays paused; it must be started anew."""
