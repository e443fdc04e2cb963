"""Dreamer Lite: a small DreamerV3, built in ten notebooks.

`dreamer_lite.dreamer` has the agent and its training loop, `dreamer_lite.mario` the
game. A module that comes from a notebook names it in its first line; the others are
written by hand.
"""

__version__ = "0.1.0"
