"""Exercises with one source for stub, solution and check.

``nb01.py`` holds the exercises of notebook 01, ``nb02.py`` those of 02, and so on. Each
exercise is declared once, with ``exercise(...)``, from real Python functions that are
the solution. The stub that the notebook shows is made from them: lines that end in
``# solution`` become ``raise NotImplementedError``, or one edit plants a bug. The check
and at least three plausible wrong answers, also edits of the solution, stand beside it,
so that ``tests/test_exercises.py`` can prove that the check is worth its name.
"""

import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from course.checks import same_random_numbers

HERE = Path(__file__).parent
MARK = re.compile(r"\s*#\s*solution\s*$")
OPEN, CLOSE = "# solution", "# end of solution"
_REGISTRY: dict[str, "Exercise"] = {}


class NotYet(Exception):
    """The answer is not right yet; the message is the hint."""


@dataclass(frozen=True)
class Edit:
    """Replace ``old``, found once in the solution, by ``new``; ``hint`` must appear."""

    old: str
    new: str
    hint: str = ""

    def apply(self, text: str) -> str:
        """Return the edited text."""
        if text.count(self.old) != 1:
            count = text.count(self.old)
            raise ValueError(
                f"The text of an edit occurs once, but {self.old!r} {count} times."
            )
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Exercise:
    """One exercise; ``exercise(...)`` describes the fields."""

    number: str
    title: str
    difficulty: str
    minutes: int
    kind: str
    parts: Sequence[Callable]
    check: Callable
    example: Callable
    wrongs: Sequence[Edit]
    bug: Edit | None
    scope: dict = field(repr=False)

    @property
    def names(self) -> list[str]:
        """The names of the functions and classes that the reader writes."""
        return [part.__name__ for part in self.parts]

    @property
    def marked(self) -> str:
        """The source of the solution with its marks."""
        return "\n\n\n".join(
            textwrap.dedent(inspect.getsource(p)).strip() for p in self.parts
        )

    @property
    def solution(self) -> str:
        """The source of the solution as the reader sees it."""
        return without_marks(self.marked)

    @property
    def stub(self) -> str:
        """The code cell of the notebook before the reader fills it."""
        if self.kind == "bug":
            return self.bug.apply(self.solution)
        return with_gaps(self.marked, self.number)

    def build(self, source: str) -> list:
        """Run source code beside the solution's imports and return its functions."""
        scope = dict(self.scope)
        exec(compile(source, f"<exercise {self.number}>", "exec"), scope)
        return [scope[name] for name in self.names]


def exercise(
    number: str,
    title: str,
    *,
    difficulty: str,
    minutes: int,
    solution: Sequence[Callable],
    check: Callable,
    example: Callable,
    wrongs: Sequence[Edit],
    kind: str = "write",
    bug: Edit | None = None,
) -> Exercise:
    """Declare one exercise.

    Args:
        number: notebook and place, e.g. "5.1".
        title: a few words, the heading in the notebook.
        difficulty: "easy", "medium" or "hard".
        minutes: how long it should take.
        solution: the functions or classes that the reader writes, as Python objects
            of the exercise file. In a "write" exercise the lines to be written end in
            ``# solution`` or stand between ``# solution`` and ``# end of solution``.
        check: takes the reader's functions in the same order and calls ``require``.
        example: takes them too and returns results (tensors, numbers, tuples, dicts)
            whose shapes and dtypes every wrong answer must share with the solution.
        wrongs: at least three ``Edit(old, new, hint)`` of the solution, each refused
            with a message that contains its own hint.
        kind: "write", or "bug" for a solution with one planted bug.
        bug: the ``Edit`` that plants it.
    """
    found = Exercise(
        number, title, difficulty, minutes, kind, tuple(solution), check, example,
        tuple(wrongs), bug, check.__globals__,
    )  # fmt: skip
    problem = _problem(found)
    if problem:
        raise ValueError(f"Exercise {number}: {problem}.")
    _REGISTRY[number] = found
    return found


def _problem(e: Exercise) -> str | None:
    if not re.fullmatch(r"\d{1,2}\.\d", e.number):
        return "the number is written as in 5.1"
    if e.difficulty not in ("easy", "medium", "hard"):
        return f"the difficulty is easy, medium or hard, not {e.difficulty!r}"
    if e.kind not in ("write", "bug") or (e.kind == "bug") != (e.bug is not None):
        return "the kind is 'write', or 'bug' with bug=Edit(...)"
    if not e.parts:
        return "solution=[...] is empty"
    return None


def require(condition, hint: str) -> None:
    """Stop a check with a hint unless the condition holds."""
    if not bool(condition):
        raise NotYet(hint)


