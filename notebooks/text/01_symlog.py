# %% [markdown]
# # 01 Symlog: numbers of every size
#
# **The question.** How can one network predict rewards of 0.01 and of 10,000?
#
# This is the first of ten notebooks in which you build DreamerV3, an agent that learns a
# model of its world and then learns to act by dreaming in that model. In the tenth it
# plays Super Mario Bros.
#
# **At the end** of this one you have seen the whole once, and built its smallest part: two
# functions of two lines each, on which the predictions of rewards and values rest.
#
# **You need** Python, and a little PyTorch (tensors, `nn.Linear`, a training loop). No
# reinforcement learning yet: words from it are explained when they come up.
#
# *Measured: 0.4 minutes on two CPU cores, 0.4 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %% [markdown]
# Everything that only draws, checks or shows comes from `course`. The algorithm comes from
# these notebooks: each one writes one module of the package `dreamer_lite`, and the
# notebooks after it import that module. A few modules around it are written by hand,
# because they are not about DreamerV3: settings, environments, run folders, speed.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from course import Choice, Slider, check, claim, compare, data_path
from course import dreamer_map, explore, line, read_gif, show, show_gif
from course import solution, strip, use_style, what_we_built

use_style()

# %% [markdown]
# ## What the ten notebooks build
#
# This is the map. You will meet it in every notebook, each time with that notebook's part
# lit. Read it in three columns. On the left the agent **acts** in the game and stores what it lives
# through. In the middle it learns a **world model** from that memory: a network that
# predicts what happens next. On the right it learns **to act inside the dream**: the world
# model invents short futures, a critic judges them, an actor prefers the better ones. The
# bars below the columns hold what all three share; symlog, the subject of this notebook, is
# the first of them. The numbers in circles say which notebook builds a part.

# %% tags=["hide-input"]
show(*dreamer_map("symlog"))

# %% [markdown]
# And this is what the map is for. Below you see the agent that comes with this course,
# playing. The left picture is the real game. The middle one is the agent's **dream** of
# the same moments. Every two seconds the dream starts anew, from what the world model
# remembers after watching all frames up to then; from there its eyes are closed, and it
# is told only which buttons are pressed. All that it draws then it invents. The right
# picture is the difference: white where the dream is right, dark red where it is wrong.
#
# The film lies ready in `data/mario.gif`; we thin it out, so that this page stays small.
# In notebook 10 the agent plays while you watch.

