"""Errors that a person at the terminal can act on: one sentence that names the thing and the way out."""

from __future__ import annotations


class CrucibleError(Exception):
    """Base of all errors that end a command. The message is one sentence; ``exit_code`` is the command's."""

    exit_code = 1


class ConfigError(CrucibleError):
    """A recipe or a flag is wrong: the message names the field."""

    exit_code = 2


class RunFolderError(CrucibleError):
    """The run's folder cannot be used: locked by another driver, unwritable, or of another config."""

    exit_code = 3


class ClusterError(CrucibleError):
    """Ray could not be started or joined, or does not have what the run needs."""

    exit_code = 4


class FollowingEndedError(CrucibleError):
    """Whoever followed a job's log was interrupted; the job goes on."""

    exit_code = 130


class ActorError(CrucibleError):
    """An actor failed or did not answer in time: the message names it."""

    exit_code = 5


class LostActorError(ActorError):
    """An actor was given up while it held work; whoever gave it the work issues it again elsewhere."""


class ScaleError(CrucibleError):
    """A running job cannot be scaled as asked; it goes on as it was."""

    exit_code = 6


class TrainerLostError(ActorError):
    """A rank of the trainer died or hangs; all begin again at the last checkpoint, in a new lineage."""


def first_line(error: BaseException) -> str:
    """Of what it says; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
