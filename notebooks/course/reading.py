"""A room with four doors, and a sentence that says which one to walk to.

MiniGrid's GoToDoor: four doors of different colours, one in the middle of each wall.
The mission, "go to the red door", is the only thing that tells the right one.
"""

import string

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete, Text
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.wrappers import ViewSizeWrapper

ACTIONS = ("left", "right", "forward")
LETTERS = string.ascii_lowercase + " "
VIEW = 3  # cells: what is at the sides, and two steps ahead


class Doors(gym.Wrapper):
    """GoToDoor in which walking against a door is the answer, right or wrong.

    MiniGrid's own agent says with a further action that it has arrived. Here it cannot
    be said anywhere else, so that every answer is about a door. A right one is rewarded
    with 1. Observations are a dictionary of
        view: [3, 3, 2], numbers of what stands in each cell ahead (one of 11) and of
            its colour (one of 6).
        direction: 0 to 3, where the agent looks.
        mission: "red door", or nothing.

    Args:
        env: GoToDoor, with a view of 3 cells.
        blank: whether to show an empty text.
        steps: after which the episode is cut.
    """

    def __init__(self, env, blank=False, steps=30):
        super().__init__(env)
        self.blank, self.steps, self.taken = blank, steps, 0
        names = np.array([len(OBJECT_TO_IDX), len(COLOR_TO_IDX)])
        self.action_space = Discrete(len(ACTIONS))
        self.observation_space = gym.spaces.Dict(
            view=MultiDiscrete(np.broadcast_to(names, (VIEW, VIEW, 2))),
            direction=Discrete(4),
            mission=Text(len("purple door"), min_length=0, charset=LETTERS),
        )

    def look(self, obs):
        """Our form of MiniGrid's observation."""
        view = obs["image"][..., :2].astype(int)  # without the state of a door
        mission = "" if self.blank else obs["mission"].removeprefix("go to the ")
        direction = obs["direction"]
        return {"view": view, "direction": direction, "mission": mission}

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        self.taken = 0
        return self.look(obs), info

    def step(self, action):
        room, buttons = self.env.unwrapped, self.env.unwrapped.actions
        ahead, name = room.grid.get(*room.front_pos), ACTIONS[action]
        answer = name == "forward" and ahead is not None and ahead.type == "door"
        button = buttons.done if answer else buttons[name]
        obs, reward, ended, *_, info = self.env.step(button)
        self.taken += 1
        right = float(reward > 0)
        cut = self.taken >= self.steps and not ended
        return self.look(obs), right, ended, cut, info | {"right": right}


def make_doors(blank=False, render_mode=None):
    """A room of 5 x 5 cells, walls included; `Doors` says what is seen and done."""
    env = gym.make("MiniGrid-GoToDoor-5x5-v0", render_mode=render_mode)
    return Doors(ViewSizeWrapper(env, VIEW), blank)


def facing(seed, mission="", distance=0):
    """What is seen before a door, `distance` cells away from it, and its colour.

    Args:
        seed: of the room; each door has its turn.
        mission: what to show instead of the room's own.
    """
    env = make_doors()
    obs, _ = env.reset(seed=seed)
    room, look = env.unwrapped, seed % 4
    step = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][look])  # right, down, left, up
    room.agent_dir, room.agent_pos = look, np.array([2, 2]) + (1 - distance) * step
    door = room.grid.get(*(np.array([2, 2]) + 2 * step))
    view = env.env.observation(room.gen_obs())
    return env.look(view) | {"mission": mission}, door.color


def words(logits):
    """The most likely texts for logits [B, characters, 256]."""
    codes = logits.argmax(-1).byte().numpy()
    return [bytes(row).rstrip(b"\0").decode("latin-1") for row in codes]
