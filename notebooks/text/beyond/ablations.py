# %% [markdown]
# # Beyond: what is each trick worth?
#
# **The question.** DreamerV3 is a list of tricks: symlog, two-hot, free nats, a slow critic and
# a dozen more. Would it work without them?
#
# We take them out, one at a time, and train again. We built five tiny worlds for this. They are
# made so that each trick can matter in them, and so small that a run takes half a minute. Beside
# every changed agent you see the untouched one, trained with the same seeds.
#
# **At the end** you know which tricks these worlds need, which ones they do not, and how little
# a single run proves.
#
# **You need** notebooks 01 to 09: each section names the one that built the trick.
#
# The runs are stored. This page reads them, and makes a short one of its own.
#
# *Measured: 0.2 minutes on two CPU cores, 0.4 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
import inspect
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, ablations, claim, data_path, show, tasks, use_style
from course.ablations import TASKS, VARIANTS, comparisons, curves, scores

use_style()
folder = Path(data_path("ablations/sled.csv")).parent
runs = {task: curves(folder / f"{task}.csv") for task in TASKS}
found = comparisons(folder)
loss = {(c.variant, c.task): c.loss for c in found}  # shares of what there is to gain

# %% [markdown]
# ## The goal
#
# Each dot below is one run without a trick. Its colour and shape say in which of five worlds it was
# trained; you will meet them in a moment. The tall tick among the dots is their mean. The place of
# a dot says how much of the reward was lost: at 0 the changed agent is as good as the untouched
# one, and at 100 % it has lost as much as a perfect player is ahead of random actions. Dots left of
# 0 did better than the untouched agent. Come back to this picture at the end and see if you can
# explain each line.

# %% tags=["hide-input"]
LOOK = dict(zip(TASKS, ("real", "error", "dreamed", "posterior", "kl")))
MARKS = dict(zip(TASKS, "osD^v"))


def lost(c):
    """What each seed lost against the mean of the untouched agent, in percent."""
    gain = TASKS[c.task].best - TASKS[c.task].random
    return 100 * (c.untouched.mean() - c.without) / gain


names = [name for name in VARIANTS if any(c.variant == name for c in found)]
fig, ax = plt.subplots(figsize=(7.2, 0.36 * len(names) + 1.2))
for c in found:
    place = len(names) - names.index(c.variant)
    place += 0.2 * (1 - 2 * list(VARIANTS[c.variant].tasks).index(c.task))
    look = dict(color=COLORS[LOOK[c.task]], marker=MARKS[c.task])
    ax.plot(lost(c), [place] * len(c.without), linestyle="", alpha=0.75, **look)
    ax.plot(
        [lost(c).mean()], [place], linestyle="", markersize=13, **look | {"marker": "|"}
    )
for task in TASKS:
    look = dict(color=COLORS[LOOK[task]], marker=MARKS[task], linestyle="")
    ax.plot([], [], label=task, **look)
ax.axvline(0, color=COLORS["ink"], linewidth=1)
ax.set(xlabel="lost without the trick [% of what there is to gain]")
ax.set_yticks(range(len(names), 0, -1), names)
ax.legend(ncol=5, loc="lower center", bbox_to_anchor=(0.4, 1.0))
show(fig, "One line for each trick, one dot for each run: what was lost without it.")

# %% [markdown]
# ## Five worlds
#
# * **sled**: hold a sled near the middle of an icy track for 30 steps. Each step that ends at most
#   one place from the middle pays 1. The sled begins at rest, up to four places away. An action
#   changes its speed by -1, 0 or 1, and in one step of five a gust adds -1 or 1.
#   The speed is at most 2. If it slides off the track, the episode is over.
# * **units**: the same sled in millimetres. Positions and rewards are 1,000 times larger.
# * **corridor**: six places in a row. Begin near the middle, fetch a key at the left end, then leave
#   by the door at the right end. Seven steps are enough, and 24 are allowed. The only reward is a 1
#   at the very end.
# * **lever**: in each of six steps the agent may pull a lever. In half of the episodes
#   each pull pays 1, in the others it costs 1. A light in the first row says which, and
#   then it is gone, so it must be remembered. A perfect player earns 6 or 0, which is 3
#   on average.
# * **follow**: keep a bat under a ball for 16 steps, seen as a picture of 16 x 16 pixels. There are
#   four columns, and in one step of four the ball moves by one. Each step after which the bat is
#   under the ball pays 1.
#
# Their code is short, in `notebooks/course/tasks.py`.
#
# A return means little without knowing what is possible. For the sled we can compute it. It has
# only 11 places, 5 speeds and 30 steps, so we can work backwards from the last step and find the
# best action everywhere: `value[t, place, speed]` is the most that can still be earned on average. In
# `later @ [0.8, 0.1, 0.1]` the numbers are the probabilities of no gust, and of one to either side.
# Other players we simply let play: a random one in all five worlds, and in
# *follow* one that runs after the ball.
#
# **Predict.** A perfect player cannot get 30, one for each step. What costs it the rest?
#
# <details><summary>Answer</summary>
#
# The way to the middle: the sled begins up to four places away. After that, only a gust can
# push it out, and it is back within a step or two.
#
# </details>

