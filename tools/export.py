"""Write dreamer_lite/NAME.py from the cells of the notebooks marked `#| export`.

    python tools/export.py            write all ten modules
    python tools/export.py --check    write nothing; one line for each difference

The rules are in notebooks/course/export.py, which a notebook's last cell uses too.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_logic():
    """Load the rules by path: the course's other helpers need numpy and torch."""
    path = ROOT / "notebooks" / "course" / "export.py"
    spec = importlib.util.spec_from_file_location("course_export", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


logic = load_logic()


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(argv)
    try:
        changed = [] if options.check else logic.write(options.root)
        for module in changed:
            print(f"wrote dreamer_lite/{module.name}.py from {module.notebook}")
        found = logic.problems(options.root)
    except logic.ExportError as error:
        found = [str(error)]
    for line in found:
        print(f"export: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
