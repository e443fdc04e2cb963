"""CarRacing-v3 as an agent sees it: a small picture, an action held for some frames."""

import gymnasium as gym
import numpy as np
from PIL import Image


class Road(gym.Wrapper):
    """Cut, shrink and slow down CarRacing: 64 x 64 pixels, one action for some frames.

    The black bar with speed, wheels and score is cut off: what the agent needs it has
    to see on the road. Frames between two decisions are not drawn, because drawing
    costs more than driving.

    Args:
        env: CarRacing-v3, without its wrappers.
        frames: for how many an action is held; a second has 50.
        patience: decisions without a new tile of the road after which the episode is
            cut off (to be used in training alone); None: never.
    """

    def __init__(self, env, frames=4, patience=None):
        super().__init__(env)
        self.frames, self.patience = frames, patience
        self.observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.metadata = env.metadata | {"render_fps": 50 / frames}
        self.draw = self.unwrapped._render

    def _look(self, screen):
        square = Image.fromarray(screen[:84, 6:90])
        return np.array(square.resize((64, 64), Image.Resampling.BOX))

    def reset(self, **options):
        screen, info = self.env.reset(**options)
        self.idle = 0
        return self._look(screen), info

    def step(self, action):
        total, world = 0.0, self.unwrapped
        for frame in range(self.frames):
            drawn = frame == self.frames - 1
            world._render = self.draw if drawn else lambda mode: None
            screen, reward, ended, cut, info = self.env.step(action)
            total += reward
            if ended or cut:
                break
        world._render = self.draw
        if not drawn:
            screen = self.draw("state_pixels")
        self.idle = 0 if total > 0 else self.idle + 1
        cut |= self.patience is not None and self.idle >= self.patience
        return self._look(screen), total, ended, cut, info


def make_car(frames=4, patience=None, render_mode=None):
    """CarRacing-v3: [64, 64, 3] pictures; steering -1 to 1, gas and brake 0 to 1.

    An episode has 1,000 frames, thus 250 decisions, or ends with the lap.

    Raises:
        ValueError: without Box2D.
    """
    how = dict(render_mode=render_mode, disable_env_checker=True)  # of undrawn frames
    try:
        env = gym.make("CarRacing-v3", **how)
    except gym.error.DependencyNotInstalled as error:
        missing = str(error.__cause__ or error)
        raise ValueError(
            f"This world needs Box2D ({missing}): pip install box2d pygame-ce"
        ) from None
    return Road(env, frames, patience)


def look_ahead(picture, gas=0.05):
    """A driver without a memory: steer to where the middle of the road is ahead."""
    row = picture[36].astype(int)
    road = np.flatnonzero(np.ptp(row, axis=-1) < 25)  # grey: red, green, blue alike
    off = road.mean() - 31.5 if len(road) else 0.0
    return np.array([np.clip(0.03 * off, -1, 1), gas, 0.0])
