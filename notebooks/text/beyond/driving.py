# %% [markdown]
# # Beyond: driving
#
# **The question.** Mario has five buttons, and each is pressed or not. A car has a wheel and two pedals, and each
# of them can be moved by any amount. Can the same agent learn to drive from what it sees?
#
# **At the end** you have watched it drive, you know what changes when an action is a number, and you
# have looked at the road that it dreams.
#
# **You need** notebooks 08 and 09, and two packages that simulate and draw the car. If they are missing:
# `pip install box2d pygame-ce`.
#
# *Measured: 0.2 minutes on two CPU cores, 0.3 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
import inspect
import json
import math

import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, claim, data_path, error_frames, line, scrub, show, show_gif
from course import side_by_side, use_style
from course.driving import Road, look_ahead, make_car
from dreamer_lite.envs import build_env

use_style()
result = json.loads(data_path("driving/result.json").read_text("utf-8"))
with np.load(data_path("driving/film.npz")) as file:
    film = dict(file)

# %% [markdown]
# ## Watch it drive
#
# After training, the agent drove three roads that were new to it. This is the best of the three. There are three
# pictures side by side:
#
# * *Left:* what the agent sees, 64 x 64 pixels, 12 times a second.
# * *Middle:* the road that its world model dreams. It is told only how the wheel and the pedals are moved. So that
#   the dream does not drift away for good, it begins again every 30 decisions, from a state that has watched the
#   road so far.
# * *Right:* the error. It is white where the dream agrees with the road, and wine red where it does not.

# %%
clip = slice(10, 110, 2)
real, dreamed = film["best"][clip], film["dreamed"][clip]
show_gif(
    side_by_side(real, dreamed, error_frames(real, dreamed)),
    alt="A red car follows a grey road through bends; beside it dream and error.",
    caption="real | dreamed | error, eight seconds of an episode",
    fps=6,
)

# %% [markdown]
# ## The game
#
# `CarRacing-v3` comes with Gymnasium. Every episode has a new road, made of tiles. Each tile that the car reaches
# for the first time earns 1,000 divided by the number of tiles, so a whole lap is worth 1,000. Every frame costs
# 0.1, and an episode ends with the lap, or after 1,000 frames, which is 20 seconds. A lap that takes all the time
# brings 1,000 - 100 = 900, and a faster lap a little more. That is the best that one can hope for. A car that
# leaves the field loses 100, and the episode ends.
#
# We put one wrapper around it:

# %%
print(inspect.getsource(Road.step))

# %% [markdown]
# * *A decision holds for four frames.* The rewards of the four are added. In a single frame almost nothing
#   changes, and 1,000 decisions for 20 seconds would be slow to learn from.
# * *Frames between two decisions are not drawn*, because drawing a frame takes longer than simulating it.
# * *The bar below the picture is cut off.* It shows the speed, the wheels and the score, and the model would have to
#   predict the digits of the score. The agent does not need the bar for the speed: with its memory, it can see the
#   speed from how the road moves.
#
# And what can the agent do? An action is three numbers, each between two bounds:

# %%
env = make_car()
low, high = env.action_space.low, env.action_space.high
for name, *bounds in zip(("wheel", "gas", "brake"), low, high):
    print(f"{name:6} from {bounds[0]:2.0f} to {bounds[1]:.0f}")


# %% [markdown]
# ## Three numbers instead of a button
#
# The actor of notebook 08 does not know these bounds. When an action is a number, the actor always draws it from a
# normal distribution with a mean between -1 and 1. `build_env` then maps the range from -1 to 1 onto the bounds of
# the environment.
#
# **Build** that map: a function `to_bounds(unit, low, high)` for arrays. One thing to decide: a number drawn from a
# normal can lie beyond -1 and 1. What do you do with it? Write it in a cell of your own before you open ours. The
# cell after it records what arrives at the wheel and the pedals when `build_env` does the mapping.

# %% tags=["hide-input"]
def to_bounds(unit, low, high):
    """Map -1..1 onto low..high; what lies beyond is cut off there."""
    return low + (np.clip(unit, -1, 1) + 1) / 2 * (high - low)


# %%
car, seen = build_env(make_car), []
car.reset(seed=0)
pedals = car.unwrapped.car
pedals.steer, pedals.gas = (lambda x: seen.append(-x)), seen.append
pedals.brake = seen.append
for unit in ([0.0, 0.0, 0.0], [-1.0, 0.5, -3.0]):
    seen.clear()
    car.step(np.array(unit, np.float32))
    print(f"from -1 to 1: {unit}   at the car:", [round(float(x), 2) for x in seen[:3]])
    claim("  as ours", np.allclose(seen[:3], to_bounds(np.array(unit), low, high)))
car.close()


# %% [markdown]
# The cut is never made in the actor. `build_env` makes it for the car, and the world model makes
# it for itself (`embed_action`, notebook 05). The actor's log-probability is that of the number
# it drew.
# If it were told the number after the cut, it would be learning from an action that it did not choose.

