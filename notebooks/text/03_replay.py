# %% [markdown]
# # 03 Replay: what the agent remembers
#
# **The question.** What does the agent remember, and which action goes with which
# frame?
#
# Dreamer trains on every frame of the game dozens of times. So between playing and
# learning there is a memory, the *replay*. It is a simple part, but mistakes hide well
# in it: a frame that is paired with the wrong action still gives a loss that falls.
#
# **At the end** a file of recorded Mario play is in memory, one call returns batches of
# sequences from it, and you can say where every number in them came from.
#
# **You need** NumPy indexing. An *environment* is the game as a program: `reset` begins a
# new *episode*, one try from its start to its end, and `step` takes an action and returns
# the next frame and a reward.
#
# *Measured: 0.1 minutes on two CPU cores, 1.8 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %% tags=["hide-input"]
import tempfile
import textwrap

import matplotlib.pyplot as plt

from course import COLORS, Slider, alignment, check, claim, compare
from course import data_path, dreamer_map, explore, frames_grid, show
from course import show_gif, solution, use_style, what_we_built

use_style()

# %% tags=["hide-input"]
#| default_exp replay
show(*dreamer_map("replay"))

# %% tags=["hide-input"]
#| export
"""What the agent remembers: rows of experience, sampled as sequences.

Built in notebook 03. One row holds what was seen, the reward that arrived with it and
the action that was chosen after seeing it. Source: DreamerV3, Methods, "Experience
replay".
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import gymnasium as gym
import numpy as np

LARGEST = np.finfo(np.float32).max

# %% [markdown]
# ## Mario on the screen
#
# Before we build a memory, let us look at what belongs in it. The file
# `data/mario_episodes.npz` holds recorded play. It has several *streams*, one for each
# way of playing, and in each stream many *rows*, one for each moment.

# %%
with np.load(data_path("mario_episodes.npz")) as file:
    recorded = {key: file[key] for key in file.files if file[key].ndim >= 2}

for key, column in recorded.items():
    print(f"{key:12} {column.dtype!s:8} {list(column.shape[2:])} in each row")

# %% [markdown]
# A frame of 64 x 64 pixels in three colours, an action, a reward and three flags. That
# is all the agent remembers of a moment. From one row to the next, the buttons are held
# for four frames of the game, of which only the last is stored. The three streams have
# 2,000 rows each, and an episode has about 140 of them. Played one after the other, the
# rows look like this:

# %% tags=["hide-input"]
stream = 2  # the best of the three players
end = np.flatnonzero(recorded["is_last"][stream])[4]
show_gif(
    recorded["obs"][stream, end - 39 : end + 1],
    alt="Mario runs to the right, jumps over a pipe and meets a Goomba, which ends it.",
    caption="The last 40 rows of a recorded episode.",
    scale=4,
)

# %% [markdown]
# ## Which action goes with which frame?
#
# Here are the last six rows of that episode. Below each frame you see the reward and
# the action that the file has in the *same* row. A step pays 1 for every 16 pixels to
# the right and costs 0.02. The flag pays 5, and losing Mario costs 2.

# %% tags=["hide-input"]
NAMES = ["wait", "right", "right+jump", "right+run", "run+jump"]
last_six = range(end - 5, end + 1)


def caption(row):
    """Reward and action of one recorded row, for a picture."""
    action = recorded["action"][stream, row]
    name = NAMES[action.argmax()] if action.any() else "none"
    return f"reward {recorded['reward'][stream, row]:.2f}\naction: {name}"


fig = frames_grid(recorded["obs"][stream, last_six], [caption(row) for row in last_six])
show(fig, alt="Six frames to the end of an episode, each with its reward and action.")

# %% [markdown]
# The question of this notebook hides in that picture. Is the action under a frame the
# one that *led to* it, or the one that was chosen *after seeing* it? Published code has
# both habits, and both are fine.
#
# Mixing them is not. Then the model learns what a button does from frames that the
# button did not cause. Would we notice?

# %% [markdown] tags=["predict"]
# **Predict.** A bug shifts all actions by one row. Now every frame has the action of
# its neighbour. One of the recorded players presses a random button in every row; the
# other two hold their buttons for a while. For which players is the neighbour's action
# most often the right one anyway? Is it right in half of the rows, or in more?
#
# <details><summary>Answer</summary>
#
# For the players who hold their buttons, and it is far more than half: over 80 % of the
# rows. For the random player with his five buttons it is one row in five.
#
# So the bug is almost invisible with a good player, and good players are what we want.
#
# </details>

# %%
PLAYERS = ["random buttons", "to the right", "best player"]
choice = recorded["action"].argmax(-1)
played = recorded["action"].any(-1)  # not on a last row, which has no action
both = played[:, 1:] & played[:, :-1]
agree = [(choice[i, 1:] == choice[i, :-1])[both[i]].mean() for i in range(len(choice))]
for player, share in zip(PLAYERS, agree):
    print(f"{player:15} {share:.1f}")

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(6.4, 2.6))
ax.barh(range(len(agree)), agree, color=COLORS["action"])
ax.axvline(0.2, color=COLORS["threshold"], linestyle=":", label="chance: 1 of 5")
ax.set(xlabel="share of rows whose neighbour has the same action [1]", xlim=(0, 1))
ax.set(yticks=range(len(agree)), yticklabels=PLAYERS)
ax.legend()
show(
    fig,
    alt="The random player repeats a fifth of the actions, the others most of them.",
)
claim("the random player repeats itself in 15 to 25 % of rows", 0.15 < agree[0] < 0.25)
claim("the other two repeat themselves in more than 80 %", min(agree[1:]) > 0.8)


# %% [markdown]
# Why is the bug bad, then, if most rows are right? Because the wrong ones are just those
# beside a change of the button. While a button is held, the neighbour's action is the right
# one as well. What a button *does* shows where it changes, and there the model is told the
# wrong one. The loss would still fall and the pictures would still look good, but
# the agent would act on wrong beliefs. A bug that hides so well needs a rule that prevents
# it, and a test that catches it.
#
# ## Six rows by hand
#
# Here is the rule, and an environment so small that we can check every number by hand.
#
# > **The paper says.** Experience is a sequence of sensory inputs $x_t$, actions $a_t$,
# > rewards $r_t$ and continuation flags $c_t$. The state at time $t$ is computed from the
# > state and the action at time $t-1$ and from the input $x_t$; reward and continuation
# > at time $t$ are predicted from that state
# > ([DreamerV3](https://arxiv.org/abs/2301.04104), "World model learning", equation 1).
#
# The *state* is the model's own memory. Notebook 05 builds it. After a reset there is
# nothing to remember, so it starts as zeros, the *zero state*.
#
# In our words: row $t$ holds the frame $x_t$, the reward $r_t$ that arrived *with* this
# frame, and the action $a_t$ that was chosen *after* seeing it. The model needs
# $a_{t-1}$, so it will look one row back.

# %% [markdown]
# Our small world is Mario on a line. A walk takes him one field to the right, a jump
# two, and every field pays 1. There is a pit at 3, which costs 4, and a flag at 6,
# which pays 5. Both end the episode.
#
# We write it for Gymnasium (`gym` in the code), the usual Python interface to games. There
# a *space* says which values are possible: `Box(low, high, shape, dtype)` is an array of
# numbers between two bounds, where the shape `()` is a single number; `Discrete(n)` is one
# of $n$ choices, counted from 0; `Dict` gives each part of an observation a name. `step`
# returns the observation, the reward, whether the game has ended, whether a time limit
# has cut it off, and a dictionary with extras.

# %%
class Line(gym.Env):
    """Mario on a line: a pit at x = 3, the flag at x = 6."""

    observation_space = gym.spaces.Dict(x=gym.spaces.Box(0, 6, (), np.float32))
    action_space = gym.spaces.Discrete(2)  # 0 walks one field, 1 jumps two

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0
        return {"x": np.float32(0)}, {}

    def step(self, action):
        before, self.x = self.x, min(self.x + 1 + int(action), 6)
        flag, pit = self.x == 6, self.x == 3
        reward = float(self.x - before) + 5 * flag - 4 * pit
        return {"x": np.float32(self.x)}, reward, flag or pit, False, {}


# %% [markdown]
# Three flags complete the row.
#
# * `is_first`: the frame comes from a reset. No action led to it, and its reward is 0.
# * `is_last`: the episode ends with this frame. No action follows, so zeros are stored.
# * `is_terminal`: the game itself ended here, at a pit, a Goomba or the flag, and
#   nothing more is to come. If Mario makes no progress for 120 steps, he is lost, and
#   that counts as terminal, too. But if a time limit cuts an episode off, its last row
#   is not terminal, because life would have continued.
#
# The paper's $c_t$ is 0 in a terminal row and 1 in all others.

# %% [markdown] tags=["predict"]
# **Predict.** Mario walks, walks, jumps, walks, walks. Draw his rows as a table of x,
# action and reward. Which row holds the jump: the one where he chose it, or the one
# where it took him? Which row holds the reward of the flag, and what is in the last
# row's action?
#
# <details><summary>Answer</summary>
#
# Five steps give six rows, with x = 0, 1, 2, 4, 5, 6. The jump is in the row with x =
# 2, where it was chosen. The reward of the flag arrives with x = 6, together with 1 for
# the step: 6. The last row has no action, and the first row has no reward.
#
# </details>

# %%
def play(env, actions):
    """One episode as a list of rows."""
    obs, _ = env.reset()
    rows, reward, last, terminal = [], 0.0, False, False
    for action in [*actions, None]:  # nothing is chosen after the last frame
        row = {"x": int(obs["x"]), "action": action, "reward": reward}
        row |= {"is_first": not rows, "is_last": last, "is_terminal": terminal}
        rows.append(row)
        if not last:
            obs, reward, terminal, cut, _ = env.step(action)
            last = terminal or cut
    return rows


walk, jump = 0, 1
episode = play(Line(), [walk, walk, jump, walk, walk])
for row in episode:
    print(*(f"{key} {value!s:6}" for key, value in row.items()))

# %% [markdown]
# Here are the same six rows as a picture. Follow one arrow: the jump is *stored* in the
# column of x = 2. It *leads to* the frame and the reward of the next column, and that
# is where the model *reads* it.

# %% tags=["hide-input"]
drawn = []
for row in episode:
    action = "none" if row["is_last"] else ("walk", "jump")[row["action"]]
    drawn.append(row | {"obs": f"x = {row['x']}", "action": action})
show(*alignment(drawn))

# %% [markdown]
# The letters on the left are the shapes of a batch. A batch consists of $B$ *windows*,
# pieces of the memory with $T$ consecutive rows each, and an action has $A$ numbers.
#
# That settles what a row means. Some older code does it the other way round: DreamerV2
# and [ports to PyTorch](https://github.com/NM512/dreamerv3-torch) that follow it store
# the action that *led to* a frame, and shift nothing later.

# %% [markdown]
# ## What a row may hold
#
# Mario is pixels and buttons. Your own environment may show something else: a camera
# and a speed, three doors to choose from, a sentence. So before we build the memory, we
# have to say what a row may hold.
#
# Gymnasium describes this by *spaces*, of which there are ten kinds. For a model there
# are only four kinds of things to see:
#
# * In a **picture**, neighbouring numbers belong together, so it goes through
#   convolutions.
# * The numbers of a **vector** may be of any size, so they go through symlog (notebook
#   01).
# * A **choice** is only a name, even if it is written as a number: door 3 is not more
#   than door 1. So it becomes a one-hot vector.
# * A **text** is a sequence of characters.
#
# For each key, a small record called `Field` says which kind it is, and how its values
# are stored. The replay and the networks read these records instead of the spaces.

# %% [markdown] tags=["aside"]
# ### Aside: how a space is read
#
# This is the code behind the four kinds. You need it if you add a kind of observation,
# or if you wonder why yours was read as it was.

# %%
#| export
FLAGS = ("is_first", "is_last", "is_terminal")
# An observation may not have the name of another column, of an entry of the replay's
# file, or of another loss.
RESERVED = {"action", "reward", *FLAGS, "file", "head", "meta", "size"} | {
    "continue", "dyn", "rep", "actor", "critic", "replay_critic",
}  # fmt: skip
CHOICES = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
TEXT_LENGTH = 200  # characters of a text whose space does not say how many


@dataclass(eq=False)
class Field:
    """What one key of a row may hold, and how it is stored.

    Args:
        kind: "picture", "vector", "choices", "text" or "flag".
        shape: of one stored value.
        dtype: of the stored values.
        low, high: the smallest and the largest value allowed, numbers or arrays.
        sizes: of choices, how many there are in each dimension.

    Source: none, bookkeeping.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    low: float | np.ndarray = -LARGEST
    high: float | np.ndarray = LARGEST
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Computed once, because every row and every update read them: the width of the
        # vector that stands for a value, with one-hots laid end to end; the lowest
        # number of each choice; where choice 0 of each one-hot would be in the vector.
        self.width = sum(self.sizes) or math.prod(self.shape)
        lowest = np.broadcast_to(self.low, self.shape) if self.sizes else np.zeros(0)
        self.starts = lowest.ravel().astype(int).tolist()
        self.places = np.cumsum(self.sizes).astype(int) - self.sizes - self.starts

    @property
    def frame(self) -> tuple[int, int, int]:
        """Height, width and channels; the smaller of both ends holds the channels."""
        if len(self.shape) == 2:
            return (*self.shape, 1)
        first, *_, last = self.shape
        return self.shape if last <= first else (*self.shape[1:], first)


