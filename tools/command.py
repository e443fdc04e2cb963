"""How a tool ends: what it refuses is one line, not a traceback."""

import sys
from pathlib import Path


def run(main):
    """Call a tool's `main()`; a refusal or a file error ends it in one line."""
    try:
        main()
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
