"""The package stays small and readable: limits that the course promises its readers."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

import nb_check

ROOT = Path(__file__).resolve().parents[1]
MODULES = [ROOT / "dreamer_lite" / f"{stem[3:]}.py" for stem in nb_check.COURSE]
PACKAGE = sorted((ROOT / "dreamer_lite").glob("*.py"))
OURS = PACKAGE + sorted((ROOT / "tools").rglob("*.py"))
# {what: lines of code at most}
BUDGETS = {"one of the ten modules": 360, "all ten": 1640, "a function": 40}


NO_CODE = {getattr(tokenize, k) for k in "COMMENT NL NEWLINE ENDMARKER".split()}
NO_CODE |= {tokenize.INDENT, tokenize.DEDENT}


def code_lines(path):
    """Count the lines with code: no comments, docstrings or blanks."""
    source, lines = path.read_text(encoding="utf-8"), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def long_functions(source):
    """Return 'name: lines' for each function that is too long, its docstring aside."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > BUDGETS["a function"]:
                found.append(f"{node.name}: {lines}")
    return found


def test_modules_stay_within_their_budgets():
    counts = {path.stem: code_lines(path) for path in MODULES}
    assert max(counts.values()) <= BUDGETS["one of the ten modules"], counts
    assert sum(counts.values()) <= BUDGETS["all ten"], counts


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_functions_are_short(path):
    assert long_functions(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_modules_import_neither_the_course_nor_jupyter(path):
    heavy = {"IPython", "ipywidgets", "jupyter", "matplotlib", "course"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in getattr(node, "names", [])]
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert not heavy & {name.split(".")[0] for name in names}
