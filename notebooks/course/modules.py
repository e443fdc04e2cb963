"""The last cell of a notebook: what it exported, and whether its module agrees."""

import importlib
import sys
import textwrap

from course import export
from course.paths import ROOT


def what_we_built(notebook: str) -> None:
    """Print the names that a notebook exports and that module and notebook agree."""
    path = _notebook(notebook)
    if path is None:
        name = notebook.partition("_")[2]
        module = importlib.import_module(f"dreamer_lite.{name}")
        own = [
            n
            for n, v in vars(module).items()
            if getattr(v, "__module__", "") == module.__name__
        ]
        print(_listed(name, [n for n in own if not n.startswith("_")]))
        print("installed without its notebook: nothing to compare")
        return
    module = export.build(path)
    print(_listed(module.name, module.names))
    problem = export.compare(ROOT, path)
    if problem:
        print(f'{problem} or reexport("{notebook}")')
    else:
        print("module and notebook agree")


def reexport(notebook: str) -> None:
    """Write a notebook's module anew after you changed (and saved) an exported cell."""
    path = _notebook(notebook)
    if path is None:
        raise FileNotFoundError(
            f"notebooks/{notebook}.ipynb was not found: export needs a checkout."
        )
    module = export.build(path)
    changed = export.write(ROOT, [path])
    loaded = sys.modules.get(f"dreamer_lite.{module.name}")
    if loaded is not None:
        importlib.reload(loaded)
    state = "written anew" if changed else "already up to date"
    print(f"dreamer_lite/{module.name}.py: {state}")


def _listed(module, names):
    line = f"dreamer_lite.{module}: {', '.join(names)}"
    return textwrap.fill(line, 88, subsequent_indent="  ")


def _notebook(notebook: str):
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    return path if path.is_file() else None