# %% [markdown] tags=["predict"]
# **Predict.** A driver who has learnt nothing draws each of the three numbers evenly from its range. What are
# gas and brake on average, and is its return above or below zero?
#
# <details><summary>Answer</summary>
#
# Half gas and half brake, at the same time. The car creeps along, and the frames cost more than its few tiles
# earn, so the return is below zero. Still, it does reach some tiles, and this is where learning begins.
#
# </details>

# %%
def drive(policy, seed):
    """Return the sum of the rewards of one episode."""
    obs, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        obs, reward, ended, cut, _ = env.step(policy(obs))
        total, over = total + reward, ended or cut
    return total


rng = np.random.default_rng(0)
returns = [drive(lambda obs: rng.uniform(low, high), seed) for seed in (1, 2)]
claim(
    "a random driver ends between -100 and 0", -100 < min(returns) <= max(returns) < 0
)

# %% [markdown]
# ## A driver of four lines
#
# Before we praise an agent, let us see what a person can write down in a minute. This driver looks at
# one row of the picture, some way ahead of the car. Grass is green and the road is grey, so it takes every pixel
# whose red, green and blue are nearly equal for road. It steers towards the middle of these pixels.

# %%
print(inspect.getsource(look_ahead))
by_hand = [drive(look_ahead, seed) for seed in (1, 2, 3)]
claim("it is far better than chance: more than 300 on average", np.mean(by_hand) > 300)

# %% [markdown]
# **Break it:** drive again with `lambda picture: look_ahead(picture, gas=0.2)`. The car is faster, and it slides
# off in a bend. This driver knows where the road is. It does not know how fast it is going, because a single picture
# cannot show that. To be fast, a driver has to slow down *before* the bend. That needs a memory, and an idea of what
# comes next.

# %% [markdown]
# ## Learning
#
# One command trains the agent. If you call it again, it continues:
#
#     python tools/driving.py
#
# Its settings are almost those of Mario's first hour. Dreams begin in only half of the states (`dream_share`,
# notebook 09), which saves time. And the weight of the entropy is a tenth of Mario's; we come back to that.
#
# In training, an episode is cut off after 50 decisions without a new tile. This setting is called `patience`. The
# evaluation below does not use it: there, every episode has its full length.
#
# There is only this one run. It had one core of a Xeon to itself. We had planned four hours
# and stopped it long before that. Its checkpoint is not in the repository, so for you the
# command begins anew. When it is done it replaces the files in `data/driving/`, which
# `git restore data` brings back.

# %%
config = result["config"]
for name in (
    "units",
    "lr",
    "entropy",
    "envs",
    "batch",
    "length",
    "ratio",
    "dream_share",
):
    print(f"{name:12} {config[name]}")
print(f"\n{result['decisions']:,} decisions, {result['updates']:,} updates, "
      f"{result['minutes']:.0f} minutes")  # fmt: skip

# %% [markdown] tags=["predict"]
# **Predict.** Draw the return over the minutes of computing, from -50 to 900. When does it first rise clearly above
# zero?
#
# <details><summary>Answer</summary>
#
# Only after about a third of the run, between minute 16 and minute 23. Until then it stays near zero: an episode
# without tiles is cut off after 50 decisions and costs 20. This is probably the usual order: first the model must
# learn what a tile pays, and only then can dreams teach the actor to reach one.
#
# </details>

# %% tags=["hide-input"]
curve = np.array(result["curve"])
fig, ax = plt.subplots(figsize=(7, 3))
ax.plot(curve[:, 1], curve[:, 2], **line("ours"), label="20 episodes of training")
ax.axhline(result["mean"], **line("threshold"), label="the evaluation at the end")
ax.set(xlabel="minutes of computing", ylabel="return [1]")
ax.legend()
show(fig, alt="The return over the minutes: flat at first, then it climbs steeply.")

# %% [markdown]
# Every point is the mean of 20 training episodes, many of which were cut off early. The first 20 take nine minutes,
# so the curve begins there. The horizontal line is the evaluation. It belongs to a single agent, the one at the end of training.
#
# ## How good is it?
#
# We let the agent drive twenty whole episodes, as long as the game's own, on roads that no training has seen. As in
# training, its actions are drawn from the policy. Below its returns are those of the driver of four lines, on the
# same roads. Each row is sorted, so two numbers above each other do not belong to one road:

# %%
for name, key in (("agent", "returns"), ("by hand", "by_hand")):
    found = np.array(result[key])
    print(f"{name:8}", *sorted(found.round().astype(int)))
    print(f"{'':8} mean {found.mean():.0f}, {(found > 800).sum()} of 20 above 800\n")
ahead = np.array(result["returns"]) > np.array(result["by_hand"])
print(f"road by road, the agent is ahead on {ahead.sum()} of {len(ahead)}")

# %% [markdown]
# In less than an hour, and from pixels alone, the agent has learnt to drive as well as our four lines, and a little
# better: on 13 of the 20 roads its return is higher. But the means are close, since each of the two drivers fails in
# a bend on some roads. With 20 roads and one run this does not prove that the agent is the better driver.
#
# ## What its hands do
#
# Let us watch the three numbers along the best of the three episodes. The line is the mean of the actor's normal,
# mapped to the bounds of the car. The band is one standard deviation to each side.