def find(number: str) -> Exercise:
    """Return a declared exercise, loading its notebook's file on first use."""
    notebook = str(number).partition(".")[0]
    if number not in _REGISTRY and notebook.isdigit():
        name = f"nb{int(notebook):02d}"
        if (HERE / f"{name}.py").exists():
            importlib.import_module(f"{__name__}.{name}")
    if number not in _REGISTRY:
        raise KeyError(f"There is no exercise {number!r}.")
    return _REGISTRY[number]


def declared() -> list[Exercise]:
    """Return all declared exercises in order."""
    for path in sorted(HERE.glob("nb[0-9][0-9].py")):
        importlib.import_module(f"{__name__}.{path.stem}")
    return sorted(
        _REGISTRY.values(), key=lambda e: [int(x) for x in e.number.split(".")]
    )


def check(number: str, *answers) -> None:
    """Check the reader's answer and print one line; never stop the notebook."""
    print(f"exercise {number}: {verdict(number, *answers)}")


def verdict(number: str, *answers) -> str:
    """Return "to do", "passed" or "not yet - hint" for the reader's functions."""
    try:
        found = find(number)
        if len(answers) != len(found.names):
            call = ", ".join([f'"{number}"', *found.names])
            return f"not yet - call check({call})"
        if found.kind == "bug" and same_code(answers, found.build(found.stub)):
            return "to do"
        with same_random_numbers():
            found.check(*answers)
    except NotImplementedError:
        return "to do"
    except NotYet as hint:
        return f"not yet - {hint}"
    except Exception as error:
        text = " ".join(str(error).split())
        return f"not yet - the code stopped with {type(error).__name__}: {text}"
    return "passed"


def solution(number: str) -> None:
    """Print the solution of an exercise."""
    print(find(number).solution)


def without_marks(text: str) -> str:
    """Return the solution without its ``# solution`` marks."""
    lines = [line for line in text.splitlines() if line.strip() not in (OPEN, CLOSE)]
    return "\n".join(MARK.sub("", line) for line in lines)


def with_gaps(text: str, number: str) -> str:
    """Return the stub: each run of marked lines becomes one ``NotImplementedError``."""
    lines, inside, after_gap, blanks = [], False, False, []
    for line in text.splitlines():
        inside = inside or line.strip() == OPEN
        if inside or MARK.search(line):
            if not after_gap:
                indent = line[: len(line) - len(line.lstrip())]
                gap = f'{indent}raise NotImplementedError("exercise {number}")'
                lines += [*blanks, gap]
            after_gap, blanks = True, []
            inside = inside and line.strip() != CLOSE
        elif not line.strip():
            blanks.append(line)
        else:
            lines += [*blanks, line]
            after_gap, blanks = False, []
    return "\n".join(lines)


def same_code(first: Sequence, second: Sequence) -> bool:
    """Tell whether two lists of functions or classes do the same, byte for byte."""
    return [fingerprint(a) for a in first] == [fingerprint(b) for b in second]


def fingerprint(thing):
    """Return what a function or class does, free of file names and line numbers."""
    if isinstance(thing, type):
        return [(k, fingerprint(v)) for k, v in vars(thing).items() if callable(v)]
    if isinstance(thing, (staticmethod, classmethod)) or hasattr(thing, "__wrapped__"):
        return fingerprint(thing.__wrapped__)
    code = (
        thing if isinstance(thing, types.CodeType) else getattr(thing, "__code__", None)
    )
    if code is None:
        return repr(thing)
    constants = [
        fingerprint(c) if isinstance(c, types.CodeType) else repr(c)
        for c in code.co_consts
    ]
    return code.co_code, constants, code.co_names


def cells(number: str) -> str:
    """Return the notebook cells of an exercise in percent format, ready to paste."""
    e = find(number)
    answers = ", ".join([f'"{number}"', *e.names])
    task = "Find the bug." if e.kind == "bug" else "Say here what to write."
    return (
        f"# %% [markdown]\n# {heading(e)}\n#\n# {facts(e)}\n#\n# {task}\n\n"
        f'# %% tags=["exercise-{number}"]\n{e.stub}\n\n'
        f"# %%\ncheck({answers})\n\n"
        f'# %%\n# solution("{number}")\n'
    )


def heading(e: Exercise) -> str:
    """Return the Markdown heading of an exercise."""
    return f"### Exercise {e.number}: {e.title}"


def facts(e: Exercise) -> str:
    """Return the line below the heading: difficulty, minutes, kind."""
    kind = ", one planted bug" if e.kind == "bug" else ""
    return f"*{e.difficulty}, about {e.minutes} minutes{kind}*"
