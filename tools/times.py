"""Measure what each notebook costs, and write it where the reader looks.

    python tools/times.py [05 ...]   run, measure, write data/times.json and the line
    python tools/times.py --check    each notebook's line agrees with data/times.json

A notebook says it in one line that starts with `*Measured:`. The measurement runs on
two cores without a GPU; memory is the peak of the kernel and all its child processes.
"""

import argparse
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

import psutil

import nb

ROOT = Path(__file__).resolve().parents[1]
LINE = re.compile(r"^((?:# )?)\*Measured:.*\*$", re.MULTILINE)
CORES = 2
LONGEST, TOGETHER = 2.5, 12  # minutes of one notebook, of 01 to 09


def sentence(figures):
    """Return the line that a notebook shows for its measured figures."""
    if not figures:
        return "*Measured: not yet.*"
    minutes, memory = max(figures["minutes"], 0.1), figures["gigabytes"]
    return (
        f"*Measured: {minutes:.1f} minutes on two CPU cores, {memory:.1f} GB memory, "
        "no GPU.*"
    )


def memory():
    """Bytes of all processes below this one; what several share counts once."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            found = child.memory_full_info()
            total += getattr(found, "pss", found.rss)
        except psutil.Error:  # it has just ended
            continue
    return total


def measure(path, root):
    """Run one notebook on two cores without a GPU and return its figures."""
    os.environ |= {"OMP_NUM_THREADS": str(CORES), "CUDA_VISIBLE_DEVICES": ""}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    seen, done, start = [0], threading.Event(), time.perf_counter()

    def watch():
        while not done.wait(0.2):
            seen.append(memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        nb.run(path, root)
    finally:
        done.set()
        watcher.join()
    minutes = (time.perf_counter() - start) / 60
    return {"minutes": round(minutes, 2), "gigabytes": round(max(seen) / 1e9, 2)}


def load(root):
    """Return the stored measurements, {} before the first."""
    path = root / "data" / "times.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def store(path, figures, root):
    """Write the figures of a notebook to data/times.json and into its measured line."""
    stored = dict(sorted((load(root) | {path.stem: figures}).items()))
    text = json.dumps(stored, indent=2) + "\n"
    (root / "data" / "times.json").write_text(text, encoding="utf-8")
    half = nb.text_path(path)
    old = half.read_text(encoding="utf-8")
    new = LINE.sub(lambda match: match.group(1) + sentence(figures), old)
    half.write_text(new, encoding="utf-8")
    nb.from_text(path, root)


def problems(root, paths):
    """Return one line for each notebook that is not as measured, or takes too long."""
    stored, found = load(root), []
    for path in paths:
        text = "\n".join(c.source for c in nb.read(path).cells)
        lines = [match.group(0) for match in LINE.finditer(text)]
        if lines != [sentence(stored.get(path.stem))]:
            found.append(f"{path.stem}: its measured line and data/times.json disagree")
    minutes = {name: f["minutes"] for name, f in stored.items() if name < "10"}
    for name, spent in minutes.items():
        if spent > LONGEST:
            found.append(f"{name}: takes {spent:.1f} of at most {LONGEST} minutes")
    total = sum(minutes.values())
    if total > TOGETHER:
        found.append(f"01 to 09 take {total:.1f} of at most {TOGETHER} minutes")
    return found


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", help="numbers of notebooks (default: all)")
    parser.add_argument("--check", action="store_true", help="measure nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(argv)
    root = options.root.resolve()
    try:
        paths = nb.select(root, options.which)
        if options.check:
            found = problems(root, paths)
            print("\n".join(found or [f"{len(paths)} measured lines agree"]))
            return 1 if found else 0
        for path in paths:
            figures = measure(path, root)
            store(path, figures, root)
            print(f"{path.stem}: {sentence(figures)}", flush=True)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