# %% [markdown]
# When is a `Box` a picture? If it has a height, a width and perhaps channels, with at
# least 16 pixels on both sides. Anything smaller is a vector: a 7 x 7 grid of codes has
# few neighbours to speak of.
#
# A table of numbers has two dimensions as well. So without channels, it is a picture
# only if it holds bytes, or floats from 0 to 1. (Hand over bytes where you can. A float
# costs four times the memory.)

# %%
#| export
def read_box(space: gym.spaces.Box) -> Field:
    """The field of a Box: a picture, or a vector of all its numbers.

    Raises:
        TypeError: for more than three dimensions, or a picture without finite bounds.

    Source: none; these rules are ours.
    """
    shape, sides, given = space.shape, len(space.shape), space.dtype
    if sides > 3:
        raise TypeError("give it three dimensions, with stacked frames as channels")
    limits, dtype = (-LARGEST, LARGEST), np.dtype(np.float32)
    if given in (np.uint8, np.bool_):
        limits, dtype = (0, 255), given
    field = Field("vector", shape, dtype, *limits)
    if sides < 2 or min(field.frame[:2]) < 16:
        return field
    low, high = float(space.low.min()), float(space.high.max())
    if sides == 2 and given != np.uint8 and (given.kind, low, high) != ("f", 0, 1):
        return field
    if not 0 < high - low < LARGEST:
        raise TypeError("give the picture its lowest and highest value as bounds")
    return Field("picture", shape, dtype, low, high)


