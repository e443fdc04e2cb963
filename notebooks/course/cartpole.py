"""CartPole as notebook 08 needs it: random play to learn from, and small films."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from course.style import COLORS
from dreamer_lite.replay import Replay


def random_play(make_env: Callable, rows: int = 1500, envs: int = 4, seed: int = 0):
    """Record random play and return the Replay and the lengths of its episodes.

    Each episode draws its own chance to press the other button, so that the recording
    holds slow falls as well as fast ones.

    Args:
        make_env: makes a CartPole; one is made for each of ``envs`` streams.
        rows: how many rows each stream records.
    """
    rng = np.random.default_rng(seed)
    copies = [make_env() for _ in range(envs)]
    space = gym.spaces.Dict(obs=copies[0].observation_space)
    replay = Replay(rows * envs, space, copies[0].action_space, envs, seed)
    lengths = []
    for i, env in enumerate(copies):
        last = True
        for row in range(rows):
            first = last
            if first:
                (obs, _), reward = env.reset(seed=seed + 1000 * i + row), 0.0
                last = terminal = False
                action, restless, begin = rng.integers(2), rng.uniform(0.3, 0.9), row
            else:
                obs, reward, terminal, cut, _ = env.step(action)
                last = terminal or cut
                if rng.random() < restless:
                    action = 1 - action
            replay.add(i, {"obs": obs}, action, reward, first, last, terminal)
            if last:
                lengths.append(row - begin)
    return replay, lengths


def cart_film(observations, label: str = "", length: int = 60) -> np.ndarray:
    """Draw a small film of the cart, ``[length, 48, 128, 3]`` uint8.

    Args:
        observations: ``[T, 4]``: place, speed, angle in degrees, angular speed. If the
            episode is shorter than the film, its last frame stays.
        label: a word in the upper left corner.
    """
    frames = [_draw(place, degrees, label) for place, _, degrees, _ in observations]
    return np.array((frames[:length] + [frames[-1]] * length)[:length])


def _draw(place, degrees, label, height=48, width=128):
    from PIL import Image, ImageDraw

    middle = int(width / 2 + place / 2.4 * width / 2)
    lean = np.radians(degrees)
    top = middle + 26 * np.sin(lean), 35 - 26 * np.cos(lean)
    picture = Image.new("RGB", (width, height), COLORS["paper"])
    pen = ImageDraw.Draw(picture)
    pen.line((0, 40, width, 40), fill=COLORS["neutral"])
    pen.rectangle((middle - 7, 36, middle + 7, 39), fill=COLORS["real"])
    pen.line((middle, 35, *top), fill=COLORS["action"], width=2)
    pen.text((2, 0), label, fill=COLORS["neutral"])
    return np.asarray(picture)