# %%
env = tasks.Sled()
value = np.zeros((31, 23, 5))  # time, place + 11, speed + 2; off the track it stays 0
for t in reversed(range(30)):
    for place in range(-5, 6):
        for speed in range(-2, 3):
            total = []
            for action in (-1, 0, 1):
                after = np.clip(speed + action + np.array([0, -1, 1]), -2, 2)
                there = place + after
                later = (abs(there) <= 1) + value[t + 1, there + 11, after + 2]
                total.append(later @ [0.8, 0.1, 0.1])
            value[t, place + 11, speed + 2] = max(total)
best = value[0, 11 - 4 : 11 + 5, 2].mean()
print(f"the best mean return in the sled's world is {best:.1f}")
claim("TASKS knows that number", abs(best - TASKS["sled"].best) < 0.05)


# %%
def play(make, choose, episodes=1000):
    """The mean return of a player that sees the environment itself."""
    env, rng, total = make(), np.random.default_rng(0), 0.0
    for episode in range(episodes):
        env.reset(seed=episode)
        done = False
        while not done:
            _, reward, over, cut, _ = env.step(choose(env, rng))
            total, done = total + reward, over or cut
    return total / episodes


for name, task in TASKS.items():
    chance = play(task.make, lambda env, rng: rng.integers(env.action_space.n))
    print(f"{name:9} random {chance:8.2f}   best {task.best:8.2f}")
    claim("TASKS knows it", abs(chance - task.random) < 0.1 * (task.best - task.random))

chase = play(tasks.Follow, lambda env, rng: 1 + np.sign(env.ball - env.bat))
claim(
    "who runs after the ball is as good as we say",
    abs(chase - TASKS["follow"].best) < 0.3,
)


# %% [markdown]
# ## The untouched agent
#
# All agents are tiny: 64 units, a window of ten rows, a few hundred updates. The learning rates are
# higher than those of any preset, because there is so little time. Nothing was tuned beyond the
# point at which the untouched agent learns four of the worlds. In *follow* it had not got there
# when its time was up: two of its three runs came about half-way to the best return, and the third
# hardly learnt anything.

# %% tags=["hide-input"]
def panels(*names, tasks_=None):
    """Returns while they learn: thin lines are runs, thick ones their means."""
    shown = tasks_ or [t for t in TASKS if any(t in VARIANTS[n].tasks for n in names)]
    shown = [t for t in shown if any(n in runs[t] for n in names)]
    size = (max(3.6, 2.9 * min(3, len(shown))), 2.8)
    fig, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False)
    looks = dict(zip(names, ("error", "dreamed", "posterior")))
    for ax, task in zip(axes[0], shown):
        updates = np.linspace(0, TASKS[task].updates, ablations.POINTS + 1)[1:]
        for name in dict.fromkeys(("untouched", *names)):
            if name in runs[task]:
                color = COLORS[
                    looks.get(name, "neutral") if name != "untouched" else "neutral"
                ]
                ax.plot(
                    updates, runs[task][name].T, color=color, linewidth=0.8, alpha=0.5
                )
                ax.plot(
                    updates, np.nanmean(runs[task][name], 0), color=color, label=name
                )
        ax.axhline(TASKS[task].best, color=COLORS["ink"], linestyle=":", linewidth=1)
        ax.set(title=task, xlabel="updates")
    axes[0][0].set_ylabel("return")
    pairs = {}
    for ax in axes[0]:
        handles, labels = ax.get_legend_handles_labels()
        pairs |= dict(zip(labels, handles))
    fig.legend(pairs.values(), pairs, loc="outside upper left", ncol=4, fontsize=8)
    return fig


