"""Super Mario Bros. as a Gymnasium environment that an agent can learn from.

Built in notebook 10. The environment part imports no torch, so that emulator processes
stay small.
"""

import contextlib
import functools
import io
import warnings

import gymnasium as gym
import numpy as np

BUTTONS = {"NOOP": 0, "A": 1, "B": 2, "up": 16, "down": 32, "left": 64, "right": 128}
ACTION_SETS = {
    "right": "RIGHT_ONLY",
    "simple": "SIMPLE_MOVEMENT",
    "complex": "COMPLEX_MOVEMENT",
}
REWARDS = ("progress", "unshaped")
SCORE_BOARD = 32  # rows at the top of the screen
BLOCKS = 16  # the picture below the score board is 16 x 16 blocks of 13 x 16 pixels


class _IntRam(np.ndarray):
    """The emulator's memory, whose single bytes are read as Python integers."""

    def __getitem__(self, where):
        value = super().__getitem__(where)
        return int(value) if isinstance(value, np.uint8) else value


@functools.cache
def _emulator():
    """The emulator's environment class and its action sets, the same on both stacks.

    All that separates the two generations is here. gym-super-mario-bros 7 (Python 3.11
    and 3.12) computes with uint8 values from the ROM header and from the console's
    memory; NumPy 2 no longer widens those, so both are handed out as integers. It also
    imports the retired `gym`, whose notice on stderr is of no use to our readers.
    Generation 9 (Python 3.13 and later) needs neither.
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
            return ram.view(_IntRam) if old else ram

        def _get_info(self):  # asked for every frame; we look once per agent step
            return {}

    return Emulator, actions


def _area_weights(source, target):
    """Weights [target, source] of the mean over the area that each target covers."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(
        edges[:-1, None], pixels
    )
    return np.clip(covered, 0, None).astype(np.float32) * (target / source)


