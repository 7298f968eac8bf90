"""Runs with the stand-in engine: a tiny model to train, a recipe, a driver in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.run_folder import read_lines
from tests.stand_in_actor import SETTINGS
from tests.stand_in_engine import StandInConfig

os.environ.setdefault("RAY_worker_niceness", "0")
ROOT = Path(__file__).resolve().parents[2]
CRUCIBLE = Path(sys.executable).with_name("crucible")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a model of two small layers and a tokenizer."""
    from learner.export import export_huggingface
    from learner.model_config import NewModelConfig
    from learner.models import new_causal_lm
    from problems.synthetic import CorpusConfig, corpus
    from problems.tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "model"
    texts = [prompt + completion for prompt, completion in corpus(CorpusConfig(count=300))]
    tokenizer = train_tokenizer(texts, 400)
    save_tokenizer(tokenizer, folder.parent / "tokenizer", max_tokens=512)
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(folder.parent / "tokenizer"))
    shape = NewModelConfig(hidden_size=32, num_layers=2, head_dim=32, intermediate_size=64)
    model = new_causal_lm(
        shape, vocab_size=len(loaded), eos_token_id=loaded.eos_token_id, pad_token_id=loaded.pad_token_id, seed=1
    )
    export_huggingface(model, folder, tokenizer=loaded)
    return folder


class StandInRun:
    """One run in a folder of its own. ``real``: with vLLM, not with the stand-in."""

    def __init__(
        self, folder: Path, model: Path, recipe: dict[str, Any], settings: dict[str, Any], real: bool = False
    ) -> None:
        import shutil

        self.real = real
        self.folder = folder
        self.root = folder / recipe["name"]
        self.model = folder / "model"
        self.recipe_file = folder / "recipe.yaml"
        self.log = folder / "driver.log"
        shutil.copytree(model, self.model)
        (self.model / SETTINGS).write_text(json.dumps(settings))
        recipe["stages"][0]["policy"] = str(self.model)
        self.recipe_file.write_text(yaml.safe_dump(recipe | {"folder": str(folder)}))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, address: str | None = None) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"RAY_ADDRESS": address} if address else {})
        with self.log.open("ab") as log:
            command = [str(CRUCIBLE)] if self.real else [sys.executable, "-m", "tests.stand_in_actor"]
            command += ["run", str(self.recipe_file), "--debug"]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        return self.process

    @property
    def steps(self) -> int:
        """The newest step that a trainer has recorded, whatever its lineage."""
        files = self.root.glob("stages/ppo/steps/L*.jsonl")
        versions = [record["version"] for file in files for record in read_lines(file)]
        return max((int(version.partition(".S")[2]) for version in versions), default=0)

    def events(self, what: str | None = None) -> list[dict[str, Any]]:
        return [event for event in read_lines(self.root / "events.jsonl") if what in (None, event["what"])]

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Until the condition holds; fails when the time is up or the driver ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self.process is not None and self.process.poll() is not None
            assert not ended or condition(), f"the driver ended before {what}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"{what} took more than {seconds:g} s:\n{self.tail()}"
            time.sleep(0.05)

    def finish(self, seconds: float) -> None:
        """The driver ends by itself, without an error."""
        assert self.process is not None
        try:
            assert self.process.wait(seconds) == 0, self.tail()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run did not end within {seconds:g} s:\n{self.tail()}") from None

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([*lines[-40:], *(str(event) for event in read_lines(self.root / "events.jsonl")[-25:])])

    def crucible(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(CRUCIBLE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    def verify(self) -> str:
        """What ``crucible verify`` prints; it must find nothing."""
        verified = self.crucible("verify", str(self.root))
        assert verified.returncode == 0, verified.stdout + verified.stderr + self.tail()
        assert "0 lost, 0 repeated, bound never broken" in verified.stdout
        return verified.stdout

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            for process in [psutil.Process(self.process.pid), *children]:
                if process.is_running():
                    process.kill()
            self.process.wait()


@pytest.fixture
def stand_in_run(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., StandInRun]]:
    """Makes runs; ``engine`` are fields of StandInConfig, ``stage`` and ``run`` of the recipe; ``real``: with vLLM."""
    runs: list[StandInRun] = []

    def make(
        *, engine: dict[str, Any] | None = None, stage: dict[str, Any] | None = None, real: bool = False, **run: Any
    ) -> StandInRun:
        slow = (engine or {}).pop("slow", {})
        settings = asdict(StandInConfig(**({"vocab_size": 300, "mean_tokens": 12.0} | (engine or {}))))
        learner = {"num_steps": 12, "advantage": {"kind": "group"}, "epochs": 1} | (stage or {}).pop("learner", {})
        ppo = {
            "kind": "ppo",
            "name": "ppo",
            "policy": "",
            "problems": [{"spec": "synthetic:split=train,count=60,depth=1,seed=11"}],
            "prompts_per_step": 4,
            "samples_per_prompt": 2,
            "max_staleness": 1,
            "checkpoint_every_steps": 3,
            "sampling": {"max_new_tokens": 48},
            "learner": learner,
        }
        recipe = {
            "name": "run",
            "generators": {"count": 2, "push_timeout_s": 20.0, "engine": {"weight_transport": "shm"}},
            "executors": {"count": 1, "sandbox": {"backend": "embedded", "slots": 1}},
            "supervision": {"health_every_s": 1.0, "health_timeout_s": 15.0},
            "stages": [ppo | (stage or {})],
        } | run
        recipe["generators"]["engine"].setdefault("max_model_len", 512)  # the tiny model's positions
        folder = tmp_path / f"runs{len(runs)}"
        folder.mkdir()
        runs.append(StandInRun(folder, tiny_model, recipe, settings | {"slow": slow}, real))
        return runs[-1]

    yield make
    for made in runs:
        made.end()
