"""Where the checkout and its data are; on Colab, the packages that it needs."""

import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def data_path(name: str = "") -> Path:
    """Return the path of a file in ``data/``."""
    path = ROOT / "data" / name
    if not path.exists():
        raise FileNotFoundError(f"There is no data/{name} in {ROOT}: clone it anew.")
    return path


def install(extra: str = "") -> None:
    """On Colab, install the package with the requirements of ``extra``."""
    if "google.colab" not in sys.modules:
        return
    what = f"{ROOT}[{extra}]" if extra else str(ROOT)
    command = [sys.executable, "-m", "pip", "install", "-q", "-e", what]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"This command failed, see above: {' '.join(command)}")
    importlib.invalidate_caches()


def prepare() -> None:
    """Put package and course first on the path; on Colab, install the package once."""
    folders = [str(ROOT), str(ROOT / "notebooks")]
    sys.path[:] = folders + [folder for folder in sys.path if folder not in folders]
    try:
        metadata.version("dreamer-lite")
    except metadata.PackageNotFoundError:
        install()