# %%
film, per_second = read_gif(data_path("mario.gif"))
zoom = film.shape[1] // 64  # the film shows every pixel that often
film = film[:, zoom // 2 :: zoom, zoom // 2 :: zoom]  # [frames, 64, 3 * 64 + gaps, 3]
thin = math.ceil(len(film) / 40)

# %% tags=["hide-input"]
show_gif(
    film[::thin],
    alt="The agent plays Mario; beside it what its world model dreams, and the error.",
    caption="real | dreamed | error",
    fps=per_second / thin,
    scale=3,
)

# %% [markdown]
# Eight of its frames, for a closer look: from the one on the left whose dream is nearest to
# the game to the one on the right where they are furthest apart. What does the dream keep,
# and what does it lose? What comes next is the model's guess, one of many. Small things are
# the last that a world model learns, and Mario is small. Notebook 06 measures it. (The
# numbers say which frame of the film it is, about four to a second.)

# %% tags=["hide-input"]
gap = (film.shape[2] - 3 * 64) // 2  # white columns between two pictures
real, dreamed, error = (film[:, :, x : x + 64] for x in (0, 64 + gap, 128 + 2 * gap))
order = ((real.astype(float) - dreamed) ** 2).sum((1, 2, 3)).argsort()
eight = [order[i * (len(film) - 1) // 7] for i in range(8)]
show(
    strip(real, dreamed, error, times=eight),
    alt="Rows of real, dreamed and wrong pixels, the best dreams on the left.",
)

# %% [markdown]
# ## The whole algorithm on one page
#
# Here is all of DreamerV3 in thirty lines. You are not supposed to understand them yet. Come
# back to this page whenever you wonder where you are: the numbers on the right say which
# notebook turns a line into real code.
#
# ```text
# repeat forever:
#     # 1. act: one step in the real world                                      09
#     if a new episode begins: h, z, a = 0, 0, 0
#     h = sequence_model(h, z, a)                  what I remember              05
#     z ~ posterior(h, encoder(image))             what I see now               04, 05
#     a ~ actor(h, z)                              what I do                    08
#     store image, reward, a and the flags of this step in the replay           03
#
#     # 2. learn the world, from a batch of stored sequences                    06
#     for each step of the sequences:
#         h = sequence_model(h, z, previous a)                                  05
#         p = prior(h)                             a guess without looking      05
#         q = posterior(h, encoder(image));  z ~ q the same, after looking      05
#         loss += error of decoder(h, z)           can I draw what I saw?       04
#         loss += error of reward_head(h, z)       a two-hot prediction         01, 02
#         loss += error of continue_head(h, z)     does the episode go on?      06
#         loss += KL(q || p), at least 1 nat       was the guess good?          05
#
#     # 3. learn to act, inside the model                                       08
#     start at every (h, z) of the batch; for 15 steps:
#         a ~ actor(h, z)                                                       08
#         h = sequence_model(h, z, a);  z ~ prior(h)    no image any more       05
#         predict reward, continuation and critic's value at every step         02, 06, 08
#     returns = rewards + what the critic expects after them                    07
#     critic: predict the returns, here and for the stored rows,                02, 08
#             and stay near its own slow copy
#     actor:  make actions likelier that led to more than the critic expected,
#             measured in units of the usual spread of returns                  07, 08
#             (plus a small bonus for staying undecided)
#
#     # 4. one step of the optimizer for all of it                              06
# ```
#
# If you have met other agents, it helps to see where this one differs. DQN learns values of
# actions from a replay; PPO learns a policy from fresh experience. Dreamer does both, but in
# different worlds.
#
# | | Dreamer | DQN | PPO |
# |---|---|---|---|
# | learns a model of the world | yes, from the replay | no | no |
# | replay | yes, for the *model*; old experience stays true | yes, for the values | no |
# | the policy's data | dreams of the current policy: on-policy, without real steps | old experience: off-policy | real steps of the current policy: on-policy |
# | who chooses actions | an actor | the largest value | an actor |
# | target network | none for the targets; a slow copy only steadies the critic | yes, computes the targets | none |
# | rewards beyond the horizon | the critic at the end of a dream | the value of the next state | the critic at the end of a rollout |
# | keeps exploring by | entropy bonus, and actions that are sampled | random actions | entropy bonus, and actions that are sampled |
#
# Why no target network? DQN's targets come from the network that is being trained, and a
# copy that moves slowly keeps them from running away. Dreamer's returns contain up to 15
# steps of predicted reward, so less of the target is the critic's own opinion. Notebook 08
# shows what the slow copy adds.

# %% [markdown]
# ## Notebook by notebook
#
# | notebook | question | what you will have |
# |---|---|---|
# | **01 symlog** | How can one network predict 0.01 and 10,000? | one scale for all numbers |
# | 02 two_hot | Why predict a distribution instead of a number? | the head for rewards and values |
# | 03 replay | What does the agent remember? | the memory of everything it lived through |
# | 04 networks | How do pixels become an embedding, and back? | the eyes, and the painter |
# | 05 rssm | How can a model remember and be unsure at once? | the heart of the world model |
# | 06 world_model | Can it dream the game? | dreams of Mario, from one short training |
# | 07 lambda_returns | How far should the agent look ahead? | the judge of an imagined future |
# | 08 actor_critic | How does one learn to act without acting? | an agent trained inside a dream |
# | 09 dreamer | Does the whole loop learn? | CartPole, learnt live |
# | 10 mario | Does it play Mario? | the agent above, playing; and how to train on |
#
# Two voices appear in all of them. Boxes that begin with **The paper says** restate Hafner et al., *Mastering diverse
# control tasks through world models*,
# [Nature 2025](https://doi.org/10.1038/s41586-025-08744-2)
# ([arXiv 2301.04104v2](https://arxiv.org/abs/2301.04104), the published form of
# "DreamerV3"), with the number of the equation where it has one. Everything else is us.
#
# Plan for an hour to an hour and a half of reading per notebook. The exercises come on top:
# about half an hour for the small ones, and up to an hour where you write the heart of a
# notebook yourself.
#
# A cell that asks you to **predict** holds its answer folded. Guess first; it is the
# cheapest way to learn something.

# %% [markdown]
# ## A loss that sees only the big numbers
#
# The agent must predict **rewards**, the numbers with which a game says "well done", and
# **values**, the sums of all rewards that are still to come, on average. One game pays 0.01
# for a step in the right direction, another pays 10,000 for a treasure. DreamerV3 trains a
# new agent for each game, but wants one kind of network, one loss and one learning rate for
# all of them. The obvious loss is the mean squared error. Here are three rewards and a
# network that still predicts 0 for all of them.

# %%
rewards = torch.tensor([0.01, 1.0, 10_000.0])
prediction = torch.zeros(3, requires_grad=True)
((prediction - rewards) ** 2).sum().backward()

# %% [markdown] tags=["predict"]
# **Predict.** What are the three gradients that the squared error sends back? (The
# derivative of $(p - y)^2$ with respect to the prediction $p$ is $2(p - y)$.)
#
# <details><summary>Answer</summary>
#
# $-2y$ at $p = 0$: that is $-0.02$, $-2$ and $-20{,}000$. The largest reward sends
# 99.99 % of the whole gradient. The other two may as well not be there.
#
# </details>

# %%
for reward, gradient in zip(rewards.tolist(), prediction.grad.tolist()):
    print(f"reward {reward:>8g}   gradient {gradient:>9g}")


# %% [markdown]
# So the shared weights follow the treasure. Optimizers like Adam divide the gradient by
# its usual size, which tames the explosion but brings another problem: then a parameter
# moves by about the learning rate per step, however far it has to go.

# %%
def adam_towards(target, steps=4000, lr=0.01):
    """Move one number towards a target with Adam; return where it is in the end."""
    number = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([number], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        ((number - target) ** 2).sum().backward()
        optimizer.step()
    return number.item()


# %% [markdown] tags=["predict"]
# **Predict.** A single number starts at 0 and is moved by Adam with learning rate 0.01.
# The target is 10,000. Where is it after 4,000 steps?
#
# <details><summary>Answer</summary>
#
# At about $4{,}000 \cdot 0.01 = 40$. It would need a million steps. With the learning rate
# of our Mario agent's world model, 0.0003, it would need 33 million.
#
# </details>

# %%
print(f"after 4,000 steps towards 10,000: {adam_towards(10_000.0):.0f}")

# %% [markdown]
# Why not divide all rewards by their largest, or by their running mean size? One does not
# know the largest beforehand: an agent that finds a treasure after a million steps would
# change the meaning of everything its network has learnt so far. What we want is a fixed
# curve that squashes the large numbers and leaves the small ones alone.
#
# The curve that squashes is the logarithm. It breaks at the most common reward there is,
# and below it:

# %%
print("ln of 1000, 0, -5:", torch.log(torch.tensor([1000.0, 0.0, -5.0])))


# %% [markdown]
# ## The equation
#
# > **The paper says** (section "Robust predictions", equations 8 and 9): let the network
# > $f(x, \theta)$ predict a transformed target and undo the transformation to read it,
# >
# > $$\mathcal{L}(\theta) = \tfrac{1}{2}\big(f(x, \theta) - \mathrm{symlog}(y)\big)^2
# > \qquad \hat{y} = \mathrm{symexp}\big(f(x, \theta)\big)$$
# >
# > with a logarithm that is mirrored at the origin, and its inverse:
# >
# > $$\mathrm{symlog}(x) = \mathrm{sign}(x)\,\ln(|x| + 1) \qquad
# > \mathrm{symexp}(x) = \mathrm{sign}(x)\,(\exp(|x|) - 1)$$
#
# In our words, symlog takes three steps. Take the size $|x|$ and forget the sign. Add 1
# before the logarithm, so that 0 goes to $\ln 1 = 0$ instead of $-\infty$. Put the sign
# back. (The factor $\tfrac{1}{2}$ of the loss only scales it. Our losses leave it out, as
# the [authors' code](https://github.com/danijar/dreamerv3) does.)
#
# The code of the second line of equations, literally:

# %%
def symlog_literal(x):
    return torch.sign(x) * torch.log(torch.abs(x) + 1)


def symexp_literal(x):
    return torch.sign(x) * (torch.exp(torch.abs(x)) - 1)


# %% [markdown] tags=["predict"]
# **Predict.** With $\ln 10 = 2.303$: what are symlog(9), symlog(99), symlog(999) and
# symlog(-9)? And of which number is the symlog exactly 1?
#
# <details><summary>Answer</summary>
#
# 2.303, 4.605, 6.908: each zero that is added to $x + 1$ costs another 2.303. And -2.303,
# because the function is odd. The symlog of $e - 1 = 1.718$ is $\ln e = 1$.
#
# </details>

# %%
by_hand = torch.tensor([-9.0, 0.0, math.e - 1, 9.0, 99.0, 999.0])
for x, y in zip(by_hand.tolist(), symlog_literal(by_hand).tolist()):
    print(f"symlog({x:8.3f}) = {y:6.3f}")

# %% [markdown]
# Now the picture, with the six numbers as points. Move the slider from small numbers to
# large ones. Near 0 the curve is almost the straight line $y = x$ (its slope is
# $1 / (1 + |x|)$, which is 1 at 0): rewards around 0.01 pass nearly unchanged. Far away it
# is the logarithm: a million becomes 13.8. The menu also offers the cube root. It squashes
# too, but it blows up what is small: its slope at 0 is infinite.

# %% tags=["hide-input"]
CURVES = {
    "raw": lambda x: x,
    "cube root": lambda x: torch.sign(x) * x.abs() ** (1 / 3),
}


def draw_curve(ax, power, other):
    """Draw symlog, and another curve, from -10**power to 10**power."""
    x = torch.linspace(-1, 1, 801) * 10.0**power
    y = symlog_literal(x)
    ax.plot(x, CURVES[other](x), **line("naive"), label=other)
    ax.plot(x, y, **line("ours"), label="symlog")
    points = by_hand[by_hand.abs() <= x.max()]
    color = line("target")["color"]
    ax.plot(points, symlog_literal(points), "o", color=color, label="by hand")
    top = 1.15 * y.max().item()
    ax.set(ylim=(-top, top), xlabel="x [any unit]", ylabel="squashed x [1]")
    ax.legend(loc="upper left")


def one_zoom(power, other):
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    draw_curve(ax, power, other)
    return fig


def three_zooms():
    fig, axes = plt.subplots(1, 3, figsize=(7.8, 2.8))
    for ax, power in zip(axes, (-1, 1, 3)):
        draw_curve(ax, power, "raw")
        ax.legend().set_visible(power == -1)
        ax.set_title(f"up to {10.0**power:g}")
    return fig


# %% tags=["hide-input"]
_ = explore(
    one_zoom,
    alt="symlog follows the straight line near zero and flattens to a logarithm.",
    static=three_zooms,
    power=Slider(-2.0, 6.0, 0.5, value=1.0, label="zoom: x up to 10 to the"),
    other=Choice(["raw", "cube root"], label="compare with"),
)


# %% [markdown]
# ## Build it
#
# Before you see our final version, write yours: it is the first exercise. The cell with
# the task is a *stub*, an empty function for you to fill. The check below it never stops the
# notebook, and it tries to tell you which mistake you made. The line after it, without its
# `#`, prints our solution.

# %% [markdown]
# ### Exercise 1.1: symlog and its inverse
#
# *easy, about 5 minutes*
#
# Write both functions for tensors of any shape. One hidden difficulty: a float32 number
# has about seven digits, so $1 + 10^{-9}$ is rounded to 1 and the small reward is lost
# before the logarithm sees it. PyTorch has a function for exactly that, and
# one for the way back.

# %% tags=["exercise-1.1"]
def my_symlog(x):
    """Squash ``x``: linear near 0, a logarithm far away, odd everywhere."""
    raise NotImplementedError("exercise 1.1")


def my_symexp(y):
    """Undo ``my_symlog``."""
    raise NotImplementedError("exercise 1.1")


# %%
check("1.1", my_symlog, my_symexp)

# %%
# solution("1.1")

# %% [markdown]
# Here is the failure that `log1p` and its partner `expm1` prevent, with its number.
# `log1p(x)` is $\ln(1 + x)$ and `expm1(x)` is $e^x - 1$. Both add or subtract the 1 inside
# the function, where no digits are lost.

# %%
tiny = torch.tensor(1e-9)
print("literal  :", symlog_literal(tiny).item())
print("log1p    :", f"{torch.log1p(tiny).item():.3g}")

# %% [markdown]
# Now the final form. Cells that begin with `#| export` are the module: a small tool
# collects them into `dreamer_lite/symlog.py`, in order and unchanged. The first one is
# always the module's description and its imports.

# %%
#| default_exp symlog

# %%
#| export
"""Symmetric logarithm and its inverse: one scale for rewards of any size.

Built in notebook 01. Source: DreamerV3, section "Robust predictions", equation 9.
"""

import numpy as np
import torch
from torch import Tensor


# %% [markdown]
# Apart from `log1p` and `expm1`, the line with `.float()` is the only addition. It accepts
# plain numbers too, and turns everything into float32. Later, large parts of the agent
# compute in bfloat16, a number format with two to three digits. Squashing must not lose
# more of them, so it is always done in float32. (What is exported also names the types of
# what goes in and comes out. They are for the reader; Python does not check them.)

# %%
#| export
def symlog(x: Tensor | np.ndarray | list | float) -> Tensor:
    """Compress `x` as sign(x) * ln(1 + |x|).

    Args: a tensor, array, list or number of any shape. Returns: a float32 tensor of
    that shape. Nearly the identity around 0, logarithmic far away, odd, and without
    the singularity that a plain logarithm has at 0.
    Source: DreamerV3, equation 9.
    """
    x = torch.as_tensor(x).float()  # log1p in bf16 would lose the small numbers
    return torch.sign(x) * torch.log1p(torch.abs(x))


# %%
#| export
def symexp(x: Tensor | np.ndarray | list | float) -> Tensor:
    """Undo `symlog`: sign(x) * (exp(|x|) - 1).

    Args: a tensor, array, list or number of any shape. Returns: a float32 tensor of
    that shape. Source: DreamerV3, equation 9.
    """
    x = torch.as_tensor(x).float()
    return torch.sign(x) * torch.expm1(torch.abs(x))


# %% [markdown]
# ## Check it
#
# Five checks: a value by hand, the inverse over twelve orders of magnitude, oddness to the
# last bit, 0 that stays 0, and the slope $1 / (1 + |x|)$ against what PyTorch's own
# differentiation says.

# %%
sizes = torch.logspace(-6, 6, 97)
both = torch.cat([-sizes.flip(0), sizes])
compare("symlog(999) by hand", symlog(999.0), 3 * math.log(10))
compare(
    "symexp undoes symlog, relative", symexp(symlog(both)) / both, both / both, 1e-5
)
compare("odd", symlog(-both), -symlog(both), tolerance=0)
compare("0 stays 0", symlog(0.0), 0.0, tolerance=0)

moving = both.clone().requires_grad_()
symlog(moving).sum().backward()
slope = 1 / (1 + both.abs())
compare("slope 1 / (1 + |x|)", moving.grad, slope)

# %% [markdown]
# (At exactly 0, PyTorch's `sign` and `abs` both have the derivative 0, so the gradient
# there is 0 instead of 1. It does no harm: symlog is applied to targets and to
# inputs, never to something that is being learnt.)
#
# And Adam, which was stuck at 40: in symlog space the way to 10,000 is 9.21 long.

# %%
reached = symexp(adam_towards(symlog(10_000.0))).item()
claim("Adam now comes within 1 % of 10,000", abs(reached - 10_000) < 100)

# %% [markdown]
# ## What an error costs now
#
# The curve decides what the network takes seriously. Suppose every prediction is 10 % too
# large. What does this cost for a small and for a large target?

# %% [markdown] tags=["predict"]
# **Predict.** The target is 1,000,000 and the prediction is 1,100,000. The squared error is
# $10^{10}$. What is the squared error after symlog? You may use $\ln 1.1 = 0.0953$.
#
# <details><summary>Answer</summary>
#
# For large numbers symlog is the logarithm, and the logarithm turns factors into
# differences: $\ln(1.1\,y) - \ln y = \ln 1.1$, whatever $y$ is. So the cost is
# $0.0953^2 = 0.0091$, the same for a thousand and for a million.
#
# </details>

# %%
targets = torch.tensor([0.01, 1.0, 100.0, 10_000.0, 1_000_000.0])
raw_cost = (1.1 * targets - targets) ** 2
symlog_cost = (symlog(1.1 * targets) - symlog(targets)) ** 2
for y, a, b in zip(targets.tolist(), raw_cost.tolist(), symlog_cost.tolist()):
    print(f"target {y:>9g}   raw {a:>9.2g}   symlog {b:.2g}")

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(6.4, 3.2))
y = torch.logspace(-3, 6, 200)
ax.loglog(y, (0.1 * y) ** 2, **line("naive"), label="raw squared error")
ax.loglog(y, (symlog(1.1 * y) - symlog(y)) ** 2, **line("ours"), label="after symlog")
ax.loglog(targets, raw_cost, "x", color=line("naive")["color"])
ax.loglog(targets, symlog_cost, "o", color=line("ours")["color"])
ax.set(xlabel="target y [any unit]", ylabel="cost of a 10 % error [1]")
ax.legend()
show(
    fig,
    alt="The cost of a 10 % error grows without end raw, and levels off with symlog.",
)

# %% [markdown]
# Read the figure from the left. Far below 1 the two lines agree: a number like 0.01 is
# treated as it is, and an error of 10 % of it is indeed small. That is deliberate. A reward
# that is nearly 0 should not be blown up into something important, which is what a plain
# logarithm would do. Far above 1 symlog charges for *relative* errors, and the line is flat:
# no target, however large, can drown the others.

# %% [markdown]
# ## The real experiment: six orders of magnitude, one network
#
# Fourteen invented games share one small network. Each pays a basic reward: seven sizes from
# 0.01 to 10,000, each once as a gain and once as a loss. How well you play is a number $u$
# between 0 and 1, and the reward is $(1 + u)$ times the basic one. The network sees which
# game it is and $u$, and predicts the reward. We train it three times, with everything
# equal but the loss: squared error on raw rewards; the Huber loss
# (squared for small errors, linear for large ones, a usual remedy against outliers); and
# squared error after symlog.

# %%
sizes = 10.0 ** torch.arange(-2, 5)
basic = torch.cat([sizes, -sizes])  # [14]: what each game pays


def sample_games(count, generator):
    """Draw games [count] and how well they are played, u [count]."""
    game = torch.randint(len(basic), (count,), generator=generator)
    return game, torch.rand(count, generator=generator)


def reward_of(game, u):
    return basic[game] * (1 + u)


def unchanged(x):
    return x


def network_input(game, u):
    return torch.cat([F.one_hot(game, len(basic)).float(), u[:, None]], -1)


# %%
def new_network():
    """The small network before its first update, the same for every loss."""
    torch.manual_seed(0)
    layers = [nn.Linear(15, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(64, 1))


every_game = torch.arange(len(basic)).repeat_interleave(51)  # 51 tries in each game,
every_u = torch.linspace(0, 1, 51).repeat(len(basic))  # from the worst to the best


@torch.no_grad()
def first_loss(loss_of, squash):
    """The loss of the untrained network, over all games."""
    predicted = new_network()(network_input(every_game, every_u))[:, 0]
    return loss_of(predicted, squash(reward_of(every_game, every_u))).item()


# %% [markdown] tags=["predict"]
# **Predict.** Before the first update the network says numbers near 0 for every game. How
# large are the three losses then? You may use that the mean of $(1 + u)^2$ is $7/3$, that
# the Huber loss of a large error $e$ is $|e| - 0.5$, and that the symlogs of the seven
# rewards at $u = 0.5$ are about 0, 0.1, 0.9, 2.8, 5.0, 7.3 and 9.6.
#
# <details><summary>Answer</summary>
#
# Raw: the treasure alone counts. One size in seven is 10,000, so the loss is
# $10^8 \cdot \frac{7}{3} / 7 = 33.3$ million; the 1,000 adds one per cent. Huber: the mean
# reward is $1.5 \cdot 11{,}111 / 7 = 2{,}381$ in size, minus 0.5. Symlog:
# $(0 + 0 + 0.8 + 7.8 + 25 + 53 + 92) / 7$, about 26. Such a sum on paper finds a wrong
# scale or a forgotten mean before any training does.
#
# </details>

# %%
expected = {
    "raw": (sizes**2).mean() * 7 / 3,
    "Huber": 1.5 * sizes.mean() - 0.5,
    "symlog": (symlog(1.5 * sizes) ** 2).mean(),
}
measured = {
    "raw": first_loss(F.mse_loss, unchanged),
    "Huber": first_loss(F.huber_loss, unchanged),
    "symlog": first_loss(F.mse_loss, symlog),
}

for name, paper in expected.items():
    ratio = measured[name] / float(paper)
    paper = float(f"{paper:.2g}")
    print(f"{name:7} by hand about {paper:>10,.0f}   first loss / by hand {ratio:.1f}")


# %%
def train(loss_of, squash, steps=1500, batch=128, lr=3e-3):
    """Train a small network on all games at once; `squash` is applied to rewards."""
    network = new_network()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        game, u = sample_games(batch, generator)
        predicted = network(network_input(game, u))[:, 0]
        loss = loss_of(predicted, squash(reward_of(game, u)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return network


# %% [markdown]
# The measure is the same for all three: how far the prediction, read out in the units of
# the game, is from the true reward, *divided by* the true reward. 0.1 means 10 % off. A
# network that always says 0 scores 1.

# %%
@torch.no_grad()
def relative_errors(network, unsquash):
    """Median relative error for each of the seven sizes."""
    truth = reward_of(every_game, every_u)
    predicted = unsquash(network(network_input(every_game, every_u))[:, 0])
    errors = ((predicted - truth) / truth).abs().reshape(2, len(sizes), 51)
    return errors.movedim(1, 0).flatten(1).median(-1).values


# %% [markdown] tags=["predict"]
# **Predict.** Trained with the raw squared error, for which rewards is the network worst,
# measured in multiples of the reward: 0.01, 1 or 10,000? How many multiples?
#
# <details><summary>Answer</summary>
#
# Worst for 0.01. The network spends its accuracy where the loss is, on thousands, and what
# is left over is an absolute error of ten units or more *everywhere*, because the games
# share their weights. Ten units are ten times a reward of 1, and a thousand times a reward
# of 0.01. A reward of 10,000 is missed by a small part of itself.
#
# </details>

# %%
raw = relative_errors(train(F.mse_loss, unchanged), unchanged)
huber = relative_errors(train(F.huber_loss, unchanged), unchanged)
squashed = relative_errors(train(F.mse_loss, symlog), symexp)

print(f"raw: worst for {sizes[raw.argmax()]:g}")
for i in (0, 2, 6):
    power = 10.0 ** raw[i].log10().round()
    print(f"raw: {sizes[i]:g} is missed by about {power:g} times its size")

# %%
fig, ax = plt.subplots(figsize=(6.8, 3.4))
ax.loglog(sizes, raw, marker="x", **line("naive"), label="raw, squared error")
ax.loglog(sizes, huber, marker="s", **line("neutral"), label="raw, Huber loss")
ax.loglog(sizes, squashed, marker="o", **line("ours"), label="symlog")
ax.axhline(1, **line("threshold"))
ax.annotate("as bad as always saying 0", (40, 1.3), fontsize=9)
ax.set(xlabel="size of the reward [any unit]", ylabel="relative error [1]")
ax.legend()
show(
    fig,
    alt="Raw losses lose the small rewards altogether, symlog keeps all seven sizes.",
)

claim("raw: rewards of 0.01 are missed by over 100 times their size", raw[0] > 100)
claim("raw: rewards up to 0.1 are missed by over 10 times their size", raw[1] > 10)
claim("Huber: rewards up to 0.1 are missed by over 2 times their size", huber[1] > 2)
claim("symlog: below 20 % off for every size from 0.1 up", squashed[1:].max() < 0.2)
claim("symlog: even 0.01 is seen, better than saying 0", squashed[0] < 0.9)

# %% [markdown]
# One network, one loss, one learning rate, and in the figure rewards from 0.1 to 10,000
# all come out within a few percent. The weak end is the smallest: below 1 symlog does not
# magnify anything, so 0.01 has to wait until the network is accurate to a thousandth.
#
# In DreamerV3 symlog has three places. Observations that are vectors (positions, speeds)
# pass through it before they enter the network, and their reconstruction is compared in
# symlog space (notebook 04). Images do not: they are already between 0 and 1. And its
# inverse lays out the bins with which rewards and values are predicted (notebook 02).

# %% [markdown]
# ## What symlog cannot do
#
# Why bins? Because of a flaw that no accuracy can mend. Let the reward be random: a leap
# over a pit pays 1,000 if it succeeds and 0 if not, half and half. The fair value of the
# leap is 500. A network that minimises a squared error learns the *mean of its targets*,
# and its targets are squashed.

# %% [markdown] tags=["predict"]
# **Predict.** The targets are symlog(1000) = 6.909 and symlog(0) = 0, half and half. What
# does the network learn, and what is it when you read it out with symexp?
#
# <details><summary>Answer</summary>
#
# It learns $6.909 / 2 = 3.454$, and $\mathrm{symexp}(3.454) = e^{3.454} - 1 =
# \sqrt{1001} - 1 = 30.6$. The fair value is sixteen times as much.
#
# </details>

# %%
outcomes = torch.tensor([0.0, 1000.0])
print("mean of the rewards      :", outcomes.mean().item())
print(f"read out of symlog space : {symexp(symlog(outcomes).mean()).item():.1f}")


# %% [markdown]
# The mean of logarithms is the logarithm of another, smaller mean (the geometric one). For
# observations this hardly matters: once the past is known, little about them is random. For
# rewards and values it does, and notebook 02 solves it: predict the *distribution*, and take
# the mean at the very end.

# %% [markdown]
# ## Exercises

# %% [markdown]
# ### Exercise 1.2: The treasure that does not count
#
# *easy, about 5 minutes, one planted bug*
#
# An agent dreams the same moment many times, and a network predicts, in symlog space, the
# sum of rewards in each dream (its *return*). The function below says what the moment is
# worth. It was right as long as all dreams ended alike. Then one dream in a hundred found a
# treasure of 10,000, which is worth 100 on average, and the agent walked past it. Find the
# bug.

# %% tags=["exercise-1.2"]
def value_of_dreams(predicted):
    """Mean return, in points, of dreams with symlog returns [..., N] -> [...]."""
    average = symexp(predicted.mean(-1))
    return average


# %%
check("1.2", value_of_dreams)


# %%
# solution("1.2")

# %% [markdown]
# ### Exercise 1.3: The squashed mean
#
# *medium, about 10 minutes*
#
# Put "What symlog cannot do" into a function: for a reward with several possible outcomes
# and their probabilities, return the true mean and what a network trained with the squared
# symlog error would read out. Then try some distributions: when do the two agree?

# %% tags=["exercise-1.3"]
def both_means(outcomes, probabilities):
    """Return the true mean and the one that is read out of symlog space.

    ``outcomes`` and ``probabilities`` are [..., N]; both results are [...].
    """
    raise NotImplementedError("exercise 1.3")


# %%
check("1.3", both_means)

# %%
# solution("1.3")

# %% [markdown]
# <details><summary>Answer: when do they agree?</summary>
#
# When the outcome is certain; when the outcomes are symmetric around 0, where both are 0;
# and nearly, when all outcomes are small against 1, where symlog is a straight line.
# Otherwise, if all outcomes have the same sign, the read-out is too close to 0: gains come out
# too small, and losses too. With gains and losses mixed even its sign can be wrong: -10, 0 and
# 100 with probabilities 0.5, 0.3 and 0.2 have the mean 15, and are read out as -0.32.
#
# </details>
#
# ## What breaks
#
# * **Forgetting symexp at the end.** The loss is perfect and the agent is blind: a reward of
#   1,000 is reported as 6.9. You see it when you print a prediction beside its target, and
#   never in the loss curve.
# * **A logarithm without the 1, or of a negative number.** Without the 1, the first reward
#   of 0 makes the loss `nan` ($0 \cdot \infty$), and all weights with it; without $|x|$,
#   the first reward below -1 does the same. Without the sign, a loss and a gain become one
#   number.
# * **Too few digits.** In float16 the largest number is 65,504, so symexp of anything above
#   11.09 is infinite; in bfloat16, symlog(1000) and symlog(1010) are the same number.
#   Both functions therefore compute in float32, whatever comes in.

# %%
coarse = symlog(torch.tensor([1000.0, 1010.0])).to(torch.bfloat16)
print("symlog(1000), symlog(1010) in bfloat16:", coarse.tolist())
print("symexp(12) in float16:", symexp(12.0).to(torch.float16).item())
print("symlog of a bfloat16 tensor is", symlog(torch.ones(2).bfloat16()).dtype)

# %% [markdown]
# * **Averaging squashed random numbers**, see "What symlog cannot do". The first version of the
#   paper (arXiv v1), and [PyTorch ports](https://github.com/NM512/dreamerv3-torch) that
#   follow it, still averaged in symlog space;
#   the published one does not. Notebook 02 puts both side by side.
#
# ## What we built
#
# Two functions. `symlog` squashes numbers of every size onto a scale a network can handle;
# `symexp` undoes it. The last cell compares the module `dreamer_lite/symlog.py` with this
# notebook. If you changed an exported cell, save, call `reexport("01_symlog")` (import it
# from `course`) and every later notebook uses your version.
#
# Next, in **02_two_hot**: how to predict a number by a distribution, so that the leap *or*
# the fall stay two outcomes instead of becoming a mean that never happens.

# %%
what_we_built("01_symlog")