class MarioEnv(gym.Env):
    """One stage of Super Mario Bros.; see `make_mario` for the arguments."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 15}

    def __init__(
        self, stage, actions, reward, size, skip, max_frames, noops, patience, mode
    ):
        emulator, action_sets = _emulator()
        self.action_names = getattr(action_sets, ACTION_SETS[actions])
        self.buttons = [sum(BUTTONS[b] for b in names) for names in self.action_names]
        self.reward, self.size, self.skip = reward, size, skip
        self.max_frames, self.noops, self.patience = max_frames, noops, patience
        self.render_mode = mode
        self.metadata = {**self.metadata, "render_fps": 60 // skip}
        self.action_space = gym.spaces.Discrete(len(self.buttons))
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        side = size // BLOCKS
        self._rows = _area_weights(13, side)
        self._columns = np.ascontiguousarray(_area_weights(16, side).T)
        self.nes = emulator(target=stage)
        self.nes.render_mode = mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.nes.reset()  # restores a saved state, the title screen is not replayed
        for _ in range(self.np_random.integers(self.noops + 1)):
            self._frame(0)
        self.x = self.best = self.nes._x_position
        self.idle = 0
        return self._observation(self.nes.screen), self._info(0.0)

    def step(self, action):
        if not self.action_space.contains(action):
            raise ValueError(
                f"MarioEnv expects an action in {self.action_space}, but got "
                f"{action!r}; take one of {self.action_names}."
            )
        emulator_reward, screen = 0.0, None
        for frame in range(self.skip):
            if self.max_frames and frame == self.skip - 1:
                screen = self.nes.screen.copy()
            emulator_reward += self._frame(self.buttons[action])
            if self.nes.done:
                break
        screen = self.nes.screen if screen is None else np.maximum(screen, self.nes.screen)
        progress = self._progress()
        info = self._info(emulator_reward)
        self.nes.done = info["flag_get"] or info["dead"] or info["stuck"]
        reward = progress / 16 - 0.02 + 5 * info["flag_get"]
        reward -= 2 * (info["dead"] or info["stuck"])
        if self.reward == "unshaped":
            reward = emulator_reward
        return self._observation(screen), float(reward), self.nes.done, False, info

    def _frame(self, buttons):
        reward = self.nes.step(buttons)[1]
        if self.render_mode == "human":
            self.nes.render()
        return reward

    def _progress(self):
        """Pixels moved to the right; a jump through a pipe counts as none."""
        x = self.nes._x_position
        moved, self.x = x - self.x, x
        if abs(moved) > 5 * self.skip:  # Mario runs at most 2.5 pixels a frame
            moved, self.best = 0, x
        self.idle = 0 if x > self.best else self.idle + 1
        self.best = max(self.best, x)
        return moved

    def _observation(self, screen):
        """Area average of the picture below the score board, uint8 [size, size, 3].

        Inside each block rows, then columns, are averaged by a small matrix product:
        exact for every multiple of 16. Colour planes come first because the screen is
        a strided view, which NumPy reads fast only along a long last axis.
        """
        planes = screen[SCORE_BOARD:].transpose(2, 0, 1)
        planes = planes.astype(np.float32, order="C").reshape(3, BLOCKS, 13, 256)
        mean = (self._rows @ planes).reshape(-1, 16) @ self._columns
        pixels = (mean + 0.5).reshape(3, self.size, self.size).transpose(1, 2, 0)
        return pixels.astype(np.uint8, order="C")

    def _info(self, emulator_reward):
        nes, ram = self.nes, self.nes.ram
        row = nes._y_pixel + 256 * (nes._y_viewport - 1) + 24 - SCORE_BOARD
        column = (int(ram[0x86]) - int(ram[0x71C])) % 256 + 8
        pixel = np.array([row * self.size // 208, column * self.size // 256])
        flag = bool(nes._flag_get)
        stuck = self.patience is not None and self.idle >= self.patience
        return {
            "x_pos": nes._x_position,
            "y_pos": nes._y_position,
            "time": nes._time,
            "flag_get": flag,
            "dead": bool(nes._is_dying or nes._is_dead) and not flag,
            "stuck": bool(stuck) and not flag,
            "mario_pixel": pixel.clip(0, self.size - 1),
            "emulator_reward": emulator_reward,
        }

    def render(self):
        """The full screen, uint8 [240, 256, 3]; "human" draws by itself."""
        return self.nes.screen.copy() if self.render_mode == "rgb_array" else None

    def close(self):
        nes, self.nes = self.nes, None
        if nes is not None:  # the emulator refuses to be closed twice
            nes.close()


def _require(fine, name, expected, got):
    if not fine:
        raise ValueError(f"make_mario expects {name} to be {expected}, but got {got!r}.")


def make_mario(
    world=1,
    stage=1,
    actions="right",
    reward="progress",
    size=64,
    grayscale=False,
    max_frames=False,
    skip=4,
    noops=0,
    sticky=0.0,
    patience=120,
    render_mode=None,
):
    """One stage of Super Mario Bros. as a Gymnasium environment.

    Observations are uint8 [size, size, 3]: the screen without the 32 rows of the score
    board. Every step presses the chosen buttons for `skip` frames. An episode
    terminates at the flag, at death, and after `patience` steps without a new largest
    x. `info` holds x_pos, y_pos, time, flag_get, dead, stuck, emulator_reward and
    mario_pixel, the [row, column] of Mario's middle in the observation.

    Args:
        world, stage: 1 to 8 and 1 to 4.
        actions: "right" (5 choices), "simple" (7) or "complex" (12).
        reward: "progress" = pixels moved right / 16 - 0.02 a step, + 5 at the flag,
            - 2 at death or when stuck; "unshaped" = the emulator's own reward, whose
            form depends on its version.
        size: side of the observation in pixels, a multiple of 16.
        grayscale: one channel instead of three.
        max_frames: the maximum of the last two frames instead of the last one.
        skip: emulator frames per step.
        noops: start after a random number of idle frames, 0 to this (both included).
        sticky: probability that a step repeats the previous step's action.
        patience: steps, or None for no such end.
        render_mode: "rgb_array" (240 x 256 x 3), "human" or None.
    Raises: ValueError for an argument out of range; ModuleNotFoundError without the
        emulator.
    """
    _require(world in range(1, 9), "world", "1 to 8", world)
    _require(stage in range(1, 5), "stage", "1 to 4", stage)
    _require(actions in ACTION_SETS, "actions", f"one of {list(ACTION_SETS)}", actions)
    _require(reward in REWARDS, "reward", f"one of {list(REWARDS)}", reward)
    _require(size in range(16, 209, 16), "size", "a multiple of 16 up to 208", size)
    _require(skip in range(1, 61), "skip", "1 to 60 frames", skip)
    _require(noops in range(1000), "noops", "a number of frames from 0", noops)
    _require(0 <= sticky < 1, "sticky", "a probability below 1", sticky)
    _require(patience is None or patience > 0, "patience", "None or above 0", patience)
    modes = [None, *MarioEnv.metadata["render_modes"]]
    _require(render_mode in modes, "render_mode", f"one of {modes}", render_mode)
    env = MarioEnv(
        (world, stage), actions, reward, size, skip, max_frames, noops, patience,
        render_mode,
    )  # fmt: skip
    if grayscale:
        env = gym.wrappers.GrayscaleObservation(env, keep_dim=True)
    if sticky:
        env = gym.wrappers.StickyAction(env, sticky)
    return env


def random_actions(rng, choices=5):
    """Endless behaviour: any action, anew at every step."""
    while True:
        yield int(rng.integers(choices))


def sticky_right(rng):
    """Endless behaviour: mostly right and jumping, each choice held for a while.

    Valid for every action set: they share the first five actions.
    """
    while True:
        action = int(rng.choice(5, p=[0.05, 0.15, 0.25, 0.2, 0.35]))
        for _ in range(rng.integers(1, 13)):
            yield action


def right_and_jump(rng=None):
    """Endless behaviour: run right and jump, for ever.

    The game jumps again only after the button was let go: 7 steps held, 1 released.
    """
    while True:
        yield from [4] * 7 + [3]
