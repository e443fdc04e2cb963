"""Every exercise is worth its name: the solution passes, stub and wrong answers do not.

No notebook is run. New exercises are found by themselves; their wrong answers, edits of
the solution, are in wrong_answers.yaml.
"""

import json
import random
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from course import exercises
from course.exercises.compare import NotYet

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ALL = exercises.declared()
WRONG = yaml.safe_load((ROOT / "tests/wrong_answers.yaml").read_text(encoding="utf-8"))
CASES = [(e, wrong) for e in ALL for wrong in WRONG.get(e.number, [])]


def of(notebook: Path) -> list:
    """Return the exercises that are declared for a notebook."""
    number = str(int(notebook.name[:2]))
    return [e for e in ALL if e.number.split(".")[0] == number]


def cells_of(notebook: Path, kind: str) -> list[tuple[list, str]]:
    """Return tags and source of the notebook's cells of one kind."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found = [c for c in cells if c["cell_type"] == kind]
    return [(c["metadata"].get("tags", []), "".join(c["source"])) for c in found]


def name(case) -> str:
    return getattr(case, "number", None) or f"{case[0].number}: {case[1]['new'][:30]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_solutions_pass_beside_what_the_notebook_has_built(path):
    """A reader's classes are the notebook's own, not those of the package."""
    built = runpy.run_path(ROOT / "dreamer_lite" / f"{path.stem[3:]}.py")
    for e in of(path):
        scope = e.parts[0].__globals__ | built
        exec(e.solution, scope)
        answers = [scope[name] for name in e.names]
        assert (e.number, exercises.verdict(e.number, *answers)) == (e.number, "passed")


@pytest.mark.parametrize("e", [e for e in ALL if e.kind == "bug"], ids=name)
def test_planted_bug_is_refused_by_the_check_itself(e):
    with pytest.raises(NotYet):
        e.check(*e.build(e.stub))


@pytest.mark.parametrize("case", CASES, ids=name)
def test_wrong_answer_runs_and_gets_its_own_hint(case):
    e, wrong = case
    answer = e.build(exercises.Edit(wrong["old"], wrong["new"]).apply(e.solution))
    verdict = exercises.verdict(e.number, *answer)
    assert wrong["hint"] and verdict.startswith("not yet - ")
    assert wrong["hint"] in verdict and "the code stopped" not in verdict


def test_wrong_answers_belong_to_exercises():
    assert set(WRONG) == {e.number for e in ALL}
    assert all(len(wrongs) >= 3 for wrongs in WRONG.values())


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


def test_a_hint_that_is_not_there_is_no_error(capsys):
    for number, level in {"1.1": 1, "5.0": 4, "6.0": 0}.items():
        exercises.hint(number, level)
    one, *more = capsys.readouterr().out.splitlines()
    assert one == "exercise 1.1 has 0 hints, and none is number 1"
    assert all("has 3 hints" in line for line in more) and len(more) == 2


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


def compared(solution, answer, *given):
    """Return what the comparison says about an answer, None if it passes."""
    e = exercises.Exercise("0.0", "", "easy", 1, (solution,), len, lambda rng: given)
    try:
        exercises.compare(e, [exercises.on_its_own_copy(answer)])
    except NotYet as hint:
        return str(hint)
    return None


def double(x):
    """Twice x."""
    return 2 * x


def test_comparison_describes_what_was_seen():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    said = compared(double, lambda x: 3 * x, (x,))
    assert said == "double with x=[1.0, 2.0] is 3, at place [0], 2 is right"
    said = compared(double, lambda x: (2 * x).sum(), (x,))
    assert "has the shape [], [2] is right" in said
    said = compared(double, lambda x: 2 * x.detach(), (x,))
    assert said == "no gradient reaches `x`: it is cut"
    said = compared(lambda x: 2 * x.detach(), double, (x,))
    assert said == "a gradient reaches `x` that must not: detach"
    said = compared(double, lambda x: x + x.detach(), (x,))
    assert said == "the gradient for `x` is 1, 2 is right"
    said = compared(double, lambda x: 2 * torch.stack([x[0].detach(), x[1]]), (x,))
    assert said == "the gradient for `x` is 0, 2 is right"
    said = compared(double, lambda x: x.mul_(2), (x.detach(),))
    assert "writes into `x`" in said
    assert "2 results, yours returns 1" in compared(lambda x: (x, x), double, (x,))


def test_right_answers_in_another_form_pass():
    x = torch.tensor([1.0, float("nan")])
    for answer in (
        lambda x: x + x,
        lambda x: (2 * x).double(),
        lambda x: 2 * x.numpy(),
        lambda x: [2 * float(value) for value in x],
    ):
        assert compared(double, answer, (x,)) is None
    assert (
        compared(lambda x: (x.sum(), 1), lambda x: (float(x.sum()), 1.0), (x,)) is None
    )


def test_pictures_may_be_arrays():
    said = exercises.verdict("4.2", lambda screen: screen.float() / 255 - 0.5)
    assert "as a NumPy array" in said and "the code stopped" not in said


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