fig = panels("untouched", tasks_=list(TASKS))
fig.set_size_inches(9.5, 2.4)
show(
    fig,
    "Return against updates of the untouched agent in five worlds, and the best one.",
)
for task in TASKS:
    ends = scores(runs[task]["untouched"])
    print(f"{task:9} {len(ends)} seeds: {ends.mean():8.2f} +- {ends.std():.2f}")

# %% [markdown]
# One run is one call. Let us make a very short one, to see what is stored: one row for each tenth
# of the updates, with the mean return of the episodes that ended in it.

# %%
rows = ablations.run("sled", "untouched", seed=0, updates=20)
print(", ".join(rows[0]))
claim(
    "ten rows, the last after 20 updates", [len(rows), rows[-1]["updates"]] == [10, 20]
)


# %% [markdown]
# ## How we judge
#
# A run's **score** is its mean return in the last fifth of its updates. In other words, it says how
# good the agent is when its time is up. We compare it with the untouched runs of the same seeds. An
# agent is *worse* if two things are true: every one of its runs scored below every untouched run,
# and on average it lost more than a tenth of what there is to gain. The same the other way round is
# *better*. Everything else is "no difference that these seeds can show".
#
# How often would chance alone do that? Suppose that two agents are equally good and have five seeds
# each. Then all five scores of the first are below all five of the second in one case of 252. With
# three seeds each, it is one case of 20.
#
# We set these rules after the first seed had been seen.
#
# Be careful with *follow*. Its untouched agent gains only a third of what there is to gain, so
# an agent that loses a third there has learnt nothing at all. And one untouched run is near
# random play, so an agent is "worse" only if all of its runs are nearer still.

# %% tags=["hide-input"]
def trick(*names):
    """Show how each agent was changed, its curves and the verdict."""
    for name in names:
        variant = VARIANTS[name]
        if variant.patch:
            print(inspect.getsource(variant.patch))
        for field, setting in variant.settings.items():
            print(f"Config(..., {field}={setting})")
    fig = panels(*names)
    show(fig, "Returns without: " + ", ".join(names) + "; grey is the untouched agent.")
    for c in found:
        if c.variant in names:
            mine = f"{c.without.mean():.4g} +- {c.without.std():.2g}"
            other = f"{c.untouched.mean():.4g} +- {c.untouched.std():.2g}"
            print(f"{c.variant}, {c.task}, {len(c.without)} seeds:")
            print(f"    {mine}, untouched {other}: {c.verdict}")


# %% [markdown]
# ## 1. Is the decoder needed?
#
# The world model learns from two sources: from reconstructing what it sees (notebook 06), and
# from predicting reward and end. *No reconstruction* lets the decoder learn, but none of its gradient
# reaches the model. *Only reconstruction* does the opposite: reward head, continue head and critic
# learn, but none of their gradient reaches the model.
#
# **Predict.** In the lever's world the light is visible in the first row, and never again. Which of
# the two agents forgets it?
#
# <details><summary>Answer</summary>
#
# The one that only reconstructs. After the first row no picture depends on the light, so that
# remembering it does not help the decoder. Only the rewards depend on it. The other agent has a
# reason to remember; whether so few rewards teach it in time is what the figure shows.
#
# </details>

# %%
trick("no reconstruction", "only reconstruction")
claim(
    "who only reconstructs forgets the light",
    loss["only reconstruction", "lever"] > 0.3,
)

# %% [markdown]
# Both fail in the lever's world: in so few updates the rewards did not teach the agent without
# reconstruction either. In *follow* only this agent is worse.

# %% [markdown]
# ## 2. Does unimix help?
#
# Each categorical is mixed with one percent of the uniform distribution, so that no probability
# becomes 0 (notebook 05). The actor has it as well, which makes it explore a little forever.
#
# **Predict.** The mix protects against a rare event: a probability becomes so small
# that its logarithm explodes. Will that happen within a few hundred updates?
#
# <details><summary>Answer</summary>
#
# Hardly. It takes long training or large steps to make probabilities that small. If there is a
# difference here, it has another reason: one percent of the actions are not the actor's own.
#
# </details>

# %%
trick("no unimix")

