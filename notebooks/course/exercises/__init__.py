"""Exercises with one source for stub, solution and check.

``nb01.py`` holds the exercises of notebook 01, ``nb02.py`` those of 02, and so on. Each
is declared once, with ``@exercise(...)`` on its check, from real Python functions that
are the solution. The stub that the notebook shows is made from them: lines that end in
``# solution`` become ``raise NotImplementedError``, or one edit plants a bug.

An answer passes in two stages. The exercise's own check tells typical mistakes apart
and gives a hint for each. Then ``course.exercises.compare`` runs answer and solution on
random inputs of random sizes and compares results and gradients. In both stages, an
answer that writes into its inputs is refused. Wrong answers that must not pass are in
``tests/wrong_answers.yaml``.
"""

import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from course.checks import same_random_numbers
from course.exercises.compare import NotYet, compare, on_its_own_copy
from course.exercises.compare import require as require

HERE = Path(__file__).parent
MARK = re.compile(r"\s*#\s*solution\s*$")
OPEN, CLOSE = "# solution", "# end of solution"
_REGISTRY: dict[str, "Exercise"] = {}


@dataclass(frozen=True)
class Edit:
    """Replace ``old``, found once in the solution, by ``new``."""

    old: str
    new: str

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
    parts: Sequence[Callable]
    check: Callable
    draw: Callable
    bug: Edit | None = None
    random: bool = False
    hints: Sequence[str] = ()

    @property
    def kind(self) -> str:
        """Say whether the reader writes lines or finds a bug."""
        return "bug" if self.bug else "write"

    @property
    def names(self) -> list[str]:
        """The names of the functions that the reader writes."""
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
        if self.bug:
            return self.bug.apply(self.solution)
        return with_gaps(self.marked, self.number)

    def build(self, source: str) -> list:
        """Run source code beside the solution's imports and return its functions."""
        scope = dict(self.parts[0].__globals__)
        exec(compile(source, f"<exercise {self.number}>", "exec"), scope)
        return [scope[name] for name in self.names]


def exercise(
    number: str,
    title: str,
    difficulty: str,
    minutes: int,
    solution: Sequence[Callable],
    draw: Callable,
    **more,
) -> Callable:
    """Declare one exercise; this decorates its check.

    The check takes the reader's functions, in order, and calls ``require``.

    Args:
        number: notebook and place, e.g. "5.1".
        title: a few words, the heading in the notebook.
        difficulty: "easy", "medium" or "hard".
        minutes: how long it should take.
        solution: the functions that the reader writes, as Python objects of the
            exercise file. The lines to be written end in ``# solution`` or are between
            ``# solution`` and ``# end of solution``.
        draw: takes a NumPy generator and returns random arguments, one tuple for each
            function; torch's generator is seeded as well. Vary sizes and ranges, and
            let tensors require a gradient where the answer must pass it on.
        **more: ``bug``, the ``Edit`` that plants a bug in the solution, which then is
            the stub; ``random``, True if right answers may draw different random
            numbers, so that answer and solution are not compared on the drawn
            arguments; ``hints``, what ``hint(number, 1)``, ``hint(number, 2)``, ...
            print, from a nudge to an outline.
    """

    def declare(check: Callable) -> Callable:
        facts = (number, title, difficulty, minutes, tuple(solution), check, draw)
        _REGISTRY[number] = Exercise(*facts, **more)
        return check

    return declare


def in_stages(**stages: Callable) -> Callable:
    """Make one check of several; a hint says which of them the answer has reached.

    Args: stages, {name: check}, from shapes to the authors' numbers.
    """

    def check(*answers):
        for place, (name, stage) in enumerate(stages.items(), 1):
            try:
                stage(*answers)
            except NotYet as hint:
                where = f"stage {place} of {len(stages)} ({name.replace('_', ' ')})"
                raise NotYet(f"{where}: {hint}") from None

    return check


def find(number: str) -> Exercise:
    """Return a declared exercise, loading its notebook's file on first use."""
    notebook = str(number).partition(".")[0]
    if number not in _REGISTRY and notebook.isdigit():
        name = f"nb{int(notebook):02d}"
        if (HERE / f"{name}.py").exists():
            importlib.import_module(f"{__name__}.{name}")
    if number not in _REGISTRY:
        raise NotYet(f"there is no exercise {number!r}")
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
        answers = [on_its_own_copy(answer) for answer in answers]
        with same_random_numbers():
            found.check(*answers)
            if not found.random:
                compare(found, answers)
    except NotImplementedError:
        return "to do"
    except NotYet as hint:
        return f"not yet - {hint}"
    except Exception as error:
        text = " ".join(str(error).split())
        return f"not yet - the code stopped with {type(error).__name__}: {text}"
    return "passed"


def hint(number: str, level: int = 1) -> None:
    """Print one of the hints of an exercise, 1 for the first."""
    hints = find(number).hints
    if not 1 <= level <= len(hints):
        print(f"exercise {number} has {len(hints)} hints, and none is number {level}")
        return
    print(f"hint {level} of {len(hints)}: {hints[level - 1]}")


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
    """Tell whether two lists of functions do the same, byte for byte."""
    return [fingerprint(a) for a in first] == [fingerprint(b) for b in second]


def fingerprint(thing):
    """Return what a function does, free of file names and line numbers."""
    code = getattr(thing, "__code__", thing)
    if not isinstance(code, types.CodeType):
        return repr(thing)
    return code.co_code, [fingerprint(c) for c in code.co_consts], code.co_names


def heading(e: Exercise) -> str:
    """Return the Markdown heading of an exercise."""
    return f"### Exercise {e.number}: {e.title}"


def facts(e: Exercise) -> str:
    """Return the line below the heading: difficulty, minutes, kind."""
    kind = ", one planted bug" if e.kind == "bug" else ""
    if e.hints:
        gaps = e.stub.count("NotImplementedError")
        gap = e.solution.count("\n") - e.stub.count("\n") + gaps
        kind = f", {gap} lines to write, {len(e.hints)} hints"
    return f"*{e.difficulty}, about {e.minutes} minutes{kind}*"
