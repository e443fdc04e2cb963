"""Break the code on purpose: every break must make its test fail.

    python tools/mutations.py            all of tests/mutations.json
    python tools/mutations.py reset      those whose name or file holds the word

Each mutation replaces one text, which occurs once, in a copy of the repository and runs
one test there. A test that still passes protects nothing: the command exits with 1.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("dreamer_lite", "tests", "data", "notebooks", "tools", "pyproject.toml")


def copy_project(target):
    """Copy what the tests need; the copy is what gets broken."""
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, target / name)


def run_test(folder, test):
    """Run one test in `folder`; returns pytest's exit status and its last line."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        test,
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    return done.returncode, lines[-1]


def verdict(folder, mutation):
    """Apply one mutation, run its test, undo it: (noticed, one line)."""
    path = folder / mutation["file"]
    source = path.read_text()
    found = source.count(mutation["old"])
    if found != 1:
        return False, f"the text to replace occurs {found} times in {mutation['file']}"
    path.write_text(source.replace(mutation["old"], mutation["new"]))
    try:
        status, line = run_test(folder, mutation["test"])
    finally:
        path.write_text(source)
    # 1 means that tests ran and failed; anything else is not evidence.
    words = {0: "the test still passes", 1: "noticed"}
    return status == 1, words.get(status, f"the test did not run: {line}")


def main(words):
    mutations = json.loads((ROOT / "tests" / "mutations.json").read_text())
    chosen = [
        m for m in mutations if all(w in f"{m['name']} {m['file']}" for w in words)
    ]
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder)
        for test in sorted({m["test"] for m in chosen}):
            status, line = run_test(folder, test)
            if status:
                missed += 1
                print(f"{test}: fails without any mutation ({line})", flush=True)
        for mutation in chosen:
            noticed, line = verdict(folder, mutation)
            missed += not noticed
            mark = "ok  " if noticed else "MISS"
            print(f"{mark} {mutation['name']}: {line}", flush=True)
    print(f"{len(chosen)} mutations, {missed} not noticed")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only those whose names hold all")
    sys.exit(main(parser.parse_args().words))
