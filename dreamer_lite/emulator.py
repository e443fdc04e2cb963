"""The Mario emulator in one form, for both of its generations.

Written by hand. `pip install gym-super-mario-bros` brings version 7 on Python 3.11 and
3.12 and version 9 from Python 3.13 on; everything that differs between the two is in
this file. They show the same frames for the same buttons, to the pixel.
"""

import contextlib
import functools
import io
import os
import sys
import warnings

import gymnasium as gym
import numpy as np

BUTTONS = {"NOOP": 0, "A": 1, "B": 2, "up": 16, "down": 32, "left": 64, "right": 128}


class IntRam(np.ndarray):
    """The emulator's memory, whose single bytes are read as Python integers."""

    def __getitem__(self, where):
        value = super().__getitem__(where)
        return int(value) if isinstance(value, np.uint8) else value


@functools.cache
def load_emulator():
    """Import whichever generation is installed, mended.

    Version 7 computes with uint8 values from the ROM header and from the console's
    memory. NumPy 2 no longer widens those (16 * 64 overflows), so both are handed out
    as integers. It also imports the retired `gym`, which prints a notice on stderr.
    Version 9 needs none of this.

    Returns:
        The emulator's environment class, and the module with its action sets.

    Raises:
        ModuleNotFoundError: without the emulator.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from gym_super_mario_bros import SuperMarioBrosEnv, actions
            from nes_py._rom import ROM
    except ImportError as error:
        raise ModuleNotFoundError(
            "make_mario needs the emulator, but it could not be imported "
            f"({error}); run `pip install gym-super-mario-bros`."
        ) from None
    old = not issubclass(SuperMarioBrosEnv, gym.Env)
    if old:
        ROM.header = property(lambda rom: rom.raw_data[:16].astype(int))

    class Emulator(SuperMarioBrosEnv):
        def _ram_buffer(self):
            ram = super()._ram_buffer()
            return ram.view(IntRam) if old else ram

        def _get_info(self):  # asked for every frame; we look once per agent step
            return {}

        def render(self, *args):
            if sys.platform == "linux" and "DISPLAY" not in os.environ:
                raise ValueError(
                    "render_mode 'human' opens a window, but DISPLAY is not set; use "
                    "rgb_array, or start it where there is a screen."
                )
            return super().render(*args)

    return Emulator, actions
