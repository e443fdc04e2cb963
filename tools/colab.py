"""Run notebooks as Colab would: a bare folder, a fake google.colab, a real clone.

    python tools/colab.py [01 06] [--python python3.12]

Colab itself cannot be tested from here, so this imitates what the setup cell meets
there: Python with torch and Jupyter but without Dreamer Lite, an empty working folder,
`google.colab` already imported, and a repository to clone (a local bare one, made from
the last commit). Each notebook runs twice in a row: the second time, the setup cell
must find what the first has installed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nb

ROOT = Path(__file__).resolve().parents[1]
# What Colab has installed before the first cell runs.
PREINSTALLED = "ipykernel ipywidgets matplotlib nbclient numpy pillow torch".split()


def make_environment(folder, python):
    """Create a virtual environment with Colab's packages and a fake google.colab."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    inside = folder / "bin" / "python"
    constraints = str(ROOT / "constraints.txt")
    pip = [str(inside), "-m", "pip", "install", "-q", "-c", constraints]
    subprocess.run([*pip, *PREINSTALLED], check=True)
    packages = next(folder.glob("lib/python3.*/site-packages"))
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").write_text("")
    # A .pth line that imports runs at every start: the module is loaded like on Colab.
    (packages / "fake_colab.pth").write_text("import google.colab\n")
    return inside


def place(path, folder, url):
    """Put a copy of a notebook whose setup cell knows the repository into `folder`."""
    notebook = nb.read(path)
    for cell in notebook.cells:
        if "setup" in nb.nb_check.tags(cell):
            cell.source = nb.setup_cell(url)
    (folder / path.name).write_text(nb.nbformat.writes(notebook), encoding="utf-8")


def run(path, folder, python, timeout):
    """Execute a notebook in the working folder."""
    jupyter = str(python.with_name("jupyter"))
    command = [jupyter, "execute", f"--timeout={timeout}", path.name]
    env = os.environ | {"DREAMER_LITE_STATIC": "1", "VIRTUAL_ENV": "", "PYTHONPATH": ""}
    env["IPYTHONDIR"] = str(folder / ".ipython")
    env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
    if subprocess.run(command, cwd=folder, env=env, check=False).returncode:
        raise ValueError(f"{path.stem}: failed as on Colab, see above")


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", default=["01", "06"], help="numbers")
    parser.add_argument("--python", default="python3.12", help="like Colab's")
    parser.add_argument("--timeout", type=int, default=900, help="seconds per cell")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bare, content = folder / "remote.git", folder / "content"
        content.mkdir()
        try:
            clone = ["git", "clone", "-q", "--bare", str(ROOT), str(bare)]
            subprocess.run(clone, check=True)
            inside = make_environment(folder / "env", options.python)
            for path in nb.select(ROOT, options.which) * 2:
                place(path, content, f"file://{bare}")
                run(path, content, inside, options.timeout)
                print(f"colab: {path.stem} ran in a folder with a clone", flush=True)
        except (ValueError, OSError, subprocess.CalledProcessError) as error:
            print(f"colab: {error}", file=sys.stderr)
            return 1
        if not (content / "dreamer-lite" / "data").is_dir():
            print("colab: the setup cell did not clone the repository", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
