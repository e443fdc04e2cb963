# %% [markdown]
# # Beyond: your own environment
#
# **The question.** You have a game, a robot or a puzzle of your own. How do you get from
# there to an agent that plays it, and how do you know on the way that all is well?
#
# We write a tiny game, Catch, and go the whole way with it: wrap it, check it, choose a
# size, say how long it will take, predict the first losses, train, and look at the dream.
#
# **At the end** you have done each of these once, and you can do the same with an
# environment of yours.
#
# **You need** notebooks 03 (rows), 06 (the losses and the dream) and 09 (the training
# loop). From here on we only use the package; nothing new is exported.
#
# *Measured: 0.4 minutes on two CPU cores, 0.5 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
import json
import math
import tempfile
import textwrap

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch

from course import COLORS, claim, data_path, read_columns, show, strip, use_style

use_style()

# %% [markdown]
# ## The game
#
# A ball falls from a random column, and a paddle at the bottom moves left, stays, or
# moves right. When the ball lands, the reward is 1 if the paddle is below it, and -1 if not.
# All other rewards are 0.
#
# An environment is a class with two spaces, `reset` and `step`. The observation is a
# colour picture, because we want to look at dreams later. It has 16 x 16 pixels; anything
# smaller is read as a vector.

# %%
import gymnasium as gym
import numpy as np


