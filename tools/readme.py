"""Generate the marked blocks of README.md from stored results.

    python tools/readme.py            rewrite every block
    python tools/readme.py --check    write nothing; fail if a block is out of date

A block lies between `<!-- begin:NAME -->` and `<!-- end:NAME -->`. To add one, write a
function from the checkout's root to markdown and decorate it with `@block("NAME")`.
Figures come from files under data/ and from the repository itself, never by hand.
"""

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from pathlib import Path

import nb_check
from export import logic as export

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"<!-- begin:([\w-]+) -->\n(.*?)<!-- end:\1 -->", re.DOTALL)
WIDGETS = {"action_pad", "explore", "scrub"}
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
BLOCKS = {}


def block(name):
    """Register the function that writes the block `name`."""

    def register(function):
        BLOCKS[name] = function
        return function

    return register


def table(head, rows):
    """Return a markdown table; every column after the first is set to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def read_json(root, name):
    """Return a stored result, or None where there is none yet."""
    path = root / "data" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


# The notebooks


def count_notebook(path):
    """Return what a notebook holds: cells, exercises, prompts, widgets, figures."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    return {
        "cells": len(cells),
        "exercises": len({tag for tag in tags if tag.startswith("exercise-")}),
        "prompts": tags.count("predict"),
        "widgets": sum(nb_check.calls(source, WIDGETS) for source in code),
        "figures": sum(kind.startswith("image/") for kind in kinds),
    }


def title_of(path):
    """Return a notebook's title, without its number."""
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    title = "".join(first["source"]).splitlines()[0].lstrip("# ")
    return re.sub(r"^(Notebook )?\d+\s*[.:·-]?\s*", "", title)


@block("notebooks")
def notebooks(root):
    """One row for each notebook."""
    times = read_json(root, "times.json") or {}
    rows, sums, columns = [], {}, None
    for path in export.notebook_paths(root):
        counts = count_notebook(path)
        columns = list(counts)
        minutes = times.get(path.stem, {}).get("minutes")
        link = f"[{path.stem[:2]} {title_of(path)}](notebooks/{path.name})"
        shown = "" if minutes is None else f"{minutes:.1f}"
        rows.append([link, shown, *counts.values()])
        for name, value in [("minutes", minutes or 0), *counts.items()]:
            sums[name] = sums.get(name, 0) + value
    if not rows:
        return "*No notebooks yet.*"
    total = f"{sums.pop('minutes'):.1f}" if times else ""
    rows.append(["all", total, *sums.values()])
    return table(["notebook", "minutes", *columns], rows)


# The package


def code_lines(source):
    """Count the lines of a module that hold code: no comments, docstrings or blanks."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            text = node.body[0]
            lines -= set(range(text.lineno, text.end_lineno + 1))
    return len(lines)


@block("code")
def code(root):
    """One row for each module: its code lines, and those of its test."""
    rows, sums = [], [0, 0]
    for path in export.notebook_paths(root):
        name = path.stem[3:]
        counts = []
        for file in (f"dreamer_lite/{name}.py", f"tests/test_{name}.py"):
            exists = (root / file).is_file()
            text = (root / file).read_text(encoding="utf-8") if exists else ""
            counts.append(code_lines(text))
        rows.append([f"`{name}.py`", *counts])
        sums = [total + count for total, count in zip(sums, counts)]
    return table(
        ["module", "lines of code", "lines of its test"], [*rows, ["all", *sums]]
    )


# Speed


@block("bench")
def bench(root):
    """One table for each machine that `make bench` has measured."""
    paths = sorted((root / "data" / "bench").glob("*.json"))
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return "\n\n".join(map(bench_table, reports)) or "*Not measured yet: `make bench`.*"


def bench_table(report):
    """Return the machine in one line and a row for each model that ran on it."""
    head = ["model", "M parameters", "seconds per step", "frames per second", "peak MB"]
    rows = []
    for case in report["cases"]:
        name = [case["case"], case["precision"], case.get("speed", "eager")]
        rows.append(
            [
                ", ".join(part for part in name if part != "eager"),
                f"{case['parameters'] / 1e6:.1f}",
                f"{case['step']['median']:.3f}",
                f"{case['frames_per_second']:,.0f}",
                f"{case['peak_mb']:,.0f}",
            ]
        )
    about = report["machine"]
    where = about.get("gpu") or f"{about['processor']}, {about['threads']} threads"
    versions = f"Python {about['python']}, torch {about['torch']}"
    line = f"{where}; {versions}; {about['date']}, commit {about['commit']}:"
    return f"{line}\n\n{table(head, rows)}"


# Writing and checking


def render(root, text):
    """Return README text with every block written anew."""

    def fill(match):
        name = match.group(1)
        if name not in BLOCKS:
            raise ValueError(
                f"README.md: unknown block '{name}', have {sorted(BLOCKS)}"
            )
        body = BLOCKS[name](root).strip("\n")
        return f"<!-- begin:{name} -->\n{body}\n<!-- end:{name} -->"

    begun = re.findall(r"<!-- begin:([\w-]+) -->", text)
    closed = [match.group(1) for match in MARKED.finditer(text)]
    if begun != closed:
        broken = sorted(set(begun) - set(closed)) or begun
        raise ValueError(f"README.md: block without its end: {', '.join(broken)}")
    return MARKED.sub(fill, text)


def stale(root, text):
    """Return the names of the blocks that are out of date."""
    new = {m.group(1): m.group(2) for m in MARKED.finditer(render(root, text))}
    return [m.group(1) for m in MARKED.finditer(text) if new[m.group(1)] != m.group(2)]


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(argv)
    path = options.root / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
        names = stale(options.root, text)
        if not options.check and names:
            path.write_bytes(render(options.root, text).encode())
    except (OSError, ValueError) as error:
        print(f"readme: {error}", file=sys.stderr)
        return 1
    for name in names:
        state = "is out of date: make readme" if options.check else "written"
        print(f"README.md: block '{name}' {state}")
    return 1 if names and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
