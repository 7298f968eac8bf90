"""Running programs nobody trusts: backends, judge and candidate, verdicts."""

from sandbox.blocking import BlockingExecutor
from sandbox.config import Backend, Profile, SandboxConfig
from sandbox.errors import SandboxError
from sandbox.opening import open_executor
from sandbox.verdict import Executor, Outcome, Program, Verdict

__all__ = [
    "Backend",
    "BlockingExecutor",
    "Executor",
    "Outcome",
    "Profile",
    "Program",
    "SandboxConfig",
    "SandboxError",
    "Verdict",
    "open_executor",
]
