"""What the journal holds: outcomes over the steps, and a browser of trajectories with their rewards as colour."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from cluster.journal import JournalEntry, read_journal
from cluster.report.plots import shares
from cluster.run_folder import RunFolder, StageFolder
from learner.trajectory import RewardEvent
from problems.prompting import TokenBytes

_MOST_STEPS = 200  # points of the curve; between them steps are left out
_SHOWN_STEPS, _SHOWN_ANSWERS = 3, 12
_NAME = re.compile(r"step-(\d+)\.L(\d+)\.parquet")


def outcomes(stage: StageFolder) -> list[str]:
    """Shares of the verdicts' outcomes over a stage's steps; nothing of stages without steps."""
    files = _files(stage.trajectories)
    if len(files) < 2:
        return []
    shown = _spread(sorted(files), _MOST_STEPS)
    counts = [Counter(pq.read_table(files[step], columns=["outcome"])["outcome"].to_pylist()) for step in shown]
    kinds = sorted({kind for count in counts for kind in count})
    by_kind = {kind or "not executed": [count[kind] / count.total() for count in counts] for kind in kinds}
    return [f"<div class=plots>{shares('outcomes', shown, by_kind)}</div>"]


def browser(stage: StageFolder, pieces: TokenBytes | None) -> list[str]:
    """The first answers of a stage's first, middle and last step, each with its prompt, text, verdict and rewards.

    Without ``pieces`` the programs are shown without colour: tokens cannot be read.
    """
    files = _files(stage.trajectories)
    parts: list[str] = []
    for step in _spread(sorted(files), _SHOWN_STEPS):
        parts.append(f"<h3>Trajectories, step {step}</h3>")
        parts += [_trajectory(entry, pieces) for entry in read_journal(files[step])[:_SHOWN_ANSWERS]]
    return parts


def token_bytes(folder: RunFolder, stage: str) -> TokenBytes | None:
    """Those of the tokenizer that a stage's model came with, or any model of the run; None where none is left."""
    found = [folder.root / "stages" / stage / "model", *sorted(folder.root.glob("stages/*/model"))]
    for model in found:
        if (model / "tokenizer.json").exists() and (folder.root / "stages" / stage / "trajectories").is_dir():
            from transformers import AutoTokenizer

            return TokenBytes.of(AutoTokenizer.from_pretrained(str(model)))
    return None


def _files(folder: Path) -> dict[int, Path]:
    """step -> journal file; where a step was made in two lineages, the later one stands."""
    named = [(match, path) for path in folder.rglob("*.parquet") if (match := _NAME.fullmatch(path.name))]
    ordered = sorted(named, key=lambda pair: int(pair[0][2]))
    main = [(match, path) for match, path in ordered if path.parent == folder] or ordered
    return {int(match[1]): path for match, path in main}


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of them, evenly, the first and the last among them."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (count - 1))] for place in range(count)]


def _trajectory(entry: JournalEntry, pieces: TokenBytes | None) -> str:
    trajectory = entry.trajectory
    turn = trajectory.turns[-1]
    marks = [entry.outcome or "not executed", *entry.signs]
    marks += [f"dropped: {trajectory.drop_reason}"] if trajectory.drop_reason else []
    summary = (
        f"{trajectory.id.problem_id} #{trajectory.id.sample_index}: {', '.join(marks)}, reward {trajectory.reward:+.3f}"
    )
    if pieces is None:
        text = f"<pre>{html.escape(entry.program.decode('utf-8', 'replace'))}</pre>"
    else:
        prompt = pieces.decode(turn.prompt_ids.tolist()).decode("utf-8", "replace")
        lines = coloured_lines(pieces.pieces(turn.completion_ids.tolist()), trajectory.events)
        text = f"<pre class=prompt>{html.escape(prompt)}</pre><pre>{lines}</pre>"
    events = "".join(
        f"<tr><td>{html.escape(event.term)}<td>{'last token' if event.token is None else f'token {event.token}'}"
        f"<td>{event.value:+.4f}</tr>"
        for event in trajectory.events
    )
    return f"<details><summary>{html.escape(summary)}</summary>{text}<table>{events}</table></details>"


def coloured_lines(pieces: Sequence[bytes], events: Sequence[RewardEvent]) -> str:
    """The completion as HTML; a line on whose tokens rewards fall is green or red, the deeper the larger their sum.

    Args:
        pieces: bytes of each token.
        events: those without a token belong to the whole answer and colour nothing.
    """
    line_of = [0]
    for piece in pieces:
        line_of.append(line_of[-1] + piece.count(b"\n"))
    earned: Counter[int] = Counter()
    for event in events:
        if event.token is not None and event.token < len(pieces):
            # A token of a line break and what follows it counts for the line that it ends.
            earned[line_of[event.token]] += event.value  # type: ignore[assignment]
    largest = max((abs(value) for value in earned.values()), default=0.0) or 1.0
    lines = b"".join(pieces).decode("utf-8", "replace").split("\n")
    return "\n".join(_line(text, earned.get(number), largest) for number, text in enumerate(lines))


def _line(text: str, value: float | None, largest: float) -> str:
    shown = html.escape(text)
    if not value:
        return shown
    colour = "40,160,70" if value > 0 else "210,60,50"
    depth = 0.15 + 0.5 * abs(value) / largest
    return f'<span style="background:rgba({colour},{depth:.2f})" title="{value:+.4f}">{shown or " "}</span>'