def read_space(space: gym.Space) -> Field:
    """The field of a single space.

    Raises:
        TypeError: for a space that cannot be read, with what to do about it.

    Source: none; these rules are ours.
    """
    if isinstance(space, CHOICES):
        low, count = getattr(space, "start", 0), getattr(space, "nvec", None)
        if count is None:
            count = space.n if isinstance(space, gym.spaces.Discrete) else 2
        sizes = np.broadcast_to(count, space.shape).ravel().tolist()
        high = low + count - 1
        small = np.min(low) >= 0 and np.max(high) < 256
        dtype = np.dtype(np.uint8 if small else np.int64)
        return Field("choices", space.shape, dtype, low, high, tuple(sizes))
    if isinstance(space, gym.spaces.Box):
        return read_box(space)
    if space.dtype is not None and space.dtype.kind == "U":
        length = getattr(space, "max_length", TEXT_LENGTH)
        return Field("text", (length,), np.dtype(np.uint8), 0, 255)
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        raise TypeError("flatten it, as dreamer_lite.envs.build_env does")
    raise TypeError(
        "convert it with gymnasium.wrappers.TransformObservation to a Box, Discrete, "
        "MultiDiscrete, MultiBinary or Text"
    )


def read_action(space: gym.Space) -> Field:
    """The field of an action: choices, or a vector.

    Raises:
        TypeError: for any other space.

    Source: none; these rules are ours.
    """
    if isinstance(space, CHOICES):
        return read_space(space)
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return Field("vector", space.shape, np.dtype(np.float32))
    raise TypeError(
        "Dreamer Lite acts in Discrete, MultiDiscrete, MultiBinary or a Box of shape "
        f"(n,), but got {space}; wrap the environment so that its actions are these."
    )


# %% [markdown]
# Now the whole row. All keys are read before anything is refused, so that you see all
# problems at once.

# %%
#| export
def read_spaces(
    obs_space: gym.Space, action_space: gym.Space | None = None
) -> dict[str, Field]:
    """The fields of an observation, or with `action_space` those of a whole row.

    Args:
        obs_space: a Dict of spaces.
        action_space: adds the columns of action, reward and flags.

    Returns:
        {name: Field}, in the order of the space.

    Raises:
        TypeError: for spaces that cannot be read, all of them with what to do.

    Source: DreamerV3, "World model learning": inputs, actions, rewards and flags.
    """
    if not isinstance(obs_space, gym.spaces.Dict):
        raise TypeError(
            f"Observations come as a gymnasium.spaces.Dict, but got {obs_space}; wrap "
            "a single space as Dict(obs=space)."
        )
    fields, wrong = {}, []
    for name, space in obs_space.items():
        try:
            fields[name] = read_space(space)
        except TypeError as error:
            wrong.append(f"{name!r} is {space}: {error}")
        if name in RESERVED:
            wrong.append(f"{name!r} is the name of another column or loss: rename it")
    if wrong:
        raise TypeError(f"These observations do not fit: {'; '.join(wrong)}.")
    if action_space is not None:
        action = read_action(action_space)
        numbers, flag = np.dtype(np.float32), np.dtype(bool)
        fields["action"] = Field("vector", (action.width,), numbers)
        fields["reward"] = Field("vector", (), numbers)
        fields |= {name: Field("flag", (), flag, False, True) for name in FLAGS}
    return fields


# %% [markdown]
# Sometimes an environment shows more than the agent should read. And sometimes
# characters come as plain numbers, which no space can tell from other numbers. You say
# so by names, or by patterns with a `*`.

# %%
#| export
def select_spaces(
    obs_space: gym.Space, obs_keys: str = "*", text_keys: str = ""
) -> gym.spaces.Dict:
    """The observations that an agent reads.

    Args:
        obs_space: of the environment; a single space becomes Dict(obs=space).
        obs_keys: names or patterns of the keys to keep, separated by commas.
        text_keys: names or patterns of keys whose whole numbers are characters.

    Returns:
        a Dict of the chosen spaces, in which all text has a Text space.

    Raises:
        ValueError: if no key is chosen.

    Source: none, bookkeeping.
    """

    def chosen(key: str, patterns: str) -> bool:
        return any(fnmatchcase(key, part.strip()) for part in patterns.split(","))

    if not isinstance(obs_space, gym.spaces.Dict):
        obs_space = gym.spaces.Dict(obs=obs_space)
    spaces = {k: space for k, space in obs_space.items() if chosen(k, obs_keys)}
    if not spaces:
        raise ValueError(
            f"obs_keys chooses among {sorted(obs_space)}, but none of them fits "
            f"{obs_keys!r}; correct it."
        )
    for key, space in spaces.items():
        if chosen(key, text_keys) and space.shape is not None:
            spaces[key] = gym.spaces.Text(math.prod(space.shape))
    return gym.spaces.Dict(spaces)


# %% [markdown]
# ### A room with all four kinds
#
# Here is the observation space of an environment that shows two pictures, a vector, two
# kinds of choices and a text. Each line that is printed says how one of them is stored,
# and how many numbers a network will read for it. `MultiBinary(4)` is four switches. A switch is a choice of two, so it becomes
# a one-hot vector of two numbers, and the four of them stand for 8.

# %%
room = gym.spaces.Dict(
    camera=gym.spaces.Box(0, 255, (84, 84, 3), np.uint8),
    mask=gym.spaces.Box(0, 1, (84, 84), np.uint8),
    speed=gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
    door=gym.spaces.Discrete(3, start=1),
    switches=gym.spaces.MultiBinary(4),
    task=gym.spaces.Text(20),
)
for name, field in read_spaces(room).items():
    print(f"{name:9} {field.kind:8} {field.dtype!s:8} {field.shape!s:12}", end="")
    print(f"stands for {field.width} numbers")

