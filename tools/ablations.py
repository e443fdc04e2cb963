"""The runs of notebooks/beyond/ablations: DreamerV3 without one trick at a time.

    python tools/ablations.py                     all that are missing, seed by seed
    python tools/ablations.py --tasks sled lever   only these tasks
    python tools/ablations.py --minutes 90        begin no run after 90 minutes

Each finished run is stored at once, in data/ablations/TASK.csv; the same command
continues. A run takes 20 to 80 seconds on a part of one core; data/README.md says how
many there are.
"""

import argparse
import csv
import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from course.ablations import COLUMNS, TASKS, VARIANTS, read_runs, run

DATA = ROOT / "data" / "ablations"


def planned(tasks):
    """Every run, in the order in which they are made: (seed, task, variant)."""
    for seed in range(max(TASKS[task].seeds for task in tasks)):
        for task in tasks:
            for name, variant in VARIANTS.items():
                if task in variant.tasks and seed < TASKS[task].seeds:
                    yield seed, task, name


def store(path, rows):
    """Write all runs of a task anew, so that no cut leaves half a run."""
    new = path.with_suffix(".new")
    with open(new, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            numbers = {key: row[key] for key in COLUMNS if isinstance(row[key], float)}
            writer.writerow(row | {key: f"{x:.6g}" for key, x in numbers.items()})
    os.replace(new, path)


def main():
    """Make the missing runs, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    with multiprocessing.Pool(1, maxtasksperchild=1) as pool:
        for seed, task, variant in planned(options.tasks):
            path = DATA / f"{task}.csv"
            rows = read_runs(path)
            if (variant, seed) in {(row["variant"], row["seed"]) for row in rows}:
                continue
            if time.monotonic() > end:
                return
            found = pool.apply(run, (task, variant, seed))
            store(path, rows + found)
            last = found[-1]
            print(task, variant, seed, f"{last['return']:.2f} {last['seconds']:.0f} s")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
