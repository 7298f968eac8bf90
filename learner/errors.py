"""What can go wrong in the learner, by name. All picklable: they cross process borders."""

from __future__ import annotations


class LearnerError(Exception):
    """Base of the learner's own errors."""


class TrajectoryError(LearnerError, ValueError):
    """A trajectory that can't be trained. ``trajectory`` names it as ``run/stage/epoch/problem/sample/attempt``."""

    def __init__(self, trajectory: str, reason: str) -> None:
        super().__init__(trajectory, reason)  # both in args, so that pickle can rebuild it
        self.trajectory = trajectory
        self.reason = reason

    def __str__(self) -> str:
        return f"trajectory {self.trajectory}: {self.reason}"


class EmptyCompletionError(TrajectoryError):
    """No token to train: the completion is empty or wholly masked."""


class TooLongError(TrajectoryError):
    """More tokens than one packed row holds. Never cut silently."""


class NonFiniteRewardError(TrajectoryError):
    """A reward event is NaN or infinite."""


class NonFiniteLogprobError(TrajectoryError):
    """A log-probability is NaN or infinite (of the behaviour also: above zero)."""


class NonFiniteValueError(TrajectoryError):
    """The critic's value of a token is NaN or infinite."""


class TokenOutsideVocabularyError(TrajectoryError):
    """A token id that the policy has no embedding for."""


class GroupTooSmallError(TrajectoryError):
    """A group of one where members have to be compared with each other."""


class NonFiniteGradientError(LearnerError):
    """A gradient was NaN or infinite: the step was given up, the weights are as before it.

    ``trajectories``: those of the packed row in which it arose.
    """

    def __init__(self, model: str, trajectories: tuple[str, ...]) -> None:
        super().__init__(model, trajectories)
        self.model = model
        self.trajectories = trajectories

    def __str__(self) -> str:
        return f"{self.model}: gradient is not finite; weights kept; trajectories: {', '.join(self.trajectories)}"


class ModelRefusedError(LearnerError, ValueError):
    """A model that the learner can't train correctly (mixture of experts, unknown attention, logits post-processed)."""


class TokenizerMismatchError(LearnerError, ValueError):
    """Tokenizer and model do not belong together."""


class CheckpointError(LearnerError, ValueError):
    """A checkpoint that is absent, cut short or of another configuration."""