# %% [markdown] tags=["aside"]
# ### Aside: the door that checks every row
#
# A batch of floats where bytes were meant would not crash. It would train a worse
# model, and nobody would know why. One infinite number would end up in all the weights.
#
# So every value is checked once, at one door, and trusted after that. The door also
# brings values into their stored form. A text that is too long is cut, a short one is
# filled up with zeros, and a character that no byte can hold becomes a question mark.

# %%
#| export
KINDS = {"f": "fiub", "u": "iub", "i": "iub", "b": "b"}  # stored <- what may come in


def encode_text(text: object, length: int, lead: int) -> np.ndarray:
    """Texts, or arrays of character numbers, as [*lead, length] of bytes.

    Source: none; Latin-1 has a byte for each of its characters.
    """
    array = np.asarray(text)
    if array.dtype.kind == "U":
        lines = [str(line).encode("latin-1", "replace") for line in array.ravel()]
        rows = [list(line[:length].ljust(length, b"\0")) for line in lines]
        return np.array(rows, np.uint8).reshape(*array.shape, length)
    if array.dtype.kind not in KINDS["f"]:
        return array  # which `admit` refuses
    known = (array >= 0) & (array < 256)
    array = np.where(known, array, ord("?"))
    return array.reshape(*array.shape[:lead], -1)[..., :length]


def find_outside(field: Field, array: np.ndarray) -> np.ndarray | tuple[()]:
    """The values [n] that a field does not allow; nan is never allowed.

    Source: none, bookkeeping.
    """
    byte = array.dtype == np.uint8 and field.kind != "choices"
    if field.kind == "flag" or (byte and field.low <= 0 and field.high == 255):
        return ()  # no comparison: this is what most pictures are
    inside = (field.low <= array) & (array <= field.high)
    return () if inside.all() else array[~inside]


def admit(
    fields: dict[str, Field], values: dict, lead: int = 0
) -> dict[str, np.ndarray]:
    """Bring values into their stored form: the one door to replay and agent.

    Args:
        fields: {name: Field}.
        values: {name: array, number or text}; other names are ignored.
        lead: dimensions before those of a field: 0 for a row, 1 for a batch.

    Returns:
        {name: array [*lead, *shape]} of the field's dtype, in one piece of memory.

    Raises:
        ValueError: with every name that does not fit, what came and what to do.

    Source: none, bookkeeping.
    """
    fits, wrong = {}, []
    for name, field in fields.items():
        if name not in values:
            wrong.append(f"{name!r} is missing among {sorted(values)}: pass every key")
            continue
        array = values[name]
        if field.kind == "text":
            array = encode_text(array, field.shape[0], lead)
        array, sides = np.asarray(array), lead + len(field.shape)
        shaped = array.ndim == sides and array.shape[lead:] == field.shape
        if not shaped or array.dtype.kind not in KINDS[field.dtype.kind]:
            form = ["B"] * lead + [*map(str, field.shape)]
            wrong.append(
                f"{name!r} is {array.dtype} of shape {list(array.shape)}, where the "
                f"space has {field.dtype} of [{', '.join(form)}]: convert it"
            )
        elif len(outside := find_outside(field, array)):
            allowed = f"numbers from {field.low} to {field.high}"
            if field.kind == "vector" and field.dtype == np.float32:
                allowed = "finite numbers of float32"
            wrong.append(
                f"{name!r} holds {outside[0]}, where the space has {allowed}: correct "
                "one of them"
            )
        else:
            fits[name] = np.asarray(array, field.dtype, order="C")
    sizes = {name: len(array) for name, array in fits.items()} if lead else {}
    if len(set(sizes.values())) > 1:
        wrong.append(f"the batch sizes differ, {sizes}: pass rows that belong together")
    if wrong:
        raise ValueError(f"This does not fit its space: {'; '.join(wrong)}.")
    return fits


# %% [markdown]
# The first two rows below hold the same values in different forms, and both are
# accepted. The third has four things wrong with it, and the error names all four.

# %%
fields = read_spaces(room)
row = {
    "camera": np.full((84, 84, 3), 7, np.uint8)[:, ::-1],  # runs backwards
    "mask": np.ones((84, 84), np.int64),
    "speed": np.array([0.5, -1], ">f8"),  # the other byte order
    "door": 3,
    "switches": [0, 1, 1, 0],
    "task": "open the 3rd door \u2192",
}
stored = admit(fields, row)
again = admit(fields, {key: np.asarray(stored[key]) for key in row} | {"door": 3})
print("door:", stored["door"], "| speed:", stored["speed"])
print("task:", bytes(stored["task"]))
claim("the second row is equal", all((stored[k] == again[k]).all() for k in row))

wrong = {"camera": row["camera"] / 255, "speed": [np.nan, 0], "door": 9}
try:
    admit(fields, row | wrong | {"mask": row["mask"] * 2})
except ValueError as error:
    print(textwrap.fill(str(error), 88))

# %% [markdown]
# ## What a row weighs
#
# Memory is the first thing that breaks. Simple agents keep a list of transitions
# (frame, action, reward, next frame), with frames as `float32`, ready for the network.
#
# Ours stay `uint8` until the moment they are used. And each frame is stored only once,
# because its successor is simply the next row.

# %% tags=["hide-input"]
#| export
FORMAT = "dreamer-lite-replay-1"


def replay_bytes(capacity: int, obs_space: gym.Space, action_space: gym.Space) -> int:
    """Bytes that a full replay of `capacity` rows occupies: known before it exists.

    Source: none, bookkeeping.
    """
    fields = read_spaces(obs_space, action_space).values()
    return capacity * sum(math.prod(f.shape) * f.dtype.itemsize for f in fields)


# %% [markdown] tags=["predict"]
# **Predict.** Compare one such transition with one of our rows, for frames of 64 x 64 x
# 3. Is our row half as heavy, a quarter, or an eighth? And what dominates its weight:
# the frame, or all the rest together?
#
# <details><summary>Answer</summary>
#
# An eighth: a `float32` has four bytes, and there are two frames. The frame dominates,
# with 12,288 of 12,315 bytes. A million rows take 12.3 GB instead of 98.
#
# </details>

# %%
screen = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
buttons = gym.spaces.Discrete(5)

row, transition = replay_bytes(1, screen, buttons), 2 * 64 * 64 * 3 * 4
print(f"a transition's frames: {transition:,} bytes, a row: {row:,} bytes")
print(f"a million of each: {transition / 1000:.1f} GB and {row / 1000:.1f} GB")
compare("one row", row, 12_288 + 5 * 4 + 4 + 3, tolerance=0)


# %% [markdown] tags=["aside"]
# ### Aside: actions as vectors
#
# The action of a row is stored as a vector, because that is what the model reads: a
# one-hot vector for buttons, the numbers themselves for joysticks. If several choices
# are made at once, say one of three buttons and one of two gears, their one-hots are
# laid end to end.