# %% [markdown]
# ## 3. What does the horizon do?
#
# The agent dreams 15 steps ahead, and the critic stands for everything after them (notebook 07).
#
# **Predict.** From the start of the corridor to the door it is at least seven steps. Does a dream of
# five steps see the reward?
#
# <details><summary>Answer</summary>
#
# Not from the start. But dreams begin at every row of the replay, so that some begin near the
# door. The critic learns there what being near it is worth, and passes it backwards.
#
# </details>

# %%
trick("horizon 5", "horizon 30")
claim("five steps are enough for the corridor", loss["horizon 5", "corridor"] < 0.2)

# %% [markdown]
# ## 4. Two-hot, or a normal?
#
# Rewards and values are predicted as a distribution over 255 bins (notebook 02). The usual way is one
# number and a squared error, which is the same as a normal with a fixed width.
#
# **Predict.** In millimetres a good return is near 25,000. How large is the squared error of a
# critic that still says 0 for such a state?
#
# <details><summary>Answer</summary>
#
# About $0.5 \cdot 25{,}000^2$, three hundred million. The cross entropy of the bins starts at
# $\ln 255 = 5.5$ in any unit.
#
# </details>

# %%
print(inspect.getsource(ablations.PlainNumber))
trick("squared error")
claim("in millimetres much is lost", loss["squared error", "units"] > 0.25)

# %% [markdown]
# ## 5. Is the continue head needed?
#
# It says how likely the episode is to continue (notebook 06). Without it no dream ever ends.
#
# **Predict.** In which world does that hurt: the sled that may fall off the track, or the corridor
# that ends with the reward?
#
# <details><summary>Answer</summary>
#
# We expected the corridor. Nothing was ever seen after its end, so the model may invent
# what is behind the door. And it seems to dream that the reward comes again and again:
# at the end of all five runs the mean return of the dreams is between 4 and 17, though
# nobody can earn more than 1. (We have not looked at the dreams themselves.)
#
# Yet four of the five runs are as good as the untouched agent. Their values are far too high, but
# probably the door is still the best place to go. The fifth opened the door in up to half of its
# episodes at first, and not once in the second half of its training. So in the corridor the
# values need the head in order to be true. Whether it is needed to win, one failed run cannot
# tell. For the sled these seeds show no need either.
#
# </details>

# %%
trick("always continue")
asked = ("always continue", "corridor")
ends = next(c.without for c in found if (c.variant, c.task) == asked)
failed, *others = sorted(ends)
claim("corridor: one run of five fails", failed == 0 and min(others) > 0.9)
dreamed = curves(folder / "corridor.csv", "imagined_return")["always continue"][:, -1]
claim("every run dreams of returns above 4", dreamed.min() > 4)

# %% [markdown]
# ## 6. What does the return scale do?
#
# Advantages are divided by the spread of the returns, if it is above 1 (notebook 07), so that one
# weight of the entropy fits every world.
#
# **Predict.** Without it, in millimetres, how much does the entropy count?
#
# <details><summary>Answer</summary>
#
# Almost nothing. In millimetres the advantages are in the thousands, and the entropy is as small as
# before. Beside them it counts a thousandth of what it did. So we expected the actor to settle on
# its first success. At least its steps do not grow, because LaProp (below) divides by the size of
# the gradient.
#
# </details>

# %%
trick("no return scale")

# %% [markdown]
# The actor did not settle too early: in both worlds these seeds show no difference. Probably the
# first success is already near the best here, because the middle is at most four places away and
# pays in every step. A world in which one must explore for long would be a better test, and we
# have none with large rewards.

# %% [markdown]
# ## 7. What do free nats do?
#
# A KL below one nat costs nothing (notebook 05), so the model may keep a little information free of
# charge. Above that, the KL costs, and its gradient is shared out: the prior gets all of it, and the
# posterior a tenth. *No free nats* removes the first rule. *One KL gradient* removes the second: the
# posterior gets the full gradient as well.
#
# **Predict.** Both changes push the posterior harder towards the prior, from the first update on.
# What is lost in the latent?
#
# <details><summary>Answer</summary>
#
# Information that cannot be predicted and does not pay at once: the place of the ball in
# *follow*, the light in *lever*. At the beginning nothing in the model uses it yet, but
# encoding it costs nats. With one KL gradient two of the five lever runs never learn the task.
# By our rule that is still no difference that these seeds can show.
#
# </details>

# %%
trick("no free nats", "one KL gradient")

