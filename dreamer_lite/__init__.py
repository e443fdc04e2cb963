"""Dreamer Lite: a small DreamerV3, built in ten notebooks.

`dreamer_lite.dreamer` has the agent and its training loop, `dreamer_lite.mario` the
game. Every other module is one chapter; see the notebook of the same name.
"""

__version__ = "0.1.0"
