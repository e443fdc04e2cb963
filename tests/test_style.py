"""The package stays small and readable: limits that the course promises its readers."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

import nb_check

ROOT = Path(__file__).resolve().parents[1]
NAMES = [stem[3:] for stem in nb_check.COURSE]
MODULES = [ROOT / "dreamer_lite" / f"{name}.py" for name in NAMES]
WRITTEN = [p for p in MODULES if p.is_file()]
OURS = sorted(p for d in ("dreamer_lite", "tools") for p in (ROOT / d).rglob("*.py"))
OUTSIDE_THE_COURSE = sorted((ROOT / "dreamer_lite").glob("*.py"))
# A third of these lines are the sentences of the errors, which readers meet too, and a
# tenth are typed signatures with an argument a line.
EACH, FIRST_EIGHT, ALL_TEN, FUNCTION, COLUMNS = 225, 984, 1368, 40, 88


NO_CODE = {getattr(tokenize, k) for k in "COMMENT NL NEWLINE ENDMARKER".split()}
NO_CODE |= {tokenize.INDENT, tokenize.DEDENT}


def code_lines(source):
    """Count the lines with code: no comments, docstrings or blanks."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            text = node.body[0]
            lines -= set(range(text.lineno, text.end_lineno + 1))
    return len(lines)


def count(path):
    """Return a module's lines of code."""
    return code_lines(path.read_text(encoding="utf-8"))


def long_functions(source):
    """Return 'name: lines' for each function that is too long, its docstring aside."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                lines -= text.end_lineno - text.lineno + 1
            if lines > FUNCTION:
                found.append(f"{node.name}: {lines}")
    return found


def test_code_lines_leave_out_comments_docstrings_and_blanks():
    source = '"""Doc\n\nmore."""\n\nX = """a\nb"""  # why\n\n\ndef f():\n    "Doc."\n'
    assert code_lines(source + "    # a comment\n    return 1\n") == 4


def test_long_function_is_found():
    body = "    x = 1\n" * FUNCTION
    assert long_functions(f"def f():\n{body}") == [f"f: {FUNCTION + 1}"]
    assert long_functions(f'def f():\n    """Doc.\n\n    More."""\n{body[10:]}') == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_module_is_small(path):
    assert count(path) <= EACH


def test_package_is_small():
    counts = [count(path) for path in WRITTEN]
    assert sum(counts[:8]) <= FIRST_EIGHT
    assert sum(counts) <= ALL_TEN


def untyped(source):
    """Return the names of functions with an argument or a result without a type."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            spec = node.args
            named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
            more = [extra for extra in (spec.vararg, spec.kwarg) if extra]
            given = [a for a in named if a.arg not in ("self", "cls")] + more
            typed = node.returns is not None or node.name == "__init__"
            if not typed or any(argument.annotation is None for argument in given):
                found.append(node.name)
    return found


def test_untyped_function_is_found():
    assert untyped("def f(x: int): ...") == ["f"]
    assert untyped("def f(x: int, *rest) -> int: ...") == ["f"]
    assert untyped("class A:\n    def __init__(self, x: int): ...") == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_every_signature_of_the_ten_modules_is_typed(path):
    assert untyped(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_functions_and_lines_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert long_functions(source) == []
    assert [line for line in source.splitlines() if len(line) > COLUMNS] == []


@pytest.mark.parametrize("path", OUTSIDE_THE_COURSE, ids=lambda path: path.stem)
def test_modules_import_neither_the_course_nor_jupyter(path):
    heavy = {"IPython", "ipywidgets", "jupyter", "matplotlib", "course"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in getattr(node, "names", [])]
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""] + [f"{node.module}.{name}" for name in names]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in names:
                assert not any(name == h or name.startswith(h + ".") for h in heavy)
