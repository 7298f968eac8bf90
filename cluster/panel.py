"""What a person at the terminal sees: stages with progress and ETA, the figures that matter, and what blocks what."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_PLAIN_INTERVAL_S = 10.0
_SHARE_WIDTH = 20


@dataclass(slots=True)
class StageRow:
    """Progress of one stage; ``begun`` is None while it waits.

    ``done`` and ``total`` are in its own units. The estimate counts from ``counted``, when ``found`` units were done.
    """

    name: str
    kind: str
    done: float = 0.0
    found: float = 0.0
    total: float = 1.0
    begun: float | None = None
    counted: float = 0.0
    ended: float | None = None
    note: str = ""

    def state(self) -> str:
        """``waiting``, an elapsed time, or an ETA."""
        if self.ended is not None and self.begun is not None:
            return f"done in {_clock(self.ended - self.begun)}"
        if self.ended is not None:
            return "done before"
        if self.begun is None:
            return "waiting"
        elapsed = time.monotonic() - self.counted
        if self.done <= self.found:
            return f"{_clock(elapsed)} so far"
        return f"ETA {_clock(elapsed * (self.total - self.done) / (self.done - self.found))}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes}:{rest:02d}"


class Panel:
    """A live panel on a terminal; one plain line every few seconds elsewhere (CI, a job's log)."""

    def __init__(
        self, title: str, stages: Mapping[str, str], console: Console | None = None, log: TextIO | None = None
    ) -> None:
        """``stages``: name -> kind, in order. ``log``: gets plain lines whatever the console is."""
        self._title = title
        self._console = console or Console(file=sys.stdout)
        self.rows = {name: StageRow(name, kind) for name, kind in stages.items()}
        self._figures: dict[str, str] = {}
        self._shares: dict[str, Mapping[str, float]] = {}
        self._live = (
            Live(get_renderable=self.render, console=self._console, refresh_per_second=2)
            if self._console.is_terminal
            else None
        )
        self._plain_consoles = [Console(file=log, width=200)] if log is not None else []
        self._plain_consoles += [self._console] if self._live is None else []
        self._last_plain = 0.0

    def __enter__(self) -> Panel:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, stage: str, total: float, found: float = 0.0) -> None:
        """A stage begins, or a part of it of which ``found`` units were done before; the ETA counts from here."""
        row = self.rows[stage]
        row.counted, row.total, row.done, row.found = time.monotonic(), max(total, 1e-9), found, found
        row.begun = row.begun or row.counted
        self._plain(f"{stage}: started", force=True)

    def progress(self, stage: str, done: float, note: str = "") -> None:
        row = self.rows[stage]
        row.done, row.note = done, note
        self._plain(f"{stage}: {done:g}/{row.total:g} {row.state()} {note}")

    def end(self, stage: str, note: str = "") -> None:
        row = self.rows[stage]
        row.done, row.ended, row.note = row.total, time.monotonic(), note or row.note
        self._plain(f"{stage}: {row.state()} {row.note}", force=True)

    def figures(self, values: Mapping[str, str]) -> None:
        """Replaces the figures shown beside the stages."""
        self._figures = dict(values)

    def shares(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """For each kind of actor the share of time that it was busy, starved and blocked (each 0 to 1)."""
        self._shares = dict(values)

    def say(self, text: str) -> None:
        """One line above the panel that stays."""
        self._console.print(text, highlight=False)

    def _plain(self, text: str, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._last_plain >= _PLAIN_INTERVAL_S:
            self._last_plain = now
            figures = "  ".join(f"{name} {value}" for name, value in self._figures.items())
            for console in self._plain_consoles:
                console.print(f"{text}  {figures}".rstrip(), highlight=False, soft_wrap=True)

    def render(self) -> Group:
        """The panel as it stands now."""
        stages = Table.grid(padding=(0, 2))
        for row in self.rows.values():
            style = "green" if row.ended is not None else ("bold" if row.begun is not None else "dim")
            bar = ProgressBar(total=row.total, completed=row.done, width=24)
            stages.add_row(Text(row.name, style), Text(row.kind, "dim"), bar, Text(row.state(), style), row.note)
        figures = Table.grid(padding=(0, 2))
        items = list(self._figures.items())
        for start in range(0, len(items), 4):
            figures.add_row(*(f"[dim]{name}[/] {value}" for name, value in items[start : start + 4]))
        shares = Table.grid(padding=(0, 2))
        for who, parts in self._shares.items():
            shares.add_row(Text(who, "dim"), _share_bar(parts), ", ".join(f"{k} {v:.0%}" for k, v in parts.items()))
        return Group(Text(self._title, "bold"), stages, figures, shares)


def _share_bar(parts: Mapping[str, float]) -> Text:
    colours = {"busy": "green", "starved": "yellow", "blocked": "red"}
    bar = Text()
    for name, share in parts.items():
        bar.append("█" * round(share * _SHARE_WIDTH), colours.get(name, "dim"))
    return bar
