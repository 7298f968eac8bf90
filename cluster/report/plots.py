"""Plots as parts of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

_HEIGHT = 280


def curve(name: str, points: Sequence[tuple[int, float]]) -> str:
    """A metric over the steps."""
    return _part(name, go.Scatter(x=[step for step, _ in points], y=[value for _, value in points], mode="lines"))


def shares(name: str, steps: Sequence[int], by_kind: Mapping[str, Sequence[float]]) -> str:
    """What a whole consists of, over the steps: areas on top of each other."""
    return _part(name, *(go.Scatter(x=steps, y=by_kind[kind], name=kind, stackgroup="all") for kind in by_kind))


def dots(name: str, x: Sequence[float], y: Sequence[float], sizes: Sequence[float], *, diagonal: bool = False) -> str:
    """Points with areas in proportion to ``sizes``, and the line on which both coordinates are equal if wanted."""
    largest = max(sizes, default=1) or 1
    marker = {"size": [6 + 18 * (size / largest) ** 0.5 for size in sizes], "opacity": 0.7}
    line = [go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "#999"})] if diagonal else []
    return _part(name, *line, go.Scatter(x=x, y=y, mode="markers", marker=marker))


def _part(name: str, *traces: go.Scatter) -> str:
    figure = go.Figure(list(traces))
    is_legend_of_use = any(trace.name for trace in traces)
    figure.update_layout(
        title=name, height=_HEIGHT, margin={"l": 50, "r": 10, "t": 40, "b": 30}, template="plotly_white",
        showlegend=is_legend_of_use,
    )  # fmt: skip
    return figure.to_html(full_html=False, include_plotlyjs=False)