class Catch(gym.Env):
    """A ball falls on a board of 4 x 4 cells; be below it when it lands."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(3)  # left, stay, right

    def _look(self):
        board = np.zeros((4, 4, 3), np.uint8)
        board[3, self.paddle] = 90, 190, 255
        board[self.row, self.column] = 255, 230, 150
        return board.repeat(4, 0).repeat(4, 1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # makes self.np_random
        self.row, self.column, self.paddle = 0, int(self.np_random.integers(4)), 2
        return self._look(), {}

    def step(self, action):
        self.paddle = int(np.clip(self.paddle + action - 1, 0, 3))
        self.row += 1
        landed = self.row == 3
        reward = 0.0 if not landed else 1.0 if self.paddle == self.column else -1.0
        return self._look(), reward, landed, False, {}


# %% [markdown]
# Three details matter more than they seem. The picture is a `Box` of bytes from 0 to 255,
# so the agent knows that it is a picture. The random numbers come from `self.np_random`,
# so a seed decides the game. And a landed ball *terminates* the episode: nothing comes
# after it. A time limit would be *truncated* instead.
#
# Here is one episode. The strip is also the first test: if you cannot play from these
# pictures, the agent cannot either. In the last one the ball hides the paddle: caught.

# %%
env = Catch()
frames = [env.reset(seed=1)[0]]
for action in (0, 0, 2):
    frames.append(env.step(action)[0])
fig = strip(np.array(frames), columns=4)
show(fig, alt="Four pictures of an episode: a yellow ball falls, a blue paddle moves.")

# %% [markdown]
# ## Wrap it
#
# Usually there is nothing to do. Everywhere in the package, an environment is one of
# three things:
#
# | you have | you write |
# |---|---|
# | an id that Gymnasium knows | `"CartPole-v1"` |
# | a class, or any function that returns an environment | `Catch` |
# | a function in a module, for the command line | `"my_game:Catch"`, with options as in `"my_game:Catch(size=8)"` |
#
# `build_env` shows what the agent will see. It names a single observation `obs`, and it
# flattens dictionaries.
#
# One thing is worth a thought: names are not amounts. If a number stands for one of several
# things, such as a tile of a map, a colour or an item, declare it as `Discrete` or
# `MultiDiscrete`. Then the model predicts it as a class. In a `Box` it is an amount, and
# to mix up two of them costs next to nothing. The page [reading](reading.ipynb) has an
# example.

# %%
from dreamer_lite.envs import build_env

wrapped = build_env(Catch)
print("observations:", wrapped.observation_space)
print("actions:     ", wrapped.action_space)

# %% [markdown]
# ## Check it
#
# Gymnasium comes with a checker. It tests that observations fit their spaces, that a seed
# decides the game, and that all types are right. Treat its warnings as failures, with two
# exceptions: the one about wrappers and the one about a registered name.

# %%
import warnings

from gymnasium.utils.env_checker import check_env

with warnings.catch_warnings():
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*unwrapped.*|.*spec.*")
    check_env(Catch(), skip_render_check=True)
print("Gymnasium's checker is content.")


# %% [markdown]
# Dreamer Lite refuses a few more things, each with one sentence that says what to do. Here
# are the three that people meet most often: actions without bounds, observations outside
# of their space, and a function that returns no environment.

# %%
class Thrust(Catch):
    """Its action is one number without bounds."""

    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Floats(Catch):
    """Its picture is of floats from 0 to 1, but its space promises bytes."""

    def _look(self):
        return (super()._look() / 255).astype(np.float32)


for wrong in (Thrust, Floats, lambda: None):
    try:
        build_env(wrong).reset()
    except (TypeError, ValueError) as error:
        print(textwrap.fill(f"{type(error).__name__}: {error}", 84), end="\n\n")

# %% [markdown]
# The cure is usually a wrapper of Gymnasium around your class (the names are in `gym.wrappers`
# and `gym.spaces`). For `low` and `high` take the smallest and the largest action that make
# sense in your world. The agent's actions are stretched to this range, and never leave it.
#
# The first three of these are refused. The last two are not, but they cost time.
#
# | problem | cure |
# |---|---|
# | actions without bounds | `TransformAction(env, lambda a: a, Box(low, high, (1,)))` |
# | floats where the space promises bytes | let `_look` return bytes from 0 to 255, or change the space |
# | a space that is not numbers, choices or text | `TransformObservation` to a `Box` or `Discrete` |
# | a very large picture | `ResizeObservation(env, (64, 64))` |
# | an episode that never ends | `TimeLimit(env, 1000)`, which truncates |
#
# ## Test the agent first
#
# If you changed anything in the agent itself, test it before you give it a game. Notebook
# 09 introduced the probes: five tiny environments whose values are known exactly. Each
# needs one more part of the agent than the one before it, so the first that fails tells
# you where to look. Two of them:

# %% tags=["nbval-ignore-output"]
# Not compared: the digits of a value depend on the processor.
from course.probes import probe

for name in ("delayed", "both"):  # of constant, seen, delayed, action, both
    passed = probe(name)
    claim(f"the probe {name} is passed", passed)

# %% [markdown]
# To test an agent of your own, write a function `mine(obs_space, action_space)` that
# returns it (notebook 09 has an example), and call `probe("delayed", make_agent=mine)`.
# An agent that fails here will hardly do better elsewhere, and here it takes ten seconds to
# find out.
#
# ## Choose a size
#
# A preset is a size together with the learning rates that belong to it. On a CPU, two of
# them make sense: `1m` for vectors and small pictures, `3m` for pictures of 64 x 64. From
# `12m` on you want a GPU. Here is what one update costs on two CPU cores, and how long
# 5,000 updates take, as an order of magnitude. The row *classic* is not a preset: it has the
# sizes that other versions of DreamerV3 in PyTorch use for small experiments.

# %%
bench = json.loads(data_path("bench/cpu.json").read_text())
for case in bench["cases"]:
    if (case["precision"], case["speed"]) == ("fp32", "eager"):
        seconds = case["step"]["median"]
        print(f"{case['case']:14} {seconds:5.2f} s an update, "
              f"{5000 * seconds / 60:4.0f} minutes for 5,000")  # fmt: skip

# %% [markdown]
# For Catch, which is a toy, we take something smaller than any preset, so that you can
# train it yourself while you read. For a game of yours, begin with
# `Config.preset("1m", envs=4)` and change one thing at a time.

# %%
from dreamer_lite.config import Config

SMALL = dict(
    deter=128, units=64, latents=8, classes=4, depth=8, blocks=4,  # the model
    batch=16, length=8, horizon=3, lr=3e-3, critic_lr=3e-3, actor_lr=5e-4,
    warmup=50, entropy=3e-2,  # learning
    envs=4, prefill=300, ratio=32.0, steps=3_600, capacity=4_000, log_every=20,
    device="cpu", precision="fp32", video_minutes=1e6,  # the run
)  # fmt: skip
config = Config(**SMALL)

# %% [markdown] tags=["predict"]
# **Predict.** How many updates will this run make? After the prefill, every step of play
# is replayed `ratio` times, and one update replays `batch` sequences of `length` rows.
#
# <details><summary>Answer</summary>
#
# (3,600 - 300) steps x 32 / (16 x 8) = 825 updates.
#
# </details>

# %%
updates = (
    (config.steps - config.prefill) * config.ratio / (config.batch * config.length)
)
print("updates:", updates)

# %% [markdown]
# ## What the first losses should be
#
# Before the first update nearly everything is known. If a number in the first line is
# wrong, there is a bug, and later it is much harder to find. So let the untrained agent
# look at a few rows of random play.

# %% [markdown] tags=["predict"]
# **Predict.** What are the entropy of the actor, with three actions, and the value of
# every state? Is the loss of the picture nearer to 1 or to 200? The untrained decoder
# draws about 0.5 everywhere, a picture has 16 x 16 x 3 numbers, and most of them are 0.
#
# <details><summary>Answer</summary>
#
# Entropy: $\ln 3 = 1.10$, because all actions are equally likely. Values: 0, because all
# weights of the critic's last layer are 0 at first. Picture: nearer to 200, because the
# squared errors are *summed*: 768 numbers, each about 0.5 away, make $768 \cdot 0.25 = 192$.
#
# </details>

# %%
from dreamer_lite.dreamer import Collector, Dreamer, evaluate, train
from dreamer_lite.envs import make_vector, random_policy
from dreamer_lite.replay import Replay

envs = make_vector(Catch, 4, seed=0)
spaces = envs.single_observation_space, envs.single_action_space
replay = Replay(1000, *spaces, num_envs=4)
collector, chance = (
    Collector(envs, replay),
    random_policy(spaces[1], np.random.default_rng(0)),
)
for _ in range(75):
    collector.tick(chance)
torch.manual_seed(0)
first = Dreamer(*spaces, config).train_step(replay.sample(16, 8))
expected = {
    "loss/obs": (192, 40), "loss/reward": (math.log(255), 0.01),
    "loss/continue": (0.8, 0.4), "actor/entropy": (math.log(3), 0.02),
    "value/mean": (0.0, 0.01), "return/scale": (1.0, 0.01),
}  # fmt: skip
for name, (number, margin) in expected.items():
    near = abs(float(first[name]) - number) <= margin
    claim(f"{name} is {number:.2f}, give or take {margin:g}", near)

# %% [markdown]
# Three of these numbers we did not ask for. The reward's first loss is $\ln 255 = 5.54$,
# because all bins are equally likely at first (notebook 02). The continue loss is near
# $\ln 2 = 0.69$, but it depends on the random first weights, so it may be anything from 0.4 to
# 1.2. The return scale never falls below 1 (notebook 07).
#
# The page [troubleshooting](../reference/troubleshooting.md) has a table of such first numbers, with
# the bug behind each wrong one. The page [metrics](../reference/metrics.md) explains every column.
#
# ## Train
#
# One call trains, and the same call continues a run that was stopped. Here we give it
# 700 steps only, which are a hundred updates, to see that everything works. A player
# who does not look catches one ball in four, whatever is pressed, because the column is
# random. So chance earns $\tfrac14 - \tfrac34 = -0.5$. Know this number for your own game, too:
# `evaluate(random_policy(spaces[1], np.random.default_rng(0)), Catch, 100)` measures it.

# %%
folder = tempfile.mkdtemp(prefix="catch_")
agent = train(Catch, Config(**SMALL | {"steps": 700}), folder, progress=False)
episodes = evaluate(agent, Catch, 40, envs=4)
mean = np.mean([episode["return"] for episode in episodes])
claim("after a hundred updates the mean return is still below 0.5", mean < 0.5)


# %% [markdown]
# In a terminal a run is one command, for a file `my_game.py` that contains `Catch`. Stop it
# with Ctrl-C, and run the same command to continue. It takes much longer than our run,
# because the preset is larger than `SMALL` and its 100,000 steps bring 12,375 updates. You
# can give any field as a flag, for example a smaller `--steps`:
#
# ```
# python -m dreamer_lite train --env my_game:Catch --logdir runs/catch --preset 1m
# python -m dreamer_lite evaluate runs/catch
# ```
#
# ## How long must you wait?
#
# A hundred updates are far too few. The most common mistake with an environment of one's own
# is to give up while the agent is still at chance. Below is a whole run with the settings
# above, stored in `data/lessons/`; `python tools/lessons.py healthy` makes it again.

# %% [markdown] tags=["predict"]
# **Predict.** The stored run makes 840 updates. (It is some 90 steps longer than our settings
# say.) Sketch the return against the number of updates. Does it rise evenly, or does it stay
# flat and rise late? And which is learnt first, the picture or the reward?
#
# <details><summary>Answer</summary>
#
# It stays flat for some 500 updates and rises late. At the very beginning both losses fall,
# and the reward's even faster. After that the picture leads: most of its loss is gone after
# 440 updates, while the reward's is still falling at the end. The order makes sense. The
# model must see ball and paddle before it can tell when they meet, and it must know that
# before its dreams can say which button is better.
#
# </details>

# %% tags=["hide-input"]
def read(name):
    """A table of data/ as {column: array}."""
    return read_columns(data_path(f"{name}.csv"))


def seeds(name):
    """The names of all stored seeds of a run."""
    paths = sorted(data_path().glob(f"{name}_seed*_metrics.csv"))
    return [
        f"{path.parent.name}/{path.stem.removesuffix('_metrics')}" for path in paths
    ]


def learning(name, width=20):
    """Updates made, and the mean of the last `width` returns, after each episode."""
    run, log = read(f"{name}_episodes"), read(f"{name}_metrics")
    made = np.interp(run["step"], log["step"], log["updates"], left=0)
    mean = np.convolve(run["return"], np.full(width, 1 / width), "valid")
    return made[width - 1 :], mean


fig, axes = plt.subplots(1, 3, figsize=(9, 2.7))
losses = {"loss/obs": "observation", "loss/reward": "reward"}
for name, style in zip(seeds("lessons/healthy"), ("-", "--")):
    made, mean = learning(name, 50)
    look = {"linestyle": style, "label": name.split("_")[1].replace("d", "d ")}
    axes[0].plot(made, mean, color=COLORS["return"], **look)
    log = read(f"{name}_metrics")
    for ax, (key, role) in zip(axes[1:], losses.items()):
        ax.plot(log["updates"], log[key], color=COLORS[role], **look)
        ax.set(yscale="log", ylabel=key)
axes[0].set(ylabel="return, mean of 50 [1]", ylim=(-1.05, 1.05))
axes[0].legend()
for ax in axes:
    ax.set(xlabel="update [1]")
show(
    fig,
    alt="The return of Catch over the updates, and the losses of picture and reward.",
)


# %% [markdown]
# For some 500 updates the agent plays hardly better than chance, and nothing tells you to wait.
# But look at the other two panels. The model was learning all the time, first mostly the
# pictures, then the reward. When both are good enough, the return rises within a hundred
# updates.
#
# This is the rule: **as long as `loss/obs` and `loss/reward` still fall, it is too early to
# judge the agent.**
#
# So before you start, write down how many updates you expect. Here is when some stored
# runs were *halfway*, from the return of random play to the best that they reached:

# %%
def halfway(name):
    """The update at which the mean return was halfway from its start to its best."""
    made, mean = learning(name)
    return int(made[(mean >= (mean[0] + mean.max()) / 2).argmax()])


for name in (
    "lessons/healthy",
    "curves/cartpole",
    "curves/pendulum",
    "curves/mario_hour",
):
    found = sorted({halfway(seed) for seed in seeds(name)})
    span = " to ".join(f"{update:,}" for update in (found[0], found[-1])[: len(found)])
    print(f"{name.split('/')[1]:12} halfway after {span} updates")

# %% [markdown]
# A few hundred updates for a vector or a toy, a few thousand for a game with pictures.
# Multiply that by the seconds that one update takes on your machine, and you know whether
# to wait for minutes or for hours.
#
# ## Look at the dream
#
# Numbers can all look fine while the model misses what matters. So look. The agent of the
# stored run sees the first picture of an episode and dreams the rest, knowing only the actions.

# %%
stored = np.load(data_path("lessons/healthy_seed0_dreams.npz"))
fig = strip(stored["real"][0], stored["dreamed"][0], columns=4, context=1)
show(
    fig,
    alt="An episode of Catch, real and dreamed: ball and paddle are where they belong.",
)

# %% [markdown]
# Ask three questions, in this order. *Is everything there that the reward depends on?*
# Here these are the ball and the paddle. *Does it move as it should?* *Do the buttons
# matter?* If you change an action, the paddle must go elsewhere, and the ball must not.
#
# In a run of your own, such pictures are stored as a GIF in the folder `videos/` of the run,
# every `video_minutes` minutes.
#
# ## If you see this, change that
#
# | you see | it means | change |
# |---|---|---|
# | returns at chance, `loss/obs` still falling | too early | nothing: wait |
# | returns at chance, all losses flat | the agent never meets a reward | more `prefill`, an easier start, a reward on the way |
# | `loss/obs` near its first value | the picture is wrong, or the rates are | look at the picture; `lr` |
# | `loss/dyn` exactly 1.00, dream without what matters | the latent says nothing | larger objects or a larger picture; `lr` |
# | `loss/dyn` high and flat, the dream ignores the buttons or follows them late | actions and rows do not match | the order of your rows (notebook 03) |
# | `loss/reward` stays high, `loss/obs` is low | the reward depends on what is not in the observation | put it there |
# | `value/mean` beyond any possible return | episodes do not terminate | `terminated` and `truncated` in `step` |
# | `value/mean` far below what its good episodes earn | the critic is not finished (notebook 09) | a higher `ratio`, more steps |
# | `actor/entropy` near 0, returns flat | sure too soon | ten times the `entropy`, begin anew |
# | returns rise, then fall | often only chance | three seeds, then [troubleshooting](../reference/troubleshooting.md) |
# | one update takes seconds | too large for this machine | a smaller preset, `--speed compile`, a GPU |
#
# Every column of the tables is explained in [metrics](../reference/metrics.md).
#
# ## A larger machine
#
# **A GPU** needs no change: `device` is `"auto"`, and `--speed auto` records an update as
# one CUDA graph, a list of all that the GPU does in it, which is then started by a single
# call. **Several GPUs or machines** share one run through torchrun, as in `torchrun
# --nproc-per-node 2 -m dreamer_lite train --env my_game:Catch --logdir runs/two`.

# %% [markdown]
# ## Final project
#
# Choose an environment that nobody has given you a configuration for: a game you write, a
# wrapper around a program, one of Gymnasium's that is not in this course. Train an agent
# on it, and write one page about it. Give yourself a point for each line:
#
# | | a point if |
# |---|---|
# | **Environment** | Gymnasium's checker is content, without warnings |
# | | you can play it yourself from what the agent sees |
# | | `terminated` and `truncated` are right, and you say why |
# | **Before training** | you predicted the first losses, and they were right |
# | | you measured what random play earns |
# | | you wrote down how many updates you expect to need |
# | **Training** | three seeds, with the same settings |
# | | the curve shows the mean and all three seeds |
# | | the run was stopped once and continued |
# | **Looking** | a dream beside reality, and what is wrong in it |
# | | one thing that you changed because of what you saw |
# | **Judging** | at least 100 episodes with seeds that no run has had |
# | | an interval beside the number |
# | | a baseline that does not learn |
# | | one sentence about what you do *not* know |
#
# Twelve points are a good project. An agent that failed can have all fifteen: what counts
# is that you know why.

# %% [markdown]
# ## What comes next
#
# [Broken agents](broken_agents.ipynb) is the other half of this page: three runs in which
# something is wrong, to be found from their numbers and their dreams.