# %% [markdown]
# ## The other tricks
#
# **Symlog** (notebook 01) squashes what is seen. Without it the millimetres enter as they are. That
# sounds dangerous, but two other parts of the agent remove a common factor as well: the norm after
# every layer, and the optimizer, which does the same with the gradient of the decoder. Symlog is left
# with observations in which large and small numbers are side by side, and these worlds have none.
#
# **LaProp with clipping** (notebook 06) makes steps of one size, however large the gradient is. Here
# we replace it by plain Adam with the same rates.

# %%
trick("no symlog", "Adam")

# %% [markdown]
# **The slow critic, and the critic on real rows** (notebook 08). Without the first, nothing
# holds the critic back; without the second, it learns from dreams only.

# %%
trick("no slow critic", "no replay critic")

# %% [markdown]
# **Memory and latent.** All heads read $h$ and $z$ together. What if they read only one? And what if
# $h$ forgets everything before the last step, so that only $z$ could carry the light along?
#
# **Predict.** $h_t$ is computed before the picture of step $t$ is seen. What does an actor that reads
# $h$ alone not know?
#
# <details><summary>Answer</summary>
#
# It does not know what it sees right now, so it acts one step late. For the lever $h$ alone would
# still be enough. But "all heads" includes the decoder. If the decoder reads $h$ alone, then nothing
# asks $z$ to hold what is seen, and the light may never get into the model.
#
# The agent that reads $z$ alone sees what is there now. It knows the past only if the
# posterior copies it from $h_t$ into $z_t$, in every step. That is possible, but
# it must be learnt. For the ball it is not needed; for the lever it is.
#
# </details>

# %%
trick("h alone", "z alone", "no memory")

# %% [markdown]
# In the lever's world all three stay near 0. So *z alone* has not learnt to copy the
# light, and neither has *no memory*, where it would have to go from each $z$ into the
# next.

# %% [markdown]
# ## The whole table

# %% tags=["hide-input"]
print(
    f"{'trick':20}{'world':10}{'seeds':>5} {'untouched':>18} {'without':>18}  verdict"
)
for c in found:
    pair = [f"{s.mean():.4g} +- {s.std():.2g}" for s in (c.untouched, c.without)]
    numbers = f"{len(c.without):5} {pair[0]:>18} {pair[1]:>18}"
    short = c.verdict if len(c.verdict) < 9 else "-"
    print(f"{c.variant:20}{c.task:10}{numbers}  {short}")
print("A dash: no difference that these seeds can show.")

# %% [markdown]
# ## Which three mattered most?
#
# We rank the tricks by what was lost without them, on average over the two worlds in which each was
# tried. A trick that one world needs and the other does not is in the middle.
# "No memory" was tried in one world only, so it is not ranked. And since in *follow* not much more
# than a third can be lost, a trick that was tried there ranks lower than it may deserve.

# %%
pairs = {
    name: [loss[name, task] for task in VARIANTS[name].tasks if (name, task) in loss]
    for name in names
}
mean = {name: np.mean(pair) for name, pair in pairs.items() if len(pair) == 2}
first = sorted(mean, key=mean.get, reverse=True)[:3]
for name in first:
    both = " and ".join(f"{100 * x:.0f} %" for x in pairs[name])
    print(f"{name}: {both} lost in {' and '.join(VARIANTS[name].tasks)}")
claim("each lost more than a quarter", all(mean[name] > 0.25 for name in first))

# %% [markdown]
# ## What this page cannot tell
#
# These are tiny agents that learn for half a minute. A trick that keeps a run of two weeks stable
# has no chance to show it here, and the paper's own tests (on 14 large tasks) remain the better
# evidence for those. The scores include how fast an agent learns, not only how good it gets. And
# the learning rates were chosen for the untouched agent: an agent without a trick might like
# others.
#
# More seeds make it sharper. First raise `seeds` in `notebooks/course/ablations.py`: 5 is
# the default of `Task`, and *follow* has its own, 3. The command below then makes the runs
# that are missing, and this page needs only to be run again:
#
#     python tools/ablations.py

# %%
total = []
for task in TASKS:
    curve = curves(folder / f"{task}.csv", "seconds")
    ends = np.concatenate([seconds[:, -1] for seconds in curve.values()])
    total.extend(ends)
    print(f"{task:9} {len(ends):3} runs, each about {np.median(ends):.0f} seconds")
minutes = sum(total) / 60
print(f"in total {len(total)} runs and {minutes:.0f} minutes, on a part of a busy core")
