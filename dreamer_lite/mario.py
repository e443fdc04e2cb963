# Generated from notebooks/10_mario.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""Super Mario Bros. as a Gymnasium environment that an agent can learn from.

Built in notebook 10. The environment part imports no torch, so that emulator processes
stay small.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np

from dreamer_lite.config import Config
from dreamer_lite.emulator import BUTTONS, load_emulator


@functools.cache
def area_weights(source: int, target: int) -> np.ndarray:
    """Weights [target, source] of the mean over the area that each target covers."""
    fine = np.eye(source, dtype=np.float32).repeat(target, axis=1)
    return fine.reshape(source, target, source).mean(-1).T.copy()


SCORE_BOARD = 32  # rows at the top of the screen
BLOCKS = 16  # the picture below the score board is 16 x 16 blocks of 13 x 16 pixels


def area_average(picture: np.ndarray, size: int) -> np.ndarray:
    """The screen below the score board, small: [208, 256, 3] -> [size, size, 3] uint8.

    Inside each block rows, then columns, are averaged by a small matrix product: exact
    for every multiple of 16. Colour planes come first because the screen is a strided
    view, which NumPy reads fast only along a long last axis.
    """
    rows = area_weights(13, size // BLOCKS)
    columns = area_weights(16, size // BLOCKS).T
    planes = picture.transpose(2, 0, 1).astype(np.float32, order="C")
    mean = (rows @ planes.reshape(3, BLOCKS, 13, 256)).reshape(-1, 16) @ columns
    pixels = (mean + 0.5).reshape(3, size, size).transpose(1, 2, 0)
    return pixels.astype(np.uint8, order="C")


def mario_pixel(nes: gym.Env, size: int) -> np.ndarray:
    """Mario's middle in the small picture: [row, column], at its border if outside."""
    # His y is the top of a box of 32 rows, of which he fills the lower 16. Byte 0x86 is
    # his x in the level, 0x71C that of the screen's left edge; he is 16 wide.
    row = nes._y_pixel + 256 * (nes._y_viewport - 1) + 24 - SCORE_BOARD
    column = (int(nes.ram[0x86]) - int(nes.ram[0x71C])) % 256 + 8
    pixel = np.array([row * size // 208, column * size // 256])
    return pixel.clip(0, size - 1)


ACTION_SETS = ("RIGHT_ONLY", "SIMPLE_MOVEMENT", "COMPLEX_MOVEMENT")
REWARDS = ("progress", "unshaped")
RENDER_MODES = ("rgb_array", "human")


@dataclass(frozen=True)
class MarioOptions:
    """What `make_mario` can be asked for.

    Raises:
        ValueError: for a value that it does not take.
    """

    world: int = 1  # 1 to 8
    stage: int = 1  # 1 to 4
    actions: str = "RIGHT_ONLY"  # RIGHT_ONLY, SIMPLE_MOVEMENT or COMPLEX_MOVEMENT
    reward: str = "progress"  # progress (pixels, flag, death), or unshaped
    size: int = 64  # side of the observation in pixels, a multiple of 16 up to 208
    grayscale: bool = False  # one channel instead of three
    max_frames: bool = False  # take the maximum of the last two frames of a step
    skip: int = 4  # frames for which a step holds its buttons; a second has 60
    noops: int = 0  # begin after a random number of idle frames, from 0 to this
    sticky: float = 0.0  # probability that a step repeats the action before it
    sticky_share: float = 1.0  # share of the episodes in which it does, by lot
    patience: int = 120  # steps without progress after which Mario counts as stuck
    render_mode: str | None = None  # rgb_array (the whole screen), or human

    def __post_init__(self) -> None:
        accepted = {
            "world": range(1, 9),
            "stage": range(1, 5),
            "actions": ACTION_SETS,
            "reward": REWARDS,
            "size": range(16, 209, 16),
            "skip": range(1, 61),
            "noops": range(1001),
            "patience": range(1, 100_001),
            "render_mode": (None, *RENDER_MODES),
        }
        for name, values in accepted.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"make_mario expects {name} in {values}, but got "
                    f"{getattr(self, name)!r}; correct it."
                )
        if not (0 <= self.sticky < 1 and 0 <= self.sticky_share <= 1):
            raise ValueError(
                "make_mario expects sticky in 0 to below 1 and sticky_share in 0 to 1, "
                f"but got {self.sticky!r} and {self.sticky_share!r}; correct them."
            )


class MarioEnv(gym.Env):
    """One stage of Super Mario Bros.; use `make_mario`, which adds the wrappers."""

    def __init__(self, options: MarioOptions):
        self.options, self.running, self.sticky = options, False, False
        emulator, action_sets = load_emulator()
        self.action_names = getattr(action_sets, options.actions)
        self.buttons = [sum(BUTTONS[b] for b in names) for names in self.action_names]
        self.metadata = {"render_modes": RENDER_MODES, "render_fps": 60 / options.skip}
        self.render_mode = options.render_mode
        shape = (options.size, options.size, 3)
        self.action_space = gym.spaces.Discrete(len(self.buttons))
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.nes = emulator(target=(options.world, options.stage))
        self.nes.render_mode = options.render_mode

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if self.nes is None:
            raise ValueError("This game was closed; make another one with make_mario.")
        self.nes.reset()  # restores a saved state: the title screen is not replayed
        for _ in range(self.np_random.integers(self.options.noops + 1)):
            self._frame(0)
        self.x = self.best = self.nes._x_position
        self.idle, self.running = 0, True
        picture = self.nes.screen[SCORE_BOARD:]
        return area_average(picture, self.options.size), self._info(0.0)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self.running:
            raise ValueError(
                "MarioEnv expects a step in a running episode, but there is none; call "
                "reset first, also after the end of an episode."
            )
        if not self.action_space.contains(action):
            raise ValueError(
                f"MarioEnv expects an action in {self.action_space}, but got "
                f"{action!r}; take the index of one of {self.action_names}."
            )
        reward, before = 0.0, None
        for frame in range(self.options.skip):
            if self.options.max_frames and frame == self.options.skip - 1:
                before = self.nes.screen.copy()
            reward += self._frame(self.buttons[action])
            if self.nes.done:
                break
        screen = self.nes.screen
        screen = screen if before is None else np.maximum(before, screen)
        progress = self._progress()
        info = self._info(reward)
        lost = info["dead"] or info["stuck"]
        if self.options.reward == "progress":
            reward = progress / 16 - 0.02 + 5 * info["flag_get"] - 2 * lost
        self.nes.done = info["flag_get"] or lost
        self.running = not self.nes.done
        obs = area_average(screen[SCORE_BOARD:], self.options.size)
        return obs, reward, self.nes.done, False, info

    def _frame(self, buttons: int) -> float:
        reward = self.nes.step(buttons)[1]
        if self.render_mode == "human":
            self.nes.render()
        return reward

    def _progress(self) -> int:
        """Pixels moved to the right; a jump through a pipe counts as none."""
        x = self.nes._x_position
        moved, self.x = x - self.x, x
        if abs(moved) > 5 * self.options.skip:  # he runs at most 3 pixels a frame
            moved, self.best = 0, x
        self.idle = 0 if x > self.best else self.idle + 1
        self.best = max(self.best, x)
        return moved

    def _info(self, emulator_reward: float) -> dict:
        nes = self.nes
        flag = bool(nes._flag_get)
        dead = bool(nes._is_dying or nes._is_dead) and not flag
        return {
            "x_pos": nes._x_position,
            "y_pos": nes._y_position,
            "time": nes._time,
            "flag_get": flag,
            "dead": dead,
            "stuck": self.idle >= self.options.patience and not (flag or dead),
            "sticky": self.sticky,
            "mario_pixel": mario_pixel(nes, self.options.size),
            "emulator_reward": emulator_reward,
        }

    def render(self) -> np.ndarray | None:
        return self.nes.screen.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        nes, self.nes, self.running = self.nes, None, False
        if nes is not None:  # the emulator refuses to be closed twice
            nes.close()


class SometimesSticky(gym.wrappers.StickyAction):
    """Sticky actions in a share of the episodes; `info` says whether in this one."""

    def __init__(self, env: gym.Env, probability: float, share: float):
        super().__init__(env, probability)
        self.probability, self.share = probability, share

    def reset(self, **how: object) -> tuple[np.ndarray, dict]:
        obs, info = super().reset(**how)
        sticky = self.share == 1 or self.np_random.random() < self.share
        self.repeat_action_probability = self.probability * sticky
        self.unwrapped.sticky = bool(sticky)
        return obs, info | {"sticky": bool(sticky)}


def make_mario(world: int = 1, stage: int = 1, **options: object) -> gym.Env:
    """One stage of Super Mario Bros. as a Gymnasium environment.

    Observations are uint8 [size, size, 3], or 1 if grayscale: the screen without the 32
    rows of the score board. An episode terminates at the flag, at death and when Mario
    is stuck. `info` has x_pos, y_pos, time, flag_get, dead, stuck, sticky,
    emulator_reward and mario_pixel, the [row, column] of Mario's middle in the
    observation.

    Args: world, 1 to 8; stage, 1 to 4; options, the other fields of `MarioOptions`.
    Raises: ValueError for an option out of range; ModuleNotFoundError without the
    emulator.
    """
    options = MarioOptions(world, stage, **options)
    env = MarioEnv(options)
    if options.grayscale:
        env = gym.wrappers.GrayscaleObservation(env, keep_dim=True)
    if options.sticky:
        env = SometimesSticky(env, options.sticky, options.sticky_share)
    return env


# Recorded at an episode's end.
TRACK = ("x_pos", "flag_get", "dead", "stuck", "sticky", "time")
HOUR = dict(
    minutes=60.0, envs=4, parallel=True, prefill=3_000, steps=400_000, lr=6e-4,
    warmup=250, entropy=3e-3, capacity=200_000, video_minutes=20.0,
)  # fmt: skip
WHOLE = dict(
    minutes=0.0, steps=90_000, anneal=0.4, entropy_end=1e-4, actor_unimix=0.0,
    capacity=50_000,
)  # fmt: skip
PROFILES = {
    # Every part once, in about a minute: is the machine set up?
    "debug": Config.preset(
        "1m", steps=500, envs=2, parallel=True, prefill=200, batch=4, length=16,
        ratio=4.0, capacity=5_000, log_every=5, video_minutes=0.05,
    ),
    # What our tests run: enough to see the losses fall, too little to play.
    "short": Config.preset(
        "1m", minutes=2.0, envs=4, parallel=True, prefill=600, batch=8, warmup=50,
        capacity=20_000, log_every=5, video_minutes=60.0,
    ),
    # An hour on a laptop without a GPU, for the first flags: rates twice as high as
    # for other tasks, and ten times the entropy.
    "hour": Config.preset("3m", **HOUR),
    # An evening, for an agent that is reliable: the same beginning, and in the last two
    # fifths less and less entropy and smaller rates. Only the newest rows are kept.
    "evening": Config.preset("3m", **HOUR | WHOLE),
    # One GPU, the one of Colab too: larger, and until all steps are done. Its
    # checkpoints are rarer, for they grow to almost 4 GB, most of it replay.
    "gpu": Config.preset(
        "12m", envs=8, parallel=True, prefill=5_000, length=64, steps=1_000_000,
        capacity=300_000, checkpoint_minutes=15.0, speed="auto",
    ),
}  # fmt: skip
# What the game of a profile is asked for, where that is more than the level.
GAMES = {"evening": dict(noops=30, sticky=0.25, sticky_share=0.5)}


if __name__ == "__main__" and "__file__" in globals():  # a notebook has no __file__
    from dreamer_lite.__main__ import main

    env = "dreamer_lite.mario:make_mario"
    agent = Path(__file__).parents[1] / "data" / "mario_agent.safetensors"
    idle, plain = dict(noops=30), dict(sticky=0.0, sticky_share=1.0)
    main(
        prog="python -m dreamer_lite.mario",
        profiles=PROFILES,
        game=MarioOptions(),
        train=dict(
            games=GAMES,
            env=env,
            logdir=Path("runs/mario"),
            profile="evening",
            track=TRACK,
            film=True,
        ),
        # A run names its own game; it is judged without sticky actions.
        evaluate=dict(agent=agent, fallback=env, game=idle | plain, track=TRACK),
        play=dict(agent=agent, fallback=env, game=plain, seed=1),  # one with a flag
        record=dict(env=env, game=idle, players=("random", "right", "follow")),
    )