# %%
#| export
def encode_action(field: Field, action: object) -> np.ndarray:
    """One action as a vector [A]: one-hots laid end to end, or the numbers.

    Args:
        field: of the action, as `read_action` gives it.
        action: in the form of its space; a vector [A] is returned as it is.

    Raises:
        ValueError: for a choice that the space does not have.

    Source: none; the model reads vectors, for any space.
    """
    action = np.asarray(action)
    one_hot = action.shape == (field.width,) != field.shape
    if field.kind != "choices" or one_hot:
        return action
    chosen = admit({"action": field}, {"action": action})["action"].ravel()
    vector = np.zeros(field.width, np.float32)
    vector[field.places + chosen] = 1
    return vector


def decode_action(field: Field, vector: np.ndarray) -> np.ndarray:
    """Undo `encode_action` for a batch: [B, A] -> actions in the form of the space.

    Source: none, bookkeeping.
    """
    if not field.sizes:
        return vector
    one_hots = np.split(vector, np.cumsum(field.sizes)[:-1], -1)
    chosen = np.stack([one_hot.argmax(-1) for one_hot in one_hots], -1)
    return chosen.reshape(len(vector), *field.shape) + field.low


# %%
for space, action in (
    (buttons, 3),
    (gym.spaces.Discrete(3, start=1), 3),
    (gym.spaces.MultiDiscrete([3, 2]), [2, 0]),
    (gym.spaces.Box(-1, 1, (2,)), [0.5, -1.0]),
):
    print(f"{space!s:25} {action!s:12} {encode_action(read_action(space), action)}")

# %% [markdown]
# ## A ring and its seam
#
# One day the memory is full. From then on, the newest row takes the place of the
# oldest: the array becomes a *ring*. Its `head` is the place where the next row goes.
# Let us write the numbers 0 to 12 into a ring of 8 places.

# %%
ring, head = np.full(8, -1), 0
for number in range(13):
    ring[head] = number
    head = (head + 1) % 8
print("places:", ring, " head:", head)

# %% [markdown]
# Look at places 4 and 5. They are neighbours in memory, but place 4 holds row 12, the
# newest, and place 5 holds row 5, the oldest. Between them is a *seam*.
#
# A window of consecutive rows must never run across it. Nothing in the window would
# tell the model that Mario was teleported.

# %% [markdown] tags=["predict"]
# **Predict.** Somebody forgets the seam, and begins windows of 3 at random in all 8
# places, reading on around the ring. Which of the 8 windows are broken? If the windows
# get longer, are there more broken ones or fewer? And if the memory gets larger?
#
# <details><summary>Answer</summary>
#
# The two that begin at places 3 and 4. Longer windows cross the seam more often: with
# 64 rows there would be 63 broken ones. A larger memory does not change their number,
# so they get rarer. Rare enough to look like bad luck: a spike of the loss, now and
# then, and only after the memory is full.
#
# </details>

# %%
windows = ring[(np.arange(8)[:, None] + np.arange(3)) % 8]
broken = (np.diff(windows) != 1).any(1)
print(windows[broken])
print("broken windows:", broken.sum(), "of", len(windows))


# %% [markdown]
# The remedy is to count from the oldest row, not from place 0. Say that `size` rows
# are stored, and that the next one goes to the place `head`. Then the oldest row is at
# `head - size`. A window of $T$ rows begins 0, 1, ..., `size` - $T$ rows after it. This
# *offset* is drawn at random, and only at the very end do we go around the ring, with
# a remainder (mod):
#
# $$\text{place} = (\text{head} - \text{size} + \text{offset} + [0, 1, \dots, T-1])
# \bmod \text{rows}$$
#
# Here *rows* is the number of places in the ring, whether they are filled or not.
#
# With several games at once there are several rings, and a fuller ring has more
# windows. So that every window is equally likely, we draw one number from all window
# starts together.

