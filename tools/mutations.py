"""Break the code on purpose: every break must make its test fail.

    python tools/mutations.py            all of tests/mutations.yaml
    python tools/mutations.py reset      those whose line holds the word

Each mutation changes one place in a copy of the repository and runs one test
there. A test that still passes protects nothing: the command exits with 1.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("dreamer_lite", "tests", "data", "notebooks", "tools", "pyproject.toml")
COMMAND = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]


def read(root=ROOT):
    """Return the mutations: dictionaries with why, of, find, put and test."""
    return yaml.safe_load((root / "tests/mutations.yaml").read_text("utf-8"))


def mutate(source, mutation):
    """Return the changed source. Raises: ValueError unless exactly one place fits."""
    changed, count = re.subn(mutation["find"], lambda _: mutation["put"], source)
    if count != 1 or changed == source:
        raise ValueError(
            f"'{mutation['why']}' must change one place of {mutation['of']}.py, but "
            f"its pattern fits {count}; mend it in tests/mutations.yaml."
        )
    return changed


def run_test(folder, test):
    """Run one test in `folder`; return pytest's exit status and last line."""
    done = subprocess.run(
        [*COMMAND, f"tests/{test}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    return done.returncode, (done.stdout.strip() or done.stderr.strip())[-200:]


def noticed(folder, mutation):
    """Change the copy, run the test, change it back; say whether the test failed."""
    path = folder / "dreamer_lite" / f"{mutation['of']}.py"
    source = path.read_text("utf-8")
    path.write_text(mutate(source, mutation), "utf-8")
    status, end = run_test(folder, mutation["test"])
    path.write_text(source, "utf-8")
    # 1 means that tests ran and failed; anything else is not evidence.
    words = {0: "the test still passes", 1: "noticed"}
    print(f"{mutation['why']}: {words.get(status, f'did not run: {end}')}", flush=True)
    return status == 1


def main(words):
    chosen = [m for m in read() if all(word in str(m) for word in words)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in NEEDED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, folder / part)
        for test in sorted({m["test"] for m in chosen}):
            if run_test(folder, test)[0]:
                sys.exit(f"tests/{test} fails without any mutation")
        missed = [m for m in chosen if not noticed(folder, m)]
    print(f"{len(chosen)} mutations, {len(missed)} not noticed")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only those that hold all of them")
    sys.exit(main(parser.parse_args().words))
