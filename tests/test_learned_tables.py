"""The tables of PF-PPO and of the reranker, with figures worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.learned_tables import difference, pf_ppo_section


def arm(method: str, seed: int, solved: int, *, condition: str = "", of: int = 4, **figures: Any) -> dict[str, Any]:
    """An arm whose model always solves the first ``solved`` of ``of`` problems, and no other."""
    rates = {f"p{index}": 1.0 for index in range(solved)}
    after = {"mean": solved / of, "low": 0.0, "high": 1.0, "num_problems": of}
    named = {"method": method, "seed": seed, "condition": condition, "wall_s": 60.0}
    return {**named, "after": after, "rates": rates, **figures}


SFT = {"reward_model": {"held_out_accuracy": 0.75, "num_held_out_pairs": 8}}


def row(section: str, method: str) -> list[str]:
    """The cells of a method's first row."""
    line = next(line for line in section.splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_difference_is_paired_by_problem_with_the_unsolved_ones_counted() -> None:
    """+1, 0, 0, 0: mean 1/4, standard deviation 1/2, standard error 1/4."""
    found = difference(arm("sft", 1, 1), arm("br", 1, 2))
    assert found.mean == pytest.approx(0.25)
    assert found.high - found.mean == pytest.approx(1.96 * 0.25, rel=1e-3)


def test_over_seeds_the_interval_is_students() -> None:
    """Differences 1/4, 1/2, 3/4: mean 1/2, deviation 1/4, half an interval 4.303 * 0.25 / sqrt(3) = 0.621."""
    halves = {"half": {"mean": 0.4}, "peak": 0.5}
    arms = [one for seed in (1, 2, 3) for one in (arm("sft", seed, 0, **SFT), arm("br", seed, seed, **halves))]
    arms += [arm("ppo_m", seed, 4 if seed == 3 else 3) for seed in (1, 2, 3)]
    cells = row(pf_ppo_section(arms), "br")
    assert cells[:4] == ["br", "3", "0.500", "+0.500 ± 0.621"]
    # -1/2, -1/4, -1/4: mean -1/3, deviation 0.1443, half an interval 4.303 * 0.1443 / sqrt(3) = 0.359
    assert cells[4] == "-0.333 ± 0.359"
    assert cells[5:8] == ["-", "0.400", "0.500"]  # no control was run


def test_a_condition_that_makes_no_model_of_its_own_is_compared_with_the_plain_beginning() -> None:
    arms = [arm("sft", 1, 1, **SFT), arm("br", 1, 1), arm("br", 1, 3, condition="long")]
    arms += [arm("sft", 1, 0, condition="large", **SFT), arm("br", 1, 1, condition="large")]
    section = pf_ppo_section(arms)
    plain, long, large = (section.partition(mark)[2] for mark in ("## PF-PPO", "*long*:\n", "*large*:\n"))
    assert row(plain, "br")[3].startswith("+0.000")
    assert row(long, "br")[2:4] == ["0.750", "+0.500 [-0.066, +1.066]"]  # 0, 1, 1, 0: 1.96 * sqrt(1/3) / 2 = 0.566
    assert row(large, "br")[3].startswith("+0.250")
    assert "*tests*: not run." in section
    assert "Not run: bw-1, random_2-1, ppo_m-1." in long


def test_r_squared_is_the_mean_over_arms_that_have_any() -> None:
    fits = [{"start": {"equal_mass": dict.fromkeys(("none", "bon", "br", "bw", "random_k"), r)}} for r in (0.2, 0.4)]
    arms = [arm("br", 1, 1, r_squared=fits[0]), arm("bw", 1, 1, r_squared=fits[1]), arm("raft", 1, 1, r_squared={})]
    section = pf_ppo_section(arms)
    assert "mean over 2 arms" in section
    assert "| start | equal mass | 0.300 | 0.300 | 0.300 | 0.300 | 0.300 |" in section
    assert "| middle | equal mass | - | - | - | - | - |" in section
