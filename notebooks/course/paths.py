"""Where the data of the course lies."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def data_path(name: str = "") -> Path:
    """Return the path of a file in ``data/``, in a checkout or an editable install."""
    for root in (ROOT, Path.cwd(), Path.cwd().parent):
        path = root / "data" / name
        if path.exists() and (root / "pyproject.toml").exists():
            return path
    raise FileNotFoundError(
        f"The file data/{name} was not found: it comes with the repository, so clone "
        "it and run pip install -e . there (a plain pip install holds the code only)."
    )
