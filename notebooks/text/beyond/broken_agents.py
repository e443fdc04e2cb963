# %% [markdown]
# # Beyond: broken agents
#
# **The question.** An agent does not learn, and nothing crashes. Where is the mistake?
#
# Here are three runs of Catch, the game of [your own environment](own_environment.ipynb).
# In each of them one mistake was planted, of a kind that people really make. You get what
# you would have on your own machine: the numbers in `metrics.csv`, and the dream. Try to
# find each mistake before you open the answer.
#
# **At the end** you have made three diagnoses, and you know which number gave each mistake
# away.
#
# **You need** the page [metrics](../reference/metrics.md), which says what each column
# means and how it looks when it is healthy. Keep it open beside this one. All runs are
# stored, so the page itself takes seconds.
#
# *Measured: 0.1 minutes on two CPU cores, 0.3 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, claim, data_path, read_columns, show, strip, use_style

use_style()


def metrics(name):
    """The stored `metrics.csv` of every seed of a run."""
    paths = data_path("lessons").glob(f"{name}_seed*_metrics.csv")
    return [read_columns(path) for path in sorted(paths)]


# %% tags=["hide-input"]
PANELS = ("loss/obs", "loss/reward", "loss/dyn", "loss/continue", "value/mean")
PANELS += ("actor/entropy",)


def numbers(sick=None, until=450):
    """Six columns over the updates: of the healthy agent, and of a sick one."""
    fig, axes = plt.subplots(2, 3, figsize=(9, 4.2), sharex=True)
    looks = {"healthy": ("ours", "healthy")} | (
        {sick: ("error", "sick")} if sick else {}
    )
    for name, (role, label) in looks.items():
        for log, style in zip(metrics(name), ("-", "--")):
            for ax, key in zip(axes.flat, PANELS):
                look = {"color": COLORS[role], "linestyle": style, "label": label}
                ax.plot(log["updates"], log[key], **look)
                label = None if ax is axes.flat[-1] else label
                ax.set_title(key)
    for key in ("loss/obs", "loss/reward", "loss/continue"):
        axes.flat[PANELS.index(key)].set_yscale("log")
    for ax in axes[1]:
        ax.set(xlabel="update [1]", xlim=(0, until))
    found = axes[0, 0].get_legend_handles_labels()
    fig.legend(*found, loc="outside lower center", ncols=4)
    return fig


def dream_of(name, seed=0, episode=0):
    """An episode of random play, and what the agent dreams after its first picture."""
    stored = np.load(data_path(f"lessons/{name}_seed{seed}_dreams.npz"))
    clips = stored["real"][episode], stored["dreamed"][episode]
    return strip(*clips, columns=4, context=1)


# %% [markdown]
# ## First, a healthy run
#
# You can only see that something is wrong if you know how it looks when it is right. So
# here are the first 450 updates of a healthy agent, one run of it. (In Case 3 there are two
# sick runs: there the dashed line is the second seed.)

# %% tags=["hide-input"]
show(numbers(), alt="Six columns of a healthy run of Catch over the first 450 updates.")

# %% [markdown]
# Go through them in the order of the page *metrics*. The loss of the picture falls, and
# the KL (`loss/dyn`) rises above its floor of 1 when the latent begins to carry the
# picture. The losses of reward and continue fall too. The value stays between -1 and 1,
# because Catch pays no more and no less.
#
# After 450 updates even this agent has hardly begun to win. So the returns cannot tell
# you yet whether something is wrong. These numbers can.
#
# ## Case 1
#
# A friend wrote Catch anew. Nothing crashes, and the losses fall. Two of the panels cannot
# be right. Which?

# %% tags=["hide-input"]
show(
    numbers("truncated"),
    alt="Six columns of a healthy and a sick run; the values differ.",
)

# %% [markdown] tags=["predict"]
# **Diagnose.** Catch pays between -1 and 1, and only once. Which number is impossible?
# Which loss is too good to be true? What does the friend's `step` return when the ball
# has landed?
#
# <details><summary>Answer</summary>
#
# `value/mean` falls far below -1, and it keeps falling. `loss/continue` drops to 0.0204
# almost at once. That is the floor it has when *nothing ever ends*. Remember that the
# target of the continue head contains the discount (notebook 06): on a row that does not
# end, it is $1 - 1/333$. If every row has this target, the best possible loss is its
# entropy, 0.0204. The healthy agent is still at 0.14 after 420 updates, because it must first
# see when the ball lands. This one is there after 60, when its pictures are still poor.
#
# So the model believes that the game continues after the ball has landed. It has
# never seen what comes then, because the next row begins a new episode, so it invents
# something. The return of a landing is now its reward plus the critic's value of this
# invention. The critic learns from that sum, its values sink, and the next sums are lower
# still. The friend's `step` says
# `truncated`, a time limit, where it should say `terminated`: it returns
# `..., False, landed, {}` instead of `..., landed, False, {}`.
#
# </details>

# %%
for log in metrics("truncated"):
    claim("a value below -1, which Catch never pays", log["value/mean"].min() < -1)
    late = log["loss/continue"][log["updates"] >= 60]
    near = np.abs(late - 0.0204).max() < 0.01
    claim("loss/continue is within 0.01 of its floor, from update 60 on", near)

# %% [markdown]
# The dream of this agent is as good as one can expect after 425 updates: ball and paddle
# are about where they belong. Not every mistake shows in the dream.

