"""Dreamer Lite: a small DreamerV3, built in ten notebooks.

`dreamer_lite.dreamer` has the agent and its training loop, `dreamer_lite.mario` the
game. The first lines of a module name the notebook it comes from, or say that it is
written by hand.
"""

__version__ = "0.1.0"
