"""Identity, derived seeds and versions of weights."""

import os
import subprocess
import sys

import pytest

from problems.identity import TrajectoryId, WeightsVersion, derive_seed
from problems.problem import Split


def test_seed_lies_in_63_bits_and_depends_on_every_part():
    seeds = {derive_seed("a", 1), derive_seed("a", "1"), derive_seed("a1"), derive_seed("1", "a"), derive_seed(1, "a")}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_no_two_rows_of_parts_are_written_alike():
    assert derive_seed("a\x1fs:b") != derive_seed("a", "b")
    assert derive_seed("a", "") != derive_seed("", "a")
    assert derive_seed("1:s1:b") != derive_seed("1", "b")


def test_string_enum_counts_as_its_string():
    assert derive_seed(Split.TRAIN) == derive_seed("train")


def test_seed_is_the_same_in_a_process_with_another_hash_seed():
    command = "from problems.identity import derive_seed; print(derive_seed('run', 3))"
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    printed = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, check=True).stdout
    assert int(printed) == derive_seed("run", 3)


def test_every_field_of_a_trajectory_changes_its_sampling_seed():
    base = TrajectoryId("r", "ppo", 0, "HumanEval/3", 1, 0)
    others = [
        TrajectoryId("q", "ppo", 0, "HumanEval/3", 1, 0),
        TrajectoryId("r", "sft", 0, "HumanEval/3", 1, 0),
        TrajectoryId("r", "ppo", 1, "HumanEval/3", 1, 0),
        TrajectoryId("r", "ppo", 0, "HumanEval/4", 1, 0),
        TrajectoryId("r", "ppo", 0, "HumanEval/3", 2, 0),
        TrajectoryId("r", "ppo", 0, "HumanEval/3", 1, 1),
    ]
    assert len({base.sampling_seed(), *(other.sampling_seed() for other in others)}) == 7
    assert TrajectoryId("r", "ppo", 0, "HumanEval/3", 1).sampling_seed() == base.sampling_seed()


def test_versions_order_by_lineage_first_and_round_trip_as_text():
    assert WeightsVersion(0, 9) < WeightsVersion(1, 2) < WeightsVersion(1, 2).next()
    assert WeightsVersion.parse(str(WeightsVersion(3, 14))) == WeightsVersion(3, 14)


@pytest.mark.parametrize("text", ["", "3.14", "L3.S", "L-1.S2", "L1.S2 "])
def test_text_that_is_no_version_is_refused(text: str):
    with pytest.raises(ValueError, match=r"L<lineage>\.S<step>"):
        WeightsVersion.parse(text)