# %% tags=["hide-input"]
mean, deviation = film["mean"], film["deviation"]
fig, axes = plt.subplots(3, 1, figsize=(8, 4.2), sharex=True)
for i, (ax, name) in enumerate(zip(axes, ("wheel", "gas", "brake"))):
    middle, least, most = (
        to_bounds(x[:, i], low[i], high[i])
        for x in (mean, mean - deviation, mean + deviation)
    )
    ax.fill_between(range(len(middle)), least, most, color=COLORS["ours"], alpha=0.2)
    ax.plot(middle, **line("ours"))
    ax.set(ylabel=name, ylim=(low[i] - 0.1, high[i] + 0.1))
axes[-1].set(xlabel="decision")
show(fig, alt="Wheel, gas and brake along an episode, with the width of the normal.")

# %% [markdown] tags=["predict"]
# Look at the wheel: the agent has not found out how to hold it still. It swings from side to side, and only on
# average does the car drive a straight line. Nothing in the reward speaks against that. The pedals make more sense:
# the gas goes down and the brake comes in short pulses, mostly where a bend is near.
#
# DreamerV3 keeps the deviation of this normal between 0.1 and 1. **Predict:** what is the entropy of all three
# numbers together, in nats, if each deviation is 1? And if each is 0.1? Can it be negative?
#
# <details><summary>Answer</summary>
#
# The entropy of a normal is the logarithm of its deviation plus 1.42. Three of them have 4.26 nats at a deviation of
# 1, and -2.65 at 0.1. So the entropy of numbers can be negative (notebook 08). For a choice among buttons it cannot:
# its smallest value is 0, for a policy that is sure of one button.
#
# </details>

# %%
entropy = np.log(deviation).sum(-1) + 1.5 * (math.log(2 * math.pi) + 1)
low_end, high_end = (3 * (math.log(d) + 1.419) for d in (0.1, 1.0))
print(f"possible: from {low_end:.2f} to {high_end:.2f} nats")
print(f"in the episode: {entropy.mean():.1f} on average")
print(f"worth at most: {config['entropy'] * (high_end - low_end):.4f}")

# %% [markdown]
# The last line says how much the entropy can change the actor's loss at all, with a weight of 3e-4: this is the
# whole difference between the widest policy and the narrowest one. In this episode the policy is far from the
# narrow end. Its -0.7 nats correspond to a deviation of about 0.19 for each number, which is twice the bound of 0.1.
#
# And even at that bound the driver's hands would tremble a little. In other words, it would still try actions next
# to the one that it prefers. A choice among buttons has no such bound, except for the one percent of uniform draws
# (`unimix`). That is why we kept DreamerV3's own weight here, while Mario's first hour needed ten times as much.
# We have no run with another weight.

# %% [markdown] tags=["predict"]
# ## The dream beside the road
#
# Now the model drives blind. It sees five pictures, which are marked as seen. From then on it is told only the
# actions that were taken. **Predict:** what will still be right after two seconds, and what can the model not know?
#
# <details><summary>Answer</summary>
#
# The car stays where it is in the picture, and the road turns with the wheel. But the model cannot know a bend
# that had not come into view when the dream began. So it invents one, because it has seen many bends.
#
# </details>

# %% tags=["hide-input"]
begin, context = film["window"]
blind = film["blind"]
scrub(
    film["best"][begin : begin + len(blind)],
    blind,
    alt="Two and a half seconds of road: real, dreamed without looking, and the error.",
    context=context,
)

# %% [markdown]
# ## What it does wrong
#
# This is the worst of the three episodes that were filmed. Below each picture you see the number of the decision,
# and after the colon what the car had earned by then. (The first is mostly black, because the game begins with a
# view of the whole field and zooms in.)

# %% tags=["hide-input"]
worst, earned = film["worst"], film["worst_reward"].cumsum()
times = np.linspace(0, len(worst) - 1, 12).round().astype(int)
fig, axes = plt.subplots(2, 6, figsize=(8, 3.2), layout="constrained")
for ax, t in zip(axes.flat, times):
    ax.imshow(worst[t])
    ax.set(xticks=[], yticks=[], xlabel=f"t = {t}: {earned[t]:.0f}")
show(fig, alt="Twelve pictures along the worst episode, with the return so far.")

# %% [markdown]
# In the first hundred decisions it earns tiles steadily. Then it takes a bend too fast and is on the grass. It finds
# the road again and a few new tiles, but it drives back the way it came: near decision 138 it is on the road and
# earns nothing. The pictures show why. The game draws new tiles in three shades of grey, and driven ones in a single
# shade; compare the roads at t = 114 and t = 136. Twice more it finds some new tiles. From decision 193 on it earns
# none: it slides off again, and drives on the grass until the end. Each of these decisions costs 0.4.
#
# In training, such an episode is cut off after 50 decisions without a new tile. So the agent has seldom seen how to
# find the way back. **Try it:** begin a run with `patience=None` in `tools/driving.py`. Use another `--logdir` and
# another `--data`, so that the stored run is kept. What do you expect, in the first ten minutes and at the end?