# %%
#| export
def draw_windows(
    head: np.ndarray,
    size: np.ndarray,
    rows: int,
    batch: int,
    length: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Where random windows of consecutive rows lie in rings of `rows` places.

    Args: head [E], the place of each ring where the next row goes; size [E], how many
    rows it holds; batch, how many windows; length, rows in each; rng, a generator.
    Returns: ring [B, 1] and place [B, T]. Every window start is equally likely, and no
    window runs across the head, where the newest row meets the oldest.
    Raises: ValueError while no ring holds `length` rows.
    Source: DreamerV3, Methods, "Experience replay" (uniform sampling).
    """
    starts = np.maximum(size - length + 1, 0)  # how many windows begin in each ring
    if starts.sum() == 0:
        raise ValueError(
            f"Replay.sample expects a stream of at least {length} rows, but the "
            f"longest holds {size.max()}; collect more before sampling."
        )
    ends = np.cumsum(starts)
    draw = rng.integers(ends[-1], size=batch)
    ring = np.searchsorted(ends, draw, side="right")
    offset = draw - (ends - starts)[ring]  # rows after the oldest one
    first = (head - size)[ring] + offset
    return ring[:, None], (first[:, None] + np.arange(length)) % rows


# %% [markdown]
# Does it work? We draw 20,000 windows from three rings. One has wrapped around, one is
# half full, and one holds fewer rows than a window. In every window the row numbers
# must rise by one, and all possible windows must come up about equally often.

# %%
rings = np.array([ring, [20, 21, 22, 23, -1, -1, -1, -1], [40, 41, *[-1] * 6]])
heads, sizes = np.array([head, 4, 2]), np.array([8, 4, 2])
rng = np.random.default_rng(0)
which, place = draw_windows(heads, sizes, 8, 20_000, 3, rng)
drawn = rings[which, place]
first_rows, counts = np.unique(drawn[:, 0], return_counts=True)

print("first rows:", first_rows)
claim("no window runs across a seam", (np.diff(drawn) == 1).all())
claim("each window has its share within 10 %", (abs(counts / 2500 - 1) < 0.1).all())


# %% [markdown]
# Now move the sliders: more rows written, longer windows, another start. The upper row
# shows the places in memory, the lower one the same rows in the order in which they
# happened. Watch how the window never crosses the red line.

# %% tags=["hide-input"]
def draw_ring(written, length, start):
    """A ring of 12 places after `written` rows, with one window, above and below."""
    places, size = np.arange(12), min(written, 12)
    head, windows = written % 12, max(size - length + 1, 0)
    number = written - 1 - (head - 1 - places) % 12  # which row lies at each place
    start = min(start, windows - 1)
    chosen = range(written - size + start, written - size + start + length)
    fig, axes = plt.subplots(2, 1, figsize=(7.2, 2.9))
    for ax, order in zip(axes, (places, np.argsort(number))):
        for x, row in enumerate(number[order]):
            inside = windows > 0 and row in chosen
            color = COLORS["memory"] if inside else COLORS["mist"]
            ax.add_patch(plt.Rectangle((x, 0), 0.94, 1, color=color))
            text = str(row) if row >= 0 else "empty"
            ink = COLORS["paper"] if inside else COLORS["ink"]
            ax.text(x + 0.47, 0.5, text, ha="center", va="center", color=ink)
        ax.set(xlim=(-0.1, 12.1), ylim=(-0.1, 1.5), yticks=[])
        ax.grid(False)
    axes[0].axvline(head - 0.03, color=COLORS["error"], linewidth=3)
    axes[0].text(
        head + 0.1, 1.15, "head: the next row goes here", color=COLORS["error"]
    )
    axes[0].set(xlabel="place [1]", xticks=places + 0.47, xticklabels=places)
    axes[1].set(xlabel="row, the oldest first [1]", xticks=[])
    axes[1].set(title=f"{windows} windows of {length} rows fit")
    return fig


def sentence_ring(written, length, start):
    """What the picture shows, in words."""
    size = min(written, 12)
    if length > size:
        return f"A ring of 12 places with {size} rows; no window of {length} rows fits."
    first = written - size + min(start, size - length)
    return (
        f"A ring of 12 places after {written} rows; the window holds the rows {first} "
        f"to {first + length - 1}."
    )


explore(
    draw_ring,
    alt=sentence_ring,
    written=Slider(1, 40, value=17),
    length=Slider(1, 12, value=4),
    start=Slider(0, 11, value=5),
)


# %% [markdown]
# ## The replay
#
# We have the rows and the windows. Now they become one class.
#
# > **The paper says.** The replay is sampled uniformly. Prioritised sampling would help,
# > but is left out for simplicity. A queue puts the newest sequences into the next batch
# > first, and the model's states are stored beside the rows, so that a sequence can start
# > from the state that the agent had ("Experience replay" in the Methods).
#
# We sample uniformly as well, but without the queue and without stored states. A
# sampled window starts from the zero state, as if its first row were the first of an
# episode. So in its first rows the model does not know what happened before. That costs
# a little, and saves a lot of code.

# %%
#| export
class Replay:
    """A ring of rows for each environment, preallocated, uint8 images kept as uint8.

    Args:
        capacity: rows in total, shared equally by the environments.
        obs_space, action_space: what `read_spaces` can read.
        num_envs: how many streams of experience are stored side by side.
        seed: of the sampling.
    Source: DreamerV3, Methods, "Experience replay", without queue and stored states.
    """

    def __init__(
        self,
        capacity: int,
        obs_space: gym.Space,
        action_space: gym.Space,
        num_envs: int = 1,
        seed: int = 0,
    ):
        self.obs_space, self.action_space = obs_space, action_space
        self.fields = read_spaces(obs_space, action_space)
        self.choice = read_action(action_space)
        self.rows = capacity // num_envs
        if self.rows < 1:
            raise ValueError(
                f"Replay expects at least one row for each of the {num_envs} "
                f"environments, but got a capacity of {capacity}; raise the capacity."
            )
        # np.zeros reserves address space; memory is used when a row is written.
        self.data = {
            key: np.zeros((num_envs, self.rows, *field.shape), field.dtype)
            for key, field in self.fields.items()
        }
        self.head = np.zeros(num_envs, np.int64)  # where the next row goes
        self.size = np.zeros(num_envs, np.int64)  # rows that hold experience
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return int(self.size.sum())

    def add(
        self,
        env: int,
        obs: dict,
        action: np.ndarray | np.integer | list | int,
        reward: float | np.floating,
        is_first: bool | np.bool_,
        is_last: bool | np.bool_,
        is_terminal: bool | np.bool_,
    ) -> None:
        """Store one row of stream `env`.

        Args:
            env: number of the stream.
            obs: {key: array} as in the observation space; other keys are ignored.
            action: chosen AFTER seeing `obs`, in the form of its space or as a vector
                [A]. A last row stores zeros.
            reward: arrived WITH `obs`.
            is_first, is_last, is_terminal: booleans.

        Raises:
            ValueError: as `admit`; then nothing is stored.
        """
        action = encode_action(self.choice, action) * (not is_last)
        row = {**obs, "action": action, "reward": reward}
        row |= {"is_first": is_first, "is_last": is_last, "is_terminal": is_terminal}
        row = admit(self.fields, row)
        at = self.head[env]
        for key, value in row.items():
            self.data[key][env, at] = value
        self.head[env] = (at + 1) % self.rows
        self.size[env] = min(self.size[env] + 1, self.rows)

    def sample(
        self, batch: int, length: int, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """Draw `batch` windows of `length` consecutive rows: {key: [B, T, ...]}.

        Every window start is equally likely. A window may span several episodes (its
        flags say where), but never the seam of a ring. `is_first[:, 0]` is True: a
        window starts from the zero state. A row before a first row is a last row, also
        where a run was cut off. `rng` replaces the replay's own random numbers, for a
        look that must not change a run.
        Raises: ValueError while no stream holds `length` rows.
        """
        rng = rng or self.rng
        at = draw_windows(self.head, self.size, self.rows, batch, length, rng)
        window = {key: column[at] for key, column in self.data.items()}
        window["is_last"][:, :-1] |= window["is_first"][:, 1:]
        window["is_first"][:, 0] = True
        return window

    def save(self, path: str | os.PathLike, compress: bool = False) -> None:
        """Write rows, position and random state to one .npz file, without pickle.

        The file appears under its name only when it is complete.
        """
        n = self.size.max()
        stored = {key: column[:, :n] for key, column in self.data.items()}
        stored |= {"head": self.head, "size": self.size}
        stored["meta"] = json.dumps(self.describe())
        save = np.savez_compressed if compress else np.savez
        write_whole(path, lambda file: save(file, **stored))

    def describe(self) -> dict:
        """What the rows are, and the random state, as plain data for JSON."""
        spaces = {key: describe_space(space) for key, space in self.obs_space.items()}
        return {
            "format": FORMAT,
            "obs_space": spaces,
            "action_space": describe_space(self.action_space),
            "rows": self.rows,
            "rng": self.rng.bit_generator.state,
        }

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Replay":
        """Read a replay written by `save`.

        Raises: FileNotFoundError, or ValueError if the file is damaged or not a replay.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"Replay.load expects a file written by Replay.save, but there is none "
                f"at {path}; record one or correct the path."
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["meta"]))
                replay = cls.empty(about, file["head"], file["size"])
                for key, column in replay.data.items():
                    size = file.zip.getinfo(f"{key}.npy").file_size
                    if size > column.nbytes + 2**16:  # that of a header
                        raise ValueError(f"{key} has more rows than the replay")
                    column[:, : replay.size.max()] = file[key]
            return replay
        except (OSError, MemoryError):
            raise
        except Exception as error:  # zip, zlib, NumPy and JSON each raise their own
            raise ValueError(
                f"Replay.load expects a file written by Replay.save, but {path} is "
                f"damaged or not a replay ({error}); record it again or restore a copy."
            ) from error

    @classmethod
    def empty(cls, about: dict, head: np.ndarray, size: np.ndarray) -> "Replay":
        """A replay as `describe` says, whose rows are still to be filled in."""
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")
        spaces = {key: restore_space(s) for key, s in about["obs_space"].items()}
        action_space = restore_space(about["action_space"])
        capacity = about["rows"] * len(head)
        replay = cls(capacity, gym.spaces.Dict(spaces), action_space, len(head))
        replay.head[:], replay.size[:] = head, size
        replay.rng.bit_generator.state = about["rng"]
        return replay


