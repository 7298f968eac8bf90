"""The corpus: only training compositions, and as wrong as its config says."""

import random
from collections import Counter
from difflib import SequenceMatcher

import pytest
from pydantic import ValidationError

from problems.problem import Split
from problems.synthetic import CorpusConfig, SyntheticConfig, checked_tasks, corpus
from problems.synthetic.operations import FaultKind
from problems.synthetic.rendering import render_completion
from problems.synthetic.tasks import OPERATIONS, draw_task

CLEAN = {
    "fault_rates": (0.0, 0.0),
    "flipped_share": 0.0,
    "form_rates": {"python": 0.0, "java": 0.0},
    "reference_style_rate": 1.0,
}


def test_the_same_config_writes_the_same_corpus_and_another_seed_another():
    first = list(corpus(CorpusConfig(count=50)))
    assert first == list(corpus(CorpusConfig(count=50)))
    assert first == list(corpus(CorpusConfig(count=80)))[:50]
    assert first != list(corpus(CorpusConfig(count=50, seed=2)))


def test_no_held_out_specification_is_in_the_corpus():
    prompts = {prompt for prompt, _ in corpus(CorpusConfig(count=4000))}
    for split in (Split.VALIDATION, Split.TEST):
        held_out = {task.task.prompt("python") for task in checked_tasks(SyntheticConfig(split=split, count=200))}
        assert not prompts & held_out


def test_without_faults_the_corpus_is_the_references():
    rng = random.Random(5)
    task = draw_task(rng, Split.TRAIN, 3)
    reference = render_completion(task.steps, [step.operation.styles[0] for step in task.steps], "python")
    assert task.reference_completion("python") == reference
    by_prompt = dict(corpus(CorpusConfig(count=3000, depths={1: 1.0}, **CLEAN)))
    for operation in OPERATIONS:
        first_lines = operation.styles[0].python[0].split("$")[0]
        assert any(first_lines in completion for completion in by_prompt.values())
    for prompt, completion in by_prompt.items():
        compile(prompt + completion, "program", "exec")


def test_share_of_wrong_programs_follows_the_rates():
    # single operations, all flipped at 0.65: that share of the programs is not in any correct style
    config = CorpusConfig(count=3000, depths={1: 1.0}, flipped_share=1.0, form_rates={}, reference_style_rate=0.5)
    right = {
        style.python[-1].split("$")[0] + "|" + "|".join(line.split("$")[0] for line in style.python)
        for operation in OPERATIONS
        for style in operation.styles
    }
    assert right
    clean = CorpusConfig(count=3000, depths={1: 1.0}, form_rates={}, fault_rates=(0.0, 0.0), flipped_share=0.0)
    known = set(corpus(clean)) | set(corpus(clean.model_copy(update={"seed": 2, "count": 6000})))
    wrong = sum(program not in known for program in corpus(config)) / 3000
    assert wrong == pytest.approx(0.65, abs=0.05)


def test_flipped_operations_have_one_dominant_bug():
    config = CorpusConfig(
        count=6000, depths={1: 1.0}, flipped_share=1.0, flipped_dominance=0.8, form_rates={}, reference_style_rate=1.0
    )
    named = {operation.name: operation for operation in OPERATIONS}
    square = named["square"]
    completions = Counter(
        completion
        for prompt, completion in corpus(config)
        if any(f'"""{phrasing}."""' in prompt for phrasing in square.phrasings)
    )
    # right 35 %, dominant 0.65 * (0.8 + 0.2 / 2) = 58.5 %, the other bug 6.5 %
    total = completions.total()
    assert completions["    n = n * n\n    return n\n"] / total == pytest.approx(0.35, abs=0.12)
    assert completions["    n = n * 2\n    return n\n"] / total == pytest.approx(0.585, abs=0.12)


def test_form_rate_is_the_share_of_programs_with_one_edit():
    clean = list(corpus(CorpusConfig(count=1000, **CLEAN | {"form_rates": {"python": 0.0}})))
    assert all(compiles(program) for program in clean)
    spoiled = list(corpus(CorpusConfig(count=1000, **CLEAN | {"form_rates": {"python": 1.0}})))
    assert 0.25 < sum(not compiles(program) for program in spoiled) / 1000 < 0.75  # the rest fail when they run


def compiles(program: tuple[str, str]) -> bool:
    try:
        compile("".join(program), "program", "exec")
    except SyntaxError:
        return False
    return True


def test_form_weights_choose_the_kinds():
    weights = dict.fromkeys(FaultKind, 0.0) | {FaultKind.MISSING_RETURN: 1.0}
    config = CorpusConfig(count=200, **CLEAN | {"form_rates": {"python": 1.0}, "form_weights": weights})
    assert not any("return" in completion for _, completion in corpus(config))


def test_habits_of_form_stay_within_their_operations_lines():
    base = {"count": 400, "depths": {2: 1.0}, "languages": {"java": 1.0}, **CLEAN}
    clean = list(corpus(CorpusConfig(**base)))
    assert clean == list(corpus(CorpusConfig(**base, form_habit_share=0.0, form_habit_rate=1.0)))
    habitual = list(corpus(CorpusConfig(**base, form_habit_share=1.0, form_habit_rate=1.0)))
    for _, completion in habitual:
        assert completion.endswith("    }\n}\n")
        assert "return" in completion.splitlines()[-3]


def test_java_and_python_are_mixed_by_weight():
    programs = list(corpus(CorpusConfig(count=1000, languages={"python": 3.0, "java": 1.0})))
    share = sum(prompt.startswith("import") for prompt, _ in programs) / 1000
    assert share == pytest.approx(0.25, abs=0.05)


def test_a_java_variable_is_declared_once():
    for _, completion in corpus(CorpusConfig(count=500, languages={"java": 1.0}, **CLEAN)):
        declarations = Counter(
            line.split(" = ")[0] for line in completion.splitlines() if line.startswith("        List<")
        )
        assert all(count == 1 for count in declarations.values()), completion


def test_an_edit_of_form_is_small():
    plain = dict(corpus(CorpusConfig(count=300, seed=3, **CLEAN)))
    spoiled = corpus(CorpusConfig(count=300, seed=3, **CLEAN | {"form_rates": {"python": 1.0}}))
    for prompt, completion in spoiled:
        if prompt in plain:
            assert SequenceMatcher(None, plain[prompt], completion, autojunk=False).ratio() > 0.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("languages", {"rust": 1.0}),
        ("languages", {"python": 0.0}),
        ("depths", {6: 1.0}),
        ("depths", {}),
        ("fault_rates", (0.5, 0.2)),
        ("flipped_rate", 1.5),
        ("count", 0),
        ("noise", 0.1),
    ],
)
def test_impossible_config_names_its_field(field: str, value: object):
    with pytest.raises(ValidationError, match=field):
        CorpusConfig.model_validate({field: value})