# %% tags=["hide-input"]
show(
    dream_of("truncated"),
    alt="An episode and its dream; ball and paddle are nearly right.",
)

# %% [markdown]
# ## Case 2
#
# Another friend is proud: "My picture loss is a hundred times better than yours!" The
# agent only pushes the paddle about. Look at all panels before you believe the first one.

# %% tags=["hide-input"]
show(
    numbers("black"),
    alt="Six columns of a healthy and a sick run; the picture loss differs.",
)

# %% [markdown] tags=["predict"]
# **Diagnose.** The picture loss is nearly 0. What does the KL say about the latent? Does
# the model know when it will be paid? What kind of picture is that easy to draw?
#
# <details><summary>Answer</summary>
#
# The KL is at 1.00, its floor, from the first lines on: the latent says nothing. The loss
# of the reward is stuck, because a model that knows nothing about the picture cannot tell
# whether the paddle will be below the ball. A picture that can be drawn without knowing
# anything is an *empty* one.
#
# The friend scaled the picture to 0..1 "for the network" and then stored it as bytes. But
# a byte is a whole number from 0 to 255. So 255 became 1, everything smaller became 0, and
# the agent sees a picture that is practically black.
#
# </details>

# %%
healthy = metrics("healthy")[0]
for log in metrics("black"):
    claim(
        "the KL ends within 0.01 of its floor of 1", abs(log["loss/dyn"][-1] - 1) < 0.01
    )
    same = np.searchsorted(healthy["updates"], log["updates"][-1])
    worse = log["loss/reward"][-1] > healthy["loss/reward"][same] + 0.1
    claim("its reward loss is at least 0.1 above the healthy one", worse)

# %% [markdown]
# One look at what the agent *sees* would have been enough:

# %% tags=["hide-input"]
show(dream_of("black"), alt="An episode and its dream: all pictures are black.")

# %% [markdown]
# ## Case 3
#
# The third friend fills the replay with code of their own. The picture loss falls as it
# should, the episodes end, and the values are possible ones. And yet the agent will never
# learn to catch.

# %% tags=["hide-input"]
show(numbers("shifted"), alt="Six columns of a healthy and a sick run; the KL differs.")

# %% [markdown]
# This time the dream helps more than the numbers. The dream below is from the second seed.
# Its ball is right. Now look at the paddle, which should move as in the real episode above
# it.

# %% tags=["hide-input"]
show(
    dream_of("shifted", seed=1, episode=2),
    alt="An episode and its dream: the ball is right, the paddle is first a step late.",
)

# %% [markdown] tags=["predict"]
# **Diagnose.** By how much is the KL above the healthy one? What does the entropy say about
# the buttons? And which rule of notebook 03 was broken?
#
# <details><summary>Answer</summary>
#
# The KL is higher by one nat or two, if you compare where the pictures are equally good (the
# KL also rises when the latent says more, and the dashed run learns its picture sooner). If
# three moves are equally likely, being told which one happened costs $\ln 3 = 1.10$ nats. So
# about that much is to be expected: in nearly every step the model is surprised by where the
# paddle went. The entropy stays near $\ln 3$, because in these dreams no button
# is better than another. And the dreamed paddle is late: in the second picture it has not
# moved yet, and in the third it makes the move of the second. (In the last, blurred one it
# jumps two cells, which no button can do.)
#
# So the model does not know which button belongs to which picture. The friend stored in
# each row the action that had *led to* its picture. The rule of notebook 03 is: a row has
# the action that was chosen *after* its picture.
#
# </details>

# %%
for log in metrics("shifted"):
    # Here the first run's picture is as good as the healthy one's.
    late = (log["updates"] >= 120) & (log["updates"] <= 240)
    mean = [run["loss/dyn"][: len(late)][late].mean() for run in (log, healthy)]
    claim(
        "its KL is at least half a nat above the healthy one", mean[0] > mean[1] + 0.5
    )

# %% [markdown]
# ## Three signatures
#
# | what you see | what it means | case |
# |---|---|---|
# | values that the environment cannot pay, `loss/continue` at its floor | no end is terminal | 1 |
# | `loss/obs` near 0, `loss/dyn` exactly 1.00, `loss/reward` stuck | the picture is empty | 2 |
# | `loss/dyn` a nat or more too high at the same `loss/obs`, the dream follows the buttons one step late | actions are in the wrong rows | 3 |
#
# None of the three mistakes is in the agent. Two are in the environment, and one is in the
# rows that the agent was given. Most mistakes are in these two places. None of them
# crashes, and none of them needs a long run to be found: each was visible within a few
# hundred updates.
#
# **Plant one yourself.** `tools/lessons.py` shows how these were planted. Add a class with your
# fault and one line to `RUNS`, for example `"dark": (Dark, Dreamer, 1900)`. The 1,900 steps are
# 400 updates: 300 steps of prefill, then four steps for each update. Run `python
# tools/lessons.py dark 0` in the top folder. After that, `numbers("dark")` and `dream_of("dark")`
# draw your run on this page. Two ideas: a paddle that has the colour of the background (change
# `_look`), or a reward that arrives one row late. Plant the second in the batch, as `shifted`
# does; in `step` it would get lost, because no row follows the last one. Write down first which
# panel you expect to change. The page [troubleshooting](../reference/troubleshooting.md) has more
# ideas.
