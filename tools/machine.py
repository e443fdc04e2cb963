"""What a stored result was made with: the commit, the processor, the versions."""

import platform
import subprocess
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
CODE = "dreamer_lite", "tools", "notebooks/course"  # what a result can depend on


def commit(root=ROOT):
    """Return the commit of the checkout, or None without git.

    It ends in "-dirty" if code was changed since.
    """

    def git(*words):
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    try:
        found = git("describe", "--always")
        changed = git("status", "--porcelain", "--", *CODE)
    except OSError:
        return None
    return found + "-dirty" * bool(changed) if found else None


def processor():
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def machine():
    """Return commit, processor, threads, versions and day, as they are now.

    Ask before a long measurement begins, because a commit made meanwhile has not
    changed what is measured.
    """
    return {
        "commit": commit(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "date": time.strftime("%Y-%m-%d"),
    }
