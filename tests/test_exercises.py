"""Every exercise is worth its name: the solution passes, stub and wrong answers do not.

No notebook is run. New exercises are found by themselves.
"""

import dataclasses
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from course import exercises

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ALL = exercises.declared()
WRONG = [(e, i) for e in ALL for i in range(len(e.wrongs))]


def of(notebook: Path) -> list:
    """Return the exercises that are declared for a notebook."""
    number = str(int(notebook.name[:2]))
    return [e for e in ALL if e.number.split(".")[0] == number]


def cells_of(notebook: Path, kind: str) -> list[tuple[list, str]]:
    """Return tags and source of the notebook's cells of one kind."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found = [c for c in cells if c["cell_type"] == kind]
    return [(c["metadata"].get("tags", []), "".join(c["source"])) for c in found]


def anatomy(value):
    """Return the shapes and dtypes of nested results."""
    if isinstance(value, dict):
        return {key: anatomy(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(anatomy, value)]
    if dataclasses.is_dataclass(value):
        return anatomy(vars(value))
    if hasattr(value, "shape"):
        return list(value.shape), str(value.dtype)
    return type(value).__name__


def name(case) -> str:
    return case.number if hasattr(case, "number") else f"{case[0].number}-{case[1]}"


def test_there_are_exercises_to_prove():
    assert len(ALL) >= 2 * max(1, len(NOTEBOOKS))


@pytest.mark.parametrize("e", ALL, ids=name)
def test_solution_passes(e):
    assert exercises.verdict(e.number, *e.build(e.solution)) == "passed"


@pytest.mark.parametrize("e", ALL, ids=name)
def test_stub_is_to_do(e):
    assert exercises.verdict(e.number, *e.build(e.stub)) == "to do"
    assert e.stub != e.solution


@pytest.mark.parametrize("e", [e for e in ALL if e.kind == "bug"], ids=name)
def test_planted_bug_runs_and_is_refused_by_the_check_itself(e):
    solved, planted = e.build(e.solution), e.build(e.stub)
    assert anatomy(e.example(*planted)) == anatomy(e.example(*solved))
    with pytest.raises(exercises.NotYet):
        e.check(*planted)


@pytest.mark.parametrize("case", WRONG, ids=name)
def test_wrong_answer_runs_and_gets_its_own_hint(case):
    e, index = case
    edit = e.wrongs[index]
    answer = e.build(edit.apply(e.solution))
    assert anatomy(e.example(*answer)) == anatomy(e.example(*e.build(e.solution)))
    verdict = exercises.verdict(e.number, *answer)
    assert edit.hint and verdict.startswith("not yet - ") and edit.hint in verdict
    assert "the code stopped" not in verdict


@pytest.mark.parametrize("e", ALL, ids=name)
def test_three_wrong_answers_with_hints_of_their_own(e):
    assert len(e.wrongs) >= 3
    hints = {
        exercises.verdict(e.number, *e.build(w.apply(e.solution))) for w in e.wrongs
    }
    assert len(hints) == len(e.wrongs), "two wrong answers get the same hint"


@pytest.mark.parametrize("e", ALL, ids=name)
def test_the_printed_line_is_stable(e, capsys):
    exercises.check(e.number, *e.build(e.stub))
    exercises.check(e.number, *e.build(e.solution))
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"exercise {e.number}: to do"
    assert second == f"exercise {e.number}: passed"


def test_a_check_never_stops_the_notebook(capsys):
    def breaks(*_):
        raise ZeroDivisionError("0 of 0")

    exercises.check("1.1", breaks, breaks)
    exercises.check("1.1", 3, None)
    exercises.check("1.1")
    exercises.check("99.1", breaks)
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("not yet - the code stopped with ZeroDivisionError: 0 of 0")
    assert out[2].endswith('not yet - call check("1.1", my_symlog, my_symexp)')
    assert len(out) == 4 and all("not yet - " in line for line in out)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_shows_exactly_what_is_declared(path):
    declared = of(path)
    code, text = cells_of(path, "code"), cells_of(path, "markdown")
    tagged = {
        tag.removeprefix("exercise-"): source
        for tags, source in code
        for tag in tags
        if tag.startswith("exercise-")
    }
    assert sorted(tagged) == sorted(e.number for e in declared)
    prose = "\n".join(source for _, source in text)
    lines = [line.strip() for _, source in code for line in source.splitlines()]
    for e in declared:
        assert tagged[e.number] == e.stub, f"exercise {e.number}: paste the stub anew"
        assert exercises.heading(e).lstrip("# ") in prose
        assert exercises.facts(e) in prose
        arguments = ", ".join([f'"{e.number}"', *e.names])
        assert f"check({arguments})" in lines
        assert f'# solution("{e.number}")' in lines


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_has_two_exercises_and_a_bug(path):
    kinds = [e.kind for e in of(path)]
    assert len(kinds) >= 2 and "bug" in kinds and "write" in kinds


def test_three_exercises_per_notebook_on_average():
    finished = len(NOTEBOOKS) == 10
    assert not finished or len(ALL) >= 3 * len(NOTEBOOKS)


def test_a_bad_declaration_is_refused():
    def part():
        return 1

    good = {"solution": [part], "check": part, "example": part, "wrongs": []}
    for number, more, said in (
        ("5-1", {}, "number"),
        ("5.1", {"difficulty": "tricky"}, "difficulty"),
        ("5.1", {"kind": "bug"}, "bug="),
        ("5.1", {"solution": []}, "empty"),
    ):
        facts = {"difficulty": "easy", "minutes": 5, **good, **more}
        with pytest.raises(ValueError, match=re.escape(said)):
            exercises.exercise(number, "A title", **facts)


def test_an_edit_must_be_unambiguous():
    with pytest.raises(ValueError, match="2 times"):
        exercises.Edit("x", "y").apply("x + x")


def test_gaps_are_cut_from_marked_lines_and_blocks():
    marked = "def f(x):\n    y = x  # solution\n\n    z = y  # solution\n    return 1"
    assert exercises.with_gaps(marked, "5.1") == (
        'def f(x):\n    raise NotImplementedError("exercise 5.1")\n    return 1'
    )
    lines = ["def f(x):", "    # solution", "    y = (", "        x", "    )"]
    block = "\n".join([*lines, "    # end of solution", "    return y"])
    assert exercises.with_gaps(block, "5.1") == (
        'def f(x):\n    raise NotImplementedError("exercise 5.1")\n    return y'
    )
    assert exercises.without_marks(block) == (
        "def f(x):\n    y = (\n        x\n    )\n    return y"
    )


def test_an_unchanged_bug_is_recognised_however_it_was_typed():
    first, second, third = {}, {}, {}
    exec("def f(x):\n    return x + 1", first)
    exec("\n\n\ndef f(x):\n    # a comment\n    return x + 1", second)
    exec("def f(x):\n    return x + 2", third)
    assert exercises.same_code([first["f"]], [second["f"]])
    assert not exercises.same_code([first["f"]], [third["f"]])


def test_a_check_leaves_the_random_numbers_alone():
    """Also if the reader's answers draw some, from any of the three generators."""
    e = exercises.find("1.1")
    drawn = []

    def drawing(answer):
        def draws(x):
            drawn.append((torch.rand(()), np.random.rand(), random.random()))
            return answer(x)

        return draws

    def states():
        _, keys, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), keys.tolist(), rest, random.getstate()

    before, answers = states(), map(drawing, e.build(e.solution))
    assert exercises.verdict("1.1", *answers) == "passed" and drawn
    assert states() == before
