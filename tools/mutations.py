"""Break the code on purpose: every break must make its test fail.

    python tools/mutations.py            all of tests/mutations.yaml
    python tools/mutations.py reset      those whose line holds the word

Each mutation changes one place in a copy of the repository and runs one test
there. A test that still passes protects nothing: the command exits with 1.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import gymnasium  # noqa: F401, loaded once for all children
import pytest
import torch  # noqa: F401, likewise
import yaml

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("dreamer_lite", "tests", "data", "notebooks", "tools", "pyproject.toml")
OPTIONS = ["-qx", "--no-header", "--tb=no", "--no-summary", "-p", "no:cacheprovider"]


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


def run_tests(folder, *tests):
    """Run tests in a child process that has torch loaded already: pytest's status."""

    def child():
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        tests_there = [f"tests/{test}" for test in tests]
        os._exit(pytest.main([*OPTIONS, *tests_there]))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode


def noticed(folder, mutation):
    """Change the copy, run the test, change it back; say whether the test failed."""
    path = folder / "dreamer_lite" / f"{mutation['of']}.py"
    source = path.read_text("utf-8")
    path.write_text(mutate(source, mutation), "utf-8")
    status = run_tests(folder, mutation["test"])
    path.write_text(source, "utf-8")
    # 1 means that tests ran and failed; anything else is not evidence.
    words = {0: "the test still passes", 1: "noticed"}
    print(f"{mutation['why']}: {words.get(status, 'the test did not run')}", flush=True)
    return status == 1


def main(words):
    sys.dont_write_bytecode = True  # a file may change twice in a second
    chosen = [m for m in read() if all(word in str(m) for word in words)]
    if not chosen:
        sys.exit(f"no mutation holds {' and '.join(words)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in NEEDED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, folder / part)
        if run_tests(folder, *sorted({m["test"] for m in chosen})):
            sys.exit("a test fails without any mutation, see above")
        missed = [m for m in chosen if not noticed(folder, m)]
    print(f"{len(chosen)} mutations, {len(missed)} not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only those that hold all of them")
    sys.exit(main(parser.parse_args().words))
