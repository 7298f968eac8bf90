import io

from rich.console import Console

from cluster.panel import Panel

STAGES = {"base": "sft", "ppo": "ppo", "after": "evaluate"}


def shown(panel: Panel) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(panel.render())
    return console.file.getvalue()


def test_the_panel_shows_progress_estimates_figures_and_who_is_blocked() -> None:
    panel = Panel("Crucible", STAGES, Console(file=io.StringIO(), force_terminal=True))
    panel.begin("base", 4)
    panel.end("base")
    panel.begin("ppo", 40, found=20)
    panel.progress("ppo", 25, "step 25")
    panel.rows["ppo"].counted -= 30.0
    panel.figures({"pass rate": "0.512"})
    panel.shares({"trainer": {"busy": 0.25, "starved": 0.5, "blocked": 0.25}})
    text = shown(panel)
    assert "done in 0:00" in text
    assert "ETA 1:30" in text  # 30 s for 5 steps, 15 to go
    assert "step 25" in text
    assert "pass rate 0.512" in text
    assert "busy 25%, starved 50%, blocked 25%" in text
    assert "waiting" in text


def test_away_from_a_terminal_a_stage_leaves_plain_lines_and_not_one_for_each_step() -> None:
    out = io.StringIO()
    panel = Panel("Crucible", STAGES, Console(file=out, width=160))
    with panel:
        panel.begin("ppo", 1000)
        for step in range(1000):
            panel.progress("ppo", step)
        panel.end("ppo")
    lines = out.getvalue().splitlines()
    assert lines[0] == "ppo: started"
    assert lines[-1].startswith("ppo: done in")
    assert len(lines) <= 4


def test_a_stage_that_was_done_before_says_so() -> None:
    panel = Panel("Crucible", STAGES, Console(file=io.StringIO()))
    panel.end("base")
    assert "done before" in shown(panel)
