"""The last cell of a notebook: what it exported, and whether its module agrees."""

import importlib
import sys
import textwrap

from course import export
from course.paths import ROOT


def what_we_built(notebook: str) -> None:
    """Print the names that a notebook exports and that module and notebook agree."""
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    module = export.build(path)
    line = f"dreamer_lite.{module.name}: {', '.join(module.names)}"
    print(textwrap.fill(line, 88, subsequent_indent="  "))
    problem = export.compare(ROOT, path)
    print(
        f'{problem} or reexport("{notebook}")'
        if problem
        else "module and notebook agree"
    )


def reexport(notebook: str) -> None:
    """Write a notebook's module anew after you changed (and saved) an exported cell."""
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    changed = export.write(ROOT, [path])
    name = export.build(path).name
    loaded = sys.modules.get(f"dreamer_lite.{name}")
    if loaded is not None:
        importlib.reload(loaded)
    state = "written anew" if changed else "already up to date"
    print(f"dreamer_lite/{name}.py: {state}")
