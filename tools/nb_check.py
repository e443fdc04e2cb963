"""What a stored notebook must satisfy, beyond what nbval compares.

nbval passes over changed or missing pictures and over cells that never ran; these
checks close the holes. Each returns one line per problem.
"""

import ast
import hashlib
import re
from pathlib import Path

COURSE = (
    "01_symlog 02_two_hot 03_replay 04_networks 05_rssm 06_world_model "
    "07_lambda_returns 08_actor_critic 09_dreamer 10_mario"
).split()
MEGABYTE = 1_000_000
# Each of these leaves one picture in the cell that calls it.
SHOWING = {"action_pad", "explore", "scrub", "show", "show_gif", "plt.show"}
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}
ONE_IN = 15
LOCAL_PATH = re.compile(
    r"(?<![\w./<])/(?:home|root|Users|tmp|work|opt|mnt|var|private|usr)/[\w./-]+"
    r"|\b[A-Z]:\\\\?Users\b"
)
EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+")


def notebook(nb, path, root):
    """Check one notebook that has been read from `path`."""
    found = outputs(nb, path.stem, root)
    found += _counts(nb, path.stem)
    found += _data(nb, path.stem, root)
    found += _headings(nb, path.stem)
    found += _tags(nb, path.stem)
    if path.stat().st_size > MEGABYTE:
        size = path.stat().st_size / MEGABYTE
        found.append(
            f"{path.stem}: {size:.2f} MB, at most 1 MB: fewer or smaller pictures"
        )
    return found


def code_cells(nb):
    """Return the code cells of a notebook with their numbers, from 1."""
    return enumerate((c for c in nb.cells if c.cell_type == "code"), 1)


def tags(cell):
    """Return the set of a cell's tags."""
    return set(cell.metadata.get("tags", []))


def outputs(nb, stem, root):
    """Check the stored outputs: no errors, no local paths, pictures where due."""
    found = []
    for number, cell in code_cells(nb):
        where = f"{stem}: code cell {number}"
        pictures = 0
        for output in cell.outputs:
            raises = "raises-exception" in tags(cell)
            if output.output_type == "error" and not raises:
                found.append(f"{where}: stored an error, {output.ename}")
            data = output.get("data", {})
            images = [kind for kind in data if kind.startswith("image/")]
            pictures += bool(images)
            lines = [*_alt(output, images), *_leaks(output, root)]
            found += [f"{where}: {line}" for line in lines]
        due = calls(cell.source, SHOWING)
        if pictures < due:
            found.append(f"{where}: {due} picture(s) shown, {pictures} stored: run it")
    return found


def calls(source, names):
    """Count the calls of any of `names` in a cell, outside of definitions."""
    try:
        nodes = list(ast.parse(source).body)
    except SyntaxError:  # a magic: nothing to count
        return 0
    count = 0
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        nodes += ast.iter_child_nodes(node)
        count += isinstance(node, ast.Call) and ast.unparse(node.func) in names
    return count


def _alt(output, images):
    """Find pictures that say nothing to those who cannot see them."""
    lines = []
    for kind in images:
        if not output.get("metadata", {}).get(kind, {}).get("alt", "").strip():
            lines.append(f"{kind} without alt text: show it with show(fig, alt=...)")
    if "<img" in _text(output.get("data", {}).get("text/html", "")):
        lines.append("HTML image without alt text: show it with show(fig, alt=...)")
    return lines


def _leaks(output, root):
    """Find local paths and widget state in an output."""
    lines = []
    data = output.get("data", {})
    if any("widget-view" in kind for kind in data):
        lines.append("stored a widget: run it with tools/nb.py run")
    texts = [_text(data[kind]) for kind in data if not kind.startswith("image/")]
    texts += [_text(output.get("text", "")), *output.get("traceback", [])]
    for text in texts:
        text = EMBEDDED.sub("", text)
        path = LOCAL_PATH.search(text)
        if path or str(root) in text:
            lines.append(f"shows a local path, {path.group(0) if path else root}")
    return lines


def _text(value):
    """Return an output's data as one string."""
    return value if isinstance(value, str) else "".join(map(str, value))


def _counts(nb, stem):
    """Check that the cells ran once, in order, from a fresh kernel."""
    counts = [cell.execution_count for _, cell in code_cells(nb) if cell.source]
    if counts == list(range(1, len(counts) + 1)):
        return []
    unrun = sum(count is None for count in counts)
    reason = f"{unrun} cell(s) not run" if unrun else "cells run out of order"
    return [f"{stem}: {reason}: python tools/nb.py run {stem[:2]}"]


def hashes(files, root):
    """Return {path below data/: the beginning of its sha256} of files."""
    found = {}
    for path in sorted(Path(file) for file in files):
        digest = hashlib.sha256(path.read_bytes()) if path.is_file() else None
        name = path.relative_to((root / "data").resolve()).as_posix()
        found[name] = digest.hexdigest()[:12] if digest else "missing"
    return found


def _data(nb, stem, root):
    """Check that the files of data/ are those that the outputs were made from."""
    stored = nb.metadata.get("data_files", {})
    now = hashes([(root / "data").resolve() / name for name in stored], root)
    changed = [name for name in stored if stored[name] != now[name]]
    return [f"{stem}: data/{name} has changed since: run it" for name in changed]


def _headings(nb, stem):
    """Check that the first cell is the title and that no heading level is left out."""
    found, level = [], 0
    prose = [cell.source for cell in nb.cells if cell.cell_type == "markdown"]
    for text in prose:
        text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for marks, title in re.findall(r"^(#{1,6}) +(.+)$", text, re.MULTILINE):
            if len(marks) > level + 1:
                found.append(f"{stem}: heading '{title}' skips a level")
            if len(marks) == 1 and level:
                found.append(f"{stem}: second title '{title}'")
            level = len(marks)
    if not nb.cells or not nb.cells[0].source.startswith("# "):
        found.append(f"{stem}: the first cell is not the title")
    return found


def _tags(nb, stem):
    """Check that cells which nbval skips say why, and that asides are tagged."""
    found = []
    for cell in nb.cells:
        begins = re.match(r"#+ Aside: ", cell.source) is not None
        if cell.cell_type == "markdown" and begins != ("aside" in tags(cell)):
            title = cell.source.partition("\n")[0]
            found.append(
                f"{stem}: '{title}': only a heading 'Aside: ...' has the tag aside"
            )
    for number, cell in code_cells(nb):
        if NOT_COMPARED & tags(cell) and "# " not in cell.source:
            found.append(
                f"{stem}: code cell {number}: not compared, and no comment why"
            )
    return found


def exceptions_to_nbval(notebooks):
    """Check that at most one code cell in fifteen is not compared."""
    cells = [cell for nb in notebooks for _, cell in code_cells(nb)]
    passed_over = [cell for cell in cells if NOT_COMPARED & tags(cell)]
    if len(passed_over) * ONE_IN <= len(cells):
        return []
    return [f"{len(passed_over)} of {len(cells)} code cells are not compared by nbval"]
