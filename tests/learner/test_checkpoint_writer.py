import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from learner import checkpoint_writer
from learner.checkpoint import load_checkpoint, read_manifest, save_checkpoint
from learner.checkpoint_writer import CheckpointWriter, prune, superfluous
from learner.config import PPOConfig

ROOT = Path(__file__).parents[2]
CONFIG = PPOConfig()


def load(folder, size=3):
    return load_checkpoint(folder, kind="ppo", settings=CONFIG, state={"weights": torch.zeros(size), "step": 0})


def test_what_changes_while_it_is_written_is_not_in_it(tmp_path, monkeypatch):
    may_write, writing = threading.Event(), threading.Event()

    def held(*arguments, **named):
        writing.set()
        assert may_write.wait(60)
        return save_checkpoint(*arguments, **named)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", held)
    weights, nested = torch.ones(3), {"moments": [torch.ones(2)], "step": 4}
    writer = CheckpointWriter()
    writer.begin(tmp_path / "c", kind="ppo", settings=CONFIG, state={"weights": weights, "step": 4, "more": nested})
    assert writing.wait(60)
    weights.mul_(7)  # the next optimizer step
    nested["moments"][0].zero_()
    nested["step"] = 5
    may_write.set()
    assert writer.finish() == tmp_path / "c"
    assert writer.finish() is None
    writer.close()
    state = {"weights": torch.zeros(3), "step": 0, "more": {"moments": [torch.zeros(2)], "step": 0}}
    load_checkpoint(tmp_path / "c", kind="ppo", settings=CONFIG, state=state)
    assert state["weights"].tolist() == [1.0] * 3
    assert state["more"]["moments"][0].tolist() == [1.0] * 2
    assert (state["step"], state["more"]["step"]) == (4, 4)


def test_an_error_of_the_thread_is_raised_when_it_is_waited_for(tmp_path):
    (tmp_path / "file").write_text("in the way")
    writer = CheckpointWriter()
    writer.begin(tmp_path / "file" / "c", kind="ppo", settings=CONFIG, state={"weights": torch.ones(3)})
    with pytest.raises(OSError, match="file"):
        writer.finish()
    writer.begin(tmp_path / "c", kind="ppo", settings=CONFIG, state={"weights": torch.ones(3), "step": 1})
    writer.close()  # usable after an error; closing finishes
    assert load(tmp_path / "c")["step"] == 1


_KILLED = """
import sys, torch
from pathlib import Path
from learner.checkpoint_writer import CheckpointWriter
from learner.config import PPOConfig

folder, writer, step = Path(sys.argv[1]), CheckpointWriter(), 0
while True:
    step += 1
    state = {"weights": torch.full((2_000_000,), float(step)), "step": step}
    writer.begin(folder / "c", kind="ppo", settings=PPOConfig(), state=state)
    print(step, flush=True)
"""


@pytest.mark.parametrize("wait_s", [0.01, 0.05, 0.15])
def test_a_kill_while_it_is_written_leaves_the_last_good_one(tmp_path, wait_s):
    """A process writes one checkpoint after another over the same name; it is killed at some moment of a write."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        begun = [int(process.stdout.readline()) for _ in range(4)][-1]  # the fourth begins when the third is written
        time.sleep(wait_s)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = load(tmp_path / "c", size=2_000_000)
    assert state["step"] >= begun - 1
    assert torch.equal(state["weights"], torch.full((2_000_000,), float(state["step"])))
    save_checkpoint(tmp_path / "c", kind="ppo", settings=CONFIG, state={"weights": torch.ones(3), "step": 99})
    assert [path.name for path in tmp_path.iterdir()] == ["c"]  # nothing is left over


@pytest.fixture
def five(tmp_path):
    """Checkpoints of steps 1 to 5 with pass rates."""
    made = []
    for step, rate in enumerate([0.1, 0.9, 0.3, 0.9, 0.2], 1):
        figures = {"pass": rate, "loss": -rate} if step != 3 else {}
        state = {"weights": torch.ones(1), "step": step}
        made.append(save_checkpoint(tmp_path / f"S{step}", kind="ppo", settings=CONFIG, state=state, figures=figures))
    return made


def names(paths):
    return [path.name for path in paths]


def test_the_newest_and_the_best_stay(five):
    assert read_manifest(five[1])["figures"] == {"pass": 0.9, "loss": -0.9}
    for rule, gone in (
        ({"keep_last": 2}, [1, 2, 3]),
        ({"keep_last": 1, "keep_best": 1, "metric": "pass"}, [1, 2, 3]),  # of equals the newer
        ({"keep_last": 1, "keep_best": 2, "metric": "pass"}, [1, 3]),
        ({"keep_last": 1, "keep_best": 1, "metric": "loss", "smaller_is_better": True}, [1, 2, 3]),
        ({"keep_last": 1, "keep_best": 3, "metric": "nowhere"}, [1, 2, 3, 4]),
    ):
        assert names(superfluous(five, **rule)) == [f"S{step}" for step in gone], rule
    assert superfluous(five, keep_last=9) == []
    with pytest.raises(ValueError, match="keep_last 0: the newest checkpoint always stays"):
        superfluous(five, keep_last=0)


def test_pruning_deletes_them_and_what_kills_left_over(five, tmp_path):
    (tmp_path / "S6.partial").mkdir()
    assert names(prune(five, keep_last=1, keep_best=1, metric="pass")) == ["S1", "S2", "S3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["S4", "S5"]
    assert json.loads((tmp_path / "S4" / "manifest.json").read_text())["figures"]["pass"] == 0.9