# %% [markdown]
# Look at the end of `sample`: two flags are corrected in the *copy* that it returns.
# `is_first[:, 0]` becomes True, because the model starts from the zero state there. And
# a row before a first row becomes a last row, even if a crash cut the episode off.
#
# Let us fill the replay with our six rows, and with a second episode that falls into the
# pit (walk, jump). The ring has room for exactly these 9 rows.

# %%
replay = Replay(9, Line.observation_space, Line.action_space)
for row in [*episode, *play(Line(), [walk, jump])]:
    action = 0 if row["action"] is None else row["action"]
    flags = row["is_first"], row["is_last"], row["is_terminal"]
    replay.add(0, {"x": np.float32(row["x"])}, action, row["reward"], *flags)

print("rows:     ", len(replay))
print("x:        ", replay.data["x"][0].astype(int))
print("jumped:   ", replay.data["action"][0, :, 1].astype(int))
print("reward:   ", replay.data["reward"][0].astype(int))

# %% [markdown] tags=["predict"]
# **Predict.** We sample a window of four rows that begins at x = 5 of the first
# episode: 5, 6, 0, 1. Draw its `is_first` and its `is_last` below these numbers. How
# often will the model start from zeros inside this window?
#
# <details><summary>Answer</summary>
#
# `is_first` is True at 5, where the window starts, and at 0, which is a reset.
# `is_last` is True only at 6. So the model starts from zeros twice.
#
# </details>

# %%
batch = replay.sample(64, 4)
one = np.flatnonzero((batch["x"] == [5, 6, 0, 1]).all(1))[0]
for key in ("x", "reward", "is_first", "is_last", "is_terminal"):
    print(f"{key:12}", batch[key][one].astype(int))
print("action of the last row:", batch["action"][one, 1])

# %% [markdown]
# Last, we check the rule of the arrows in every sampled window. Inside an episode, the
# next x must be x + 1 + (the jump stored in *this* row, 0 or 1). The mistake that we
# began with was to take the action of the neighbouring row. Then the sum is wrong
# wherever the two actions differ.

# %%
inside = ~batch["is_last"][:, :-1]
step = np.diff(batch["x"])[inside]
this_row = 1 + batch["action"][:, :-1, 1][inside]
next_row = 1 + batch["action"][:, 1:, 1][inside]
compare("action of this row leads on", this_row, step, tolerance=0)
compare("action of the next row leads on", next_row, step, expect="different")


# %% [markdown]
# ## The row that gets lost
#
# One trap is left, and it is not in the replay but in front of it. Training plays
# several games side by side, in Gymnasium's *vector environments*. They reset
# themselves when an episode ends, and there are two ways to do it.
#
# With `SAME_STEP`, the step that ends an episode already returns the first frame of the
# *next* one. With `NEXT_STEP`, it returns the last frame, and the step after it does
# nothing but reset.

# %% [markdown] tags=["predict"]
# **Predict.** We play the same two episodes in both modes, and write down the frame
# that comes back with each reward. Beside which x does the reward of 6 for the flag
# appear with `SAME_STEP`? What would a model learn from it?
#
# <details><summary>Answer</summary>
#
# Beside x = 0, the *start* of the next episode. A model would learn that the start is
# worth a lot, and it would never see the flag.
#
# </details>

# %%
def collect(mode, actions):
    """Play `actions` in a vector of one game; each row is (x, reward, end)."""
    envs = gym.vector.SyncVectorEnv([Line], autoreset_mode=mode)
    obs, _ = envs.reset()
    rows, reward, end = [], [0.0], [False]
    for action in actions:
        rows.append((int(obs["x"][0]), float(reward[0]), bool(end[0])))
        obs, reward, end, _, _ = envs.step(np.array([action]))
    return rows


Mode = gym.vector.AutoresetMode
lost = collect(Mode.SAME_STEP, [0, 0, 1, 0, 0, 0, 1, 0, 0])
kept = collect(Mode.NEXT_STEP, [0, 0, 1, 0, 0, 0, 0, 1, 0])
print("same step          next step")
for one, other in zip(lost, kept):
    print(f"{one!s:18} {other}")

claim("same step never shows the flag at x = 6", all(x != 6 for x, _, _ in lost))
claim("next step shows it, with its reward of 6", (6, 6.0, True) in kept)


# %% [markdown]
# The rows show (x, reward, end). With `NEXT_STEP` we get exactly the L + 1 rows of an
# episode of L steps, and this is what Dreamer Lite uses. The action given between two
# episodes is ignored by the environment. We store it as zeros, because it belongs to a
# last row.

# %% [markdown] tags=["aside"]
# ### Aside: on disk
#
# A run that was killed should be able to continue, so the memory must go to disk.
# Python's `pickle` would do that in one line, but reading such a file executes whatever
# code it contains. We store plain arrays and a little JSON.
#
# And we write under another name first, and rename at the end. So the file is either
# the old one or the new one, never half of each.

# %%
#| export
def write_whole(path: str | os.PathLike, write: Callable) -> None:
    """Write a file completely, or not at all.

    Args: write, called with a file open for writing bytes. The old file stays as it is
    until the new one is on disk and takes its name.
    Source: none, bookkeeping.
    """
    path = Path(path).expanduser()
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # left by a process that was killed
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def describe_space(space: gym.Space) -> dict:
    """A space that `read_space` can read, as plain data for JSON.

    Source: none, bookkeeping.
    """
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        counts, starts = space.nvec.tolist(), space.start.tolist()
        return {"type": "MultiDiscrete", "n": counts, "start": starts}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
    if not isinstance(space, gym.spaces.Box):
        return {"type": "Text", "n": read_space(space).shape[0]}
    bounds = [bound.ravel().tolist() for bound in (space.low, space.high)]
    low, high = ([b[0]] if len(set(b)) == 1 else b for b in bounds)
    shape, dtype = list(space.shape), str(space.dtype)
    return {"type": "Box", "low": low, "high": high, "shape": shape, "dtype": dtype}


def restore_space(data: dict) -> gym.Space:
    """Undo `describe_space`. Source: none, bookkeeping."""
    if data["type"] == "Box":
        dtype, shape = np.dtype(data["dtype"]), data["shape"]
        low, high = (np.resize(data[e], shape).astype(dtype) for e in ("low", "high"))
        return gym.spaces.Box(low, high, dtype=dtype)
    start = {"start": data["start"]} if "start" in data else {}
    return getattr(gym.spaces, data["type"])(data["n"], **start)


# %% [markdown]
# The state of the random numbers is part of the file, so a loaded replay draws the same
# batches as the one that was saved:

# %%
folder = Path(tempfile.mkdtemp())
replay.save(folder / "line.npz")
here = replay.sample(8, 3)
there = Replay.load(folder / "line.npz").sample(8, 3)
for key in here:
    compare(key, here[key], there[key], tolerance=0)

