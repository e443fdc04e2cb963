"""From notebook to module: collect the cells marked `#| export`.

A notebook names its module once, in a cell `#| default_exp NAME`. Every code cell
whose first line is `#| export` goes into `dreamer_lite/NAME.py`, in order, without
that line. Only the standard library is used, so that the command `tools/export.py`
runs anywhere and a notebook's last cell can show what it built.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "dreamer_lite"
MARK = "#| export"
GENERATED = "# Generated from "
HEADER = (
    GENERATED + "notebooks/{notebook}.ipynb by tools/export.py.\n"
    "# Edit the notebook, not this file.\n"
)
DEFAULT_EXP = re.compile(r"^#\|\s*default_exp\b[ \t]*(.*)$", re.MULTILINE)
ALMOST_MARK = re.compile(r"^\s*#\s*\|\s*export\b.*$", re.MULTILINE)


class ExportError(ValueError):
    """A notebook that cannot become a module, said in one line."""


@dataclass(frozen=True)
class Module:
    """One module: its name, the notebook's stem, its full text, what it defines."""

    name: str
    notebook: str
    source: str
    names: tuple[str, ...]


def code_cells(path):
    """Return the sources of a notebook's code cells, in order."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{Path(path).name}: not a notebook ({error})") from None
    return [source if isinstance(source, str) else "".join(source) for source in code]


def build(path):
    """Return the `Module` that the notebook at `path` exports."""
    stem = Path(path).stem
    cells = code_cells(path)
    names = [name.strip() for cell in cells for name in DEFAULT_EXP.findall(cell)]
    if len(names) != 1:
        found = ", ".join(names) if names else "none"
        raise ExportError(
            f"{stem}: needs exactly one '#| default_exp NAME', has {found}"
        )
    if not names[0].isidentifier():
        raise ExportError(f"{stem}: default_exp '{names[0]}' is no module name")
    bodies = [_body(stem, number, cell) for number, cell in enumerate(cells, 1)]
    bodies = [body for body in bodies if body]
    if not bodies:
        raise ExportError(f"{stem}: no code cell starts with '{MARK}'")
    if _is_docstring(bodies[0]) and len(bodies) > 1:
        # Below a docstring the formatter wants one blank line, not two.
        bodies[:2] = [bodies[0] + "\n\n" + bodies[1]]
    text = "\n\n\n".join(bodies) + "\n"
    source = HEADER.format(notebook=stem) + text
    return Module(names[0], stem, source, _public_names(source))


def _body(stem, number, cell):
    """Return the exported text of one code cell, or None if it is not exported."""
    first, _, rest = cell.partition("\n")
    marks = [line.strip() for line in ALMOST_MARK.findall(cell)]
    if not marks:
        return None
    where = f"{stem}: code cell {number}"
    if first.rstrip() != MARK or len(marks) > 1:
        raise ExportError(f"{where}: '{MARK}' must be exactly the cell's first line")
    body = rest.strip("\n").rstrip()
    try:
        ast.parse(body)
    except SyntaxError as error:
        reason = f"syntax error: {error.msg} (line {(error.lineno or 0) + 1})"
        raise ExportError(f"{where}: exported, but has a {reason}") from None
    return body


def _is_docstring(body):
    """Say whether a cell holds one string and nothing else."""
    nodes = ast.parse(body).body
    return len(nodes) == 1 and isinstance(
        getattr(nodes[0], "value", None), ast.Constant
    )


def _public_names(source):
    """Return the public functions, classes and constants that a module defines."""
    names = []
    for node in ast.parse(source).body:
        targets = getattr(node, "targets", [getattr(node, "target", node)])
        names += [getattr(t, "name", getattr(t, "id", None)) for t in targets]
    return tuple(name for name in names if name and not name.startswith("_"))


def notebook_paths(root):
    """Return the numbered notebooks below `root`, in order."""
    return sorted((Path(root) / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def target(root, module):
    """Return where a `Module` is written."""
    return Path(root) / PACKAGE / f"{module.name}.py"


def compare(root, path):
    """Return None if notebook and module agree, else one line that says why not."""
    module = build(path)
    file = target(root, module)
    if file.is_file() and file.read_bytes() == module.source.encode():
        return None
    state = "stale" if file.is_file() else "missing"
    return f"{module.notebook}: {PACKAGE}/{file.name} is {state}: run make export"


def problems(root):
    """Return one line for each notebook or module that is not as it should be."""
    found, owned = [], set()
    for path in notebook_paths(root):
        owned.add(path.stem[3:])
        try:
            owned.add(build(path).name)
            found.append(compare(root, path))
        except ExportError as error:
            found.append(str(error))
    for path in sorted((Path(root) / PACKAGE).glob("*.py")):
        generated = path.read_text(encoding="utf-8").startswith(GENERATED)
        if generated and path.stem not in owned:
            found.append(f"{PACKAGE}/{path.name} has no notebook any more: delete it")
    return [line for line in found if line]


def write(root, paths=None):
    """Write the modules of `paths` (default: of all notebooks); return what changed."""
    modules, owners = [build(path) for path in paths or notebook_paths(root)], {}
    for module in modules:
        owner = owners.setdefault(module.name, module.notebook)
        if owner != module.notebook:
            raise ExportError(
                f"{module.notebook}: module '{module.name}' is already {owner}'s"
            )
        file = target(root, module)
        if file.is_file() and not file.read_text("utf-8").startswith(GENERATED):
            raise ExportError(
                f"{module.notebook}: {file.name} is not a generated file; "
                "delete it if this notebook replaces it"
            )
    changed = [m for m in modules if compare(root, notebook_path(root, m))]
    for module in changed:
        target(root, module).parent.mkdir(exist_ok=True)
        target(root, module).write_bytes(module.source.encode())
    return changed


def notebook_path(root, module):
    """Return the path of a `Module`'s notebook."""
    return Path(root) / "notebooks" / f"{module.notebook}.ipynb"
