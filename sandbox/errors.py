"""What can be wrong with a sandbox. A program that fails is not an error but a ``Verdict``."""

from __future__ import annotations


class SandboxError(Exception):
    """The sandbox cannot do what it was asked; the message says what to do about it."""


class EngineMissingError(SandboxError):
    """No Docker engine answers, though one was asked for."""


class ImageMissingError(SandboxError):
    """The sandbox image is not there, or was made from another definition."""


class IsolationError(SandboxError):
    """The machine cannot hold programs as strongly as asked."""


class LimitError(SandboxError, ValueError):
    """A limit is larger than the slot was made for."""


class MergedRefusedError(SandboxError, ValueError):
    """A suite runs in the program's own process, and the settings want none of that."""


class SlotDiedError(SandboxError):
    """A slot ended in the middle of a run. Handled inside: the run is tried again in another one."""
