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
STORED = Path("data") / "times.json"
LINE = re.compile(r"^\*Measured:.*\*$", re.MULTILINE)
CORES = 2
LONGEST, TOGETHER = 2.5, 12
NOT_YET = "*Measured: not yet.*"  # what a new notebook says


def sentence(figures):
    """Return the line that a notebook shows for its measured figures."""
    minutes, memory = max(figures["minutes"], 0.1), figures["gigabytes"]
    return (
        f"*Measured: {minutes:.1f} minutes on two CPU cores, {memory:.1f} GB memory, "
        "no GPU.*"
    )


def share(process):
    """Bytes of a process; what several share (forked emulators do) counts once."""
    found = process.memory_full_info()
    return getattr(found, "pss", found.rss)


class Watch(threading.Thread):
    """Follows the memory of all processes below this one and keeps the peak."""

    def __init__(self, interval=0.2):
        super().__init__(daemon=True)
        self.interval, self.peak, self.done = interval, 0, threading.Event()

    def run(self):
        """Sample until `done` is set."""
        me = psutil.Process()
        while not self.done.wait(self.interval):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += share(child)
                except psutil.Error:  # it has just ended
                    continue
            self.peak = max(self.peak, total)


def on_two_cores():
    """Keep this process and the kernels that it starts on two cores, without a GPU."""
    os.environ |= {"OMP_NUM_THREADS": str(CORES), "CUDA_VISIBLE_DEVICES": ""}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def measure(path, root, timeout=900):
    """Run one notebook and return its figures."""
    watch, start = Watch(), time.perf_counter()
    watch.start()
    try:
        nb.run(path, root, timeout)
    finally:
        watch.done.set()
        watch.join()
    minutes = (time.perf_counter() - start) / 60
    return {"minutes": round(minutes, 2), "gigabytes": round(watch.peak / 1e9, 2)}


def write_line(path, figures, root):
    """Put the measured line into a notebook's text and bring the notebook in step."""
    text = path.with_suffix(".py")
    old = text.read_text(encoding="utf-8")
    new = re.sub(
        r"^(# )?\*Measured:.*$",
        lambda match: (match.group(1) or "") + sentence(figures),
        old,
        flags=re.MULTILINE,
    )
    if new != old:
        nb.write(text, new)
        nb.from_text(path, root)


def load(root):
    """Return the stored measurements, {} before the first."""
    path = root / STORED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def problems(root, paths):
    """Return one line for each notebook whose line and measurement disagree."""
    stored, found = load(root), []
    for path in paths:
        cells = nb.read(path).cells
        prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        lines = LINE.findall(prose)
        if len(lines) != 1:
            found.append(
                f"{path.stem}: needs one line '*Measured: ...*', has {len(lines)}"
            )
        elif path.stem not in stored:
            if lines[0] != NOT_YET:
                found.append(f"{path.stem}: this line was not measured: make times")
        elif lines[0] != sentence(stored[path.stem]):
            found.append(f"{path.stem}: measured line and {STORED.as_posix()} disagree")
    return found


def too_long(stored):
    """Return one line for each limit that a reader would feel: 01 to 09, in minutes."""
    minutes = {name: f["minutes"] for name, f in stored.items() if name < "10"}
    found = [
        f"{name}: takes {spent:.1f} minutes, at most {LONGEST} are allowed"
        for name, spent in minutes.items()
        if spent > LONGEST
    ]
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
            found = problems(root, paths) + too_long(load(root))
            print("\n".join(found or [f"{len(paths)} measured lines agree"]))
            return 1 if found else 0
        on_two_cores()
        for path in paths:
            figures = measure(path, root)
            write_line(path, figures, root)
            stored = load(root) | {path.stem: figures}
            text = json.dumps(dict(sorted(stored.items())), indent=2)
            nb.write(root / STORED, text + "\n")
            print(f"{path.stem}: {sentence(figures)}", flush=True)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
