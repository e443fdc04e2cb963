# Setup, the same in every notebook: find Dreamer Lite, or on Colab fetch it.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPO = ""  # the repository's address, written by `python tools/nb.py stamp`


def find_dreamer_lite():
    """Return the folder with package and data; on Colab, clone and install it first."""
    spec = importlib.util.find_spec("dreamer_lite")
    installed = [Path(spec.origin).parents[1]] if spec and spec.origin else []
    for folder in [Path("."), Path(".."), *installed]:
        if (folder / "dreamer_lite").is_dir() and (folder / "data").is_dir():
            return folder.resolve()
    if "google.colab" not in sys.modules:
        sys.exit(
            "Dreamer Lite was not found: open this notebook inside its repository."
        )
    if not REPO:
        sys.exit("This copy does not know its repository's address: clone it by hand.")
    clone = Path("dreamer-lite")
    commands = [[sys.executable, "-m", "pip", "install", "-q", "-e", str(clone)]]
    if not clone.is_dir():
        commands.insert(0, ["git", "clone", "-q", "--depth", "1", REPO, str(clone)])
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"This command failed, see above: {' '.join(command)}")
    return clone.resolve()


root = str(find_dreamer_lite())
for folder in (root, f"{root}/notebooks"):
    if folder not in sys.path[:2]:
        sys.path.insert(0, folder)

from course.export import problems

for problem in problems(root)[:1]:
    print(problem)