# %% [markdown]
# ## The experiment: Mario as sequences
#
# Now the real memory. We load the recorded play and draw sixteen windows of 64 rows,
# the batch that the paper learns from.

# %%
mario = Replay.load(data_path("mario_episodes.npz"))
batch = mario.sample(16, 64)
for key, column in batch.items():
    print(f"{key:12} {column.dtype!s:8} {list(column.shape)}")

# %% tags=["hide-input"]
few = batch["obs"][:4, ::8].reshape(-1, 64, 64, 3)
labels = [f"window {i}, t = {t}" for i in range(4) for t in range(0, 64, 8)]
fig = frames_grid(few, labels)
show(fig, alt="Four sampled windows, eight frames each: Mario at different places.")

# %% [markdown]
# These frames are what the model will see, eight of the 64 from each of four windows.
# What it must not get wrong are the places where a window continues from one episode
# into the next.

# %% [markdown] tags=["predict"]
# **Predict.** Draw the sixteen windows as lines of 64 rows, and mark the flags on them.
# Where does every line have an `is_first`? How many lines will have another one later,
# from a real reset: hardly any, about a third, or nearly all? And what comes right
# before such a reset?
#
# <details><summary>Answer</summary>
#
# Every line begins with `is_first`. About a third of the lines have a reset inside: with
# one in about 140 rows, and 63 places for it, there are fewer than one for every two
# windows, and some windows have two. Right before a reset comes `is_last`, and most often
# `is_terminal` in the same row: an episode that ended by itself.
#
# </details>

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(7.2, 3.2))
marks = {"is_first": ">", "is_last": "s", "is_terminal": "x"}
for flag, marker in marks.items():
    window, t = np.nonzero(batch[flag])
    size = 90 if flag == "is_last" else 36  # the cross is drawn on top of the square
    look = {"marker": marker, "color": COLORS[flag], "s": size, "label": flag}
    ax.scatter(t, window, zorder=3 if flag == "is_last" else 4, **look)
for window in range(16):
    ax.axhline(window, color=COLORS["mist"], zorder=1)
ax.set(xlabel="row of the window [1]", ylabel="window [1]")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
show(fig, alt="Flags in 16 windows: all start with is_first, some hold a whole reset.")


# %%
def share_with_reset(replay, length):
    """Of all windows of `length` rows: the share with a reset after its first row."""
    resets = np.lib.stride_tricks.sliding_window_view(
        replay.data["is_first"][:, :, None], length, axis=1
    )
    return resets[..., 1:].any(-1).mean()


counted = share_with_reset(mario, 64)
drawn = mario.sample(2000, 64)["is_first"][:, 1:].any(1).mean()
terminal = mario.data["is_terminal"].mean()

print(f"windows with a reset inside: {counted:.2f}, terminal rows: {terminal:.3f}")
claim("more than one window in ten holds a reset", counted > 0.1)
claim(
    "the sampled share is within 0.05 of the counted one", abs(drawn - counted) < 0.05
)
claim("fewer than 2 rows in 100 are terminal", terminal < 0.02)


# %% [markdown]
# Two lessons for the coming notebooks. More than one window in three has a reset
# inside, so a model that ignores `is_first` learns from teleportations. And the rows
# that teach what *ends* an episode are rare: only a handful among the 1,024 rows of a
# batch.

# %% [markdown]
# ## Exercises
#
# ### Exercise 3.1: From the oldest row to the newest
#
# *easy, about 5 minutes*
#
# A ring has `rows` places, holds `size` rows, and writes its next row at `head`. List
# the places of all stored rows, the oldest first.

# %% tags=["exercise-3.1"]
def time_order(head, size, rows):
    """Places of a ring's stored rows from the oldest to the newest: [size] integers.

    Args: head, where the next row goes; size, how many rows are stored; rows, places.
    """
    raise NotImplementedError("exercise 3.1")


# %%
check("3.1", time_order)
# solution("3.1")

# %% [markdown]
# ### Exercise 3.2: The rows of an episode
#
# *medium, about 10 minutes*
#
# An episode of L steps gives you L actions and L rewards, and you are told whether the
# game itself ended it. Fill the five columns of its L + 1 rows, flags included, as this
# notebook stores them.

# %% tags=["exercise-3.2"]
def episode_rows(actions, rewards, terminated):
    """The columns of the L + 1 rows of an episode of L steps.

    Args: actions [L, A], one-hot, in the order they were chosen; rewards [L], what each
    step returned; terminated, whether the game itself ended the episode.
    """
    steps, size = actions.shape
    columns = {
        "action": np.zeros((steps + 1, size), np.float32),
        "reward": np.zeros(steps + 1, np.float32),
        "is_first": np.zeros(steps + 1, bool),
        "is_last": np.zeros(steps + 1, bool),
        "is_terminal": np.zeros(steps + 1, bool),
    }
    raise NotImplementedError("exercise 3.2")
    return columns


# %%
check("3.2", episode_rows)
# solution("3.2")

# %% [markdown]
# ### Exercise 3.3: A spike in the loss, now and then
#
# *medium, about 10 minutes, one planted bug*
#
# This sampler worked for a day. Then the memory was full, and since then the loss has
# jumped from time to time. Find the bug.

# %% tags=["exercise-3.3"]
def random_window(ring, head, size, length, rng):
    """`length` consecutive rows of a ring, all possible windows equally likely."""
    rows = len(ring)
    start = rng.integers(size - length + 1)
    return ring[(start + np.arange(length)) % rows]


# %%
check("3.3", random_window)
# solution("3.3")

# %% [markdown]
# ## What breaks
#
# | mistake | how it looks | what finds it |
# |---|---|---|
# | actions shifted by one row | [losses fall](https://github.com/epignatelli/navix/pull/152), reconstructions look fine, the agent stays poor | an environment whose frame *is* the last action: a dream there must show each button in the very next frame (notebook 06) |
# | a reward stored with the frame it was earned *in* | the reward loss stays high at sudden rewards | the six rows above, by hand |
# | windows across the seam | rare spikes of the loss, only after the memory is full | row numbers as observations, as in our check |
# | the last frame lost by the reset | `is_terminal` never comes with the frame of the end | `collect` above |
# | actions shifted in place, in memory that overlaps | [one or two actions in a hundred](https://github.com/NM512/r2dreamer/issues/9) are wrong | copy first, and compare with the stored column |
# | after a reset the model [still reads the last action](https://github.com/pytorch/rl/pull/4128) of the episode before | wrong predictions right after the reset | notebook 05 masks it; its test puts a random action there |
#
# The replay itself never shifts anything. It returns rows as they happened, and the
# shift takes place once, in `WorldModel.observe` (notebook 06), where it can be tested.

# %% [markdown]
# ## What we built
#
# `Replay`, with `add`, `sample`, `save` and `load`. One rule holds in all of it: a row
# is a frame, the reward that came with it, and the action that was chosen after it.
#
# Next, in **04_networks**: each row holds a frame of 12,288 numbers. We turn it into
# one vector, and back.

# %%
what_we_built("03_replay")
