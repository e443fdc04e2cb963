"""What a stored result was made with, for the tools that store one."""

import time

import torch

from dreamer_lite import playing


def machine():
    """Commit of the code, processor, threads, versions and day, as they are now.

    Ask before the work begins: who commits meanwhile has not changed what is measured.
    """
    found = playing.hardware()
    return {
        "commit": playing.commit(),
        "processor": found["cpu"],
        "threads": torch.get_num_threads(),
        "python": found["python"],
        "torch": found["torch"].partition("+")[0],
        "date": time.strftime("%Y-%m-%d"),
    }
