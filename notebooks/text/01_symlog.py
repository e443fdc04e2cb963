# %% [markdown]
# # 01 Symlog: numbers of every size
#
# **The question.** How can one network predict rewards of 0.01 and of 10,000?
#
# In these ten notebooks you build DreamerV3, an agent that learns a model of its world
# and then learns to act by dreaming inside that model. In the tenth it plays Super
# Mario Bros.
#
# **At the end** of this one you have seen the whole agent once, and you have built its
# smallest part: two short functions, which let a network predict numbers of every size.
#
# **You need** Python and a little PyTorch (tensors, `nn.Linear`, a training loop).
# Words from reinforcement learning are explained when they come up.
#
# *Measured: 0.4 minutes on two CPU cores, 0.4 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %% tags=["hide-input"]
#| default_exp symlog
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
# Let us first see where we are going. This map is in every notebook, with that
# notebook's part lit.
#
# On the left, the agent **acts** in the game and stores what happens. In the middle, it
# learns a **world model** from that memory: a network that predicts what happens next.
# On the right, it learns **to act inside the dream**: the world model imagines short
# futures, a critic judges them, and an actor learns to prefer the better ones.

# %% tags=["hide-input"]
show(*dreamer_map("symlog"))

# %% [markdown]
# Here the shipped agent plays. On the left is the real game, in the middle the agent's
# **dream** of the same moments, on the right the difference: white where the dream is
# right, dark red where it is wrong.
#
# Every two seconds the dream starts anew from what the agent has just seen. After that
# it is blind: it is told which buttons are pressed, and imagines the rest.

# %% tags=["hide-input"]
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
# Eight moments of this episode, from the smallest error on the left to the largest on
# the right. (The first dream begins after five frames. Until then the agent watches.)
# Notice where the error is: mostly on the edges of the scenery, and most where there are
# many of them. Mario is small, and small things are the last that a world model learns.
# The model that you train for a minute in notebook 06 does not draw him at all.

# %% tags=["hide-input"]
gap = (film.shape[2] - 3 * 64) // 2  # white columns between two pictures
real, dreamed, error = (film[:, :, x : x + 64] for x in (0, 64 + gap, 128 + 2 * gap))
order = ((real.astype(float) - dreamed) ** 2).sum((1, 2, 3)).argsort()
eight = [order[i * (len(film) - 1) // 7] for i in range(8)]
show(
    strip(real, dreamed, error, times=eight),
    alt="Rows of real, dreamed and wrong pixels, the smallest errors on the left.",
)

# %% [markdown]
# ## The whole algorithm on one page
#
# This is all of DreamerV3 in thirty lines. You are not supposed to understand it yet;
# come back whenever you wonder where you are. The numbers on the right name the
# notebook that turns a line into real code.
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

# %% [markdown] tags=["aside"]
# ### Aside: how Dreamer differs from DQN and PPO
#
# If you have met other agents, this comparison may help. DQN learns the values of
# actions from a replay. PPO learns a policy from fresh experience. Dreamer uses both kinds
# of data: it learns its model from a replay of the real world, and its policy from fresh
# experience in its dreams.
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
# Why does Dreamer need no target network? The targets of DQN come from the network that
# is being trained, so without a slow copy they can run away. Dreamer's returns contain
# up to 15 steps of predicted reward, so less of each target is the critic's own
# opinion. Notebook 08 shows what the slow copy adds.

# %% [markdown]
# ## How to work through them
#
# | notebook | question | what you will have |
# |---|---|---|
# | **01 symlog** | How can one network predict 0.01 and 10,000? | one scale for all numbers |
# | 02 two_hot | Why predict a distribution instead of a number? | the head for rewards and values |
# | 03 replay | What does the agent remember? | a memory of everything that it has seen |
# | 04 networks | How do pixels become an embedding, and back? | the eyes, and the painter |
# | 05 rssm | How can a model remember and be unsure at once? | the heart of the world model |
# | 06 world_model | Can it dream the game? | dreams of Mario, from one short training |
# | 07 lambda_returns | How far should the agent look ahead? | the judge of an imagined future |
# | 08 actor_critic | How does one learn to act without acting? | an agent trained inside a dream |
# | 09 dreamer | Does the whole loop learn? | CartPole, learnt live |
# | 10 mario | Does it play Mario? | the agent above, playing; and how to train it further |
#
# Plan an hour to an hour and a half of reading for each, and half an hour for the small
# exercises. Where you write the heart of a notebook yourself, allow up to an hour more.

# %% [markdown]
# A few things are the same in all ten.
#
# * **The paper says** begins a box that restates Hafner et al., *Mastering diverse
#   control tasks through world models* ([Nature
#   2025](https://doi.org/10.1038/s41586-025-08744-2), [arXiv
#   2301.04104v2](https://arxiv.org/abs/2301.04104)), with the number of the equation
#   if it has one. Everything outside these boxes is our own explanation.
# * **Predict** asks for a guess before you look. It is the cheapest way to learn
#   something. The answer is folded.
# * **Aside** begins a folded section that you can skip.
# * `compare` prints how close two results are, `claim` prints whether a statement
#   holds, and `check` tests your answer to an exercise.
# * Each notebook becomes one module of the package `dreamer_lite`. The rest of it, such
#   as run folders and the command line, is written by hand. `course` is for teaching
#   alone: it draws, checks your answers, and holds small tasks and models.

# %% [markdown]
# ## A loss that sees only the big numbers
#
# The agent has to predict **rewards**, the numbers with which a game says "well done",
# and **values**, the sum of all rewards still to come, on average.
#
# One game pays 0.01 for a step, another pays 10,000 for a treasure. DreamerV3 wants one
# network, one loss and one learning rate for both. So let us see what the obvious loss
# does, the squared error. Here are three rewards, and three predictions of a network,
# all still 0. We need no more of the network than these, because the gradient starts at
# the predictions and is passed back to the weights from there.

# %%
rewards = torch.tensor([0.01, 1.0, 10_000.0])
prediction = torch.zeros(3, requires_grad=True)
((prediction - rewards) ** 2).sum().backward()

# %% [markdown] tags=["predict"]
# **Predict.** All three rewards pull at the same shared weights. Will they pull about
# equally hard, or will one of them drown out the others? (The derivative of $(p - y)^2$
# with respect to the prediction $p$ is $2(p - y)$.)
#
# <details><summary>Answer</summary>
#
# One drowns out the others. At $p = 0$ the gradient is $-2y$, so it grows with the
# reward: $-0.02$, $-2$ and $-20{,}000$. The treasure sends 99.99 % of the whole
# gradient. The other two may as well not be there.
#
# </details>

# %%
for reward, gradient in zip(rewards.tolist(), prediction.grad.tolist()):
    print(f"reward {reward:>8g}   gradient {gradient:>9g}")


# %% [markdown]
# So the shared weights follow the treasure, and nothing else.
#
# Adam divides the gradient of each weight by the usual size of that gradient, which tames
# the explosion. It does not help the small rewards, because the gradient of a weight is a
# sum over all three, and the treasure still makes up 99.99 % of it.
#
# And there is a second problem. A gradient that is divided by its own usual size is about
# 1 in size. So a weight now moves by about the learning rate per step, no matter how far
# it has to go. To see
# what that means, let Adam move a single number towards a target.

# %%
def adam_towards(target, steps=4000, lr=0.01):
    """Move one number from 0 towards a target with Adam; return its path."""
    number = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([number], lr)
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        ((number - target) ** 2).sum().backward()
        optimizer.step()
        path.append(number.item())
    return path


# %% [markdown] tags=["predict"]
# **Predict.** The target is 10,000 and the learning rate is 0.01. Sketch the path of
# the number over 4,000 steps. Does it leap ahead and then slow down, or does it creep
# along a straight line? And does it arrive?
#
# <details><summary>Answer</summary>
#
# It creeps along a straight line, 0.01 per step, and after 4,000 steps it has come to
# 40. It would need a million steps to arrive. With 0.0006, the learning rate with which
# our Mario agent's world model begins, it would need 17 million.
#
# </details>

# %% tags=["hide-input"]
path = adam_towards(10_000.0)
fig, ax = plt.subplots(figsize=(6.4, 2.6))
ax.plot(path, **line("naive"), label="the number")
ax.set(xlabel="step [1]", ylabel="number [1]", ylim=(0, 100))
ax.annotate("the target is at 10,000, far above this picture", (300, 85), fontsize=9)
ax.legend(loc="lower right")
show(
    fig,
    alt="A straight line climbs from 0 to 40 in 4,000 steps; the target is at 10,000.",
)
claim("after 4,000 steps the number has come to about 40", 39 < path[-1] < 41)


# %% [markdown]
# A network is faster than a single number: many weights add to its output, and all of
# them move at once. But that only moves the limit. Notebook 02 shows
# the same failure at a million.
#
# Could we divide by the largest reward? We do not know it yet. A treasure found after a
# million steps would change the meaning of everything learnt so far.
#
# So we want a fixed curve that squashes large numbers and leaves small ones alone. The
# logarithm squashes. But at 0, the most common reward there is, it is minus infinity,
# and negative numbers have none at all. The next section mends both.

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
# In our words: take the size $|x|$ and forget the sign for now. Add 1 before the
# logarithm, so that 0 goes to $\ln 1 = 0$. Then put the sign back. We leave out the
# factor $\tfrac{1}{2}$, as the [authors' code](https://github.com/danijar/dreamerv3)
# does, because it only scales the loss.

# %%
def symlog_literal(x):
    return torch.sign(x) * torch.log(torch.abs(x) + 1)


def symexp_literal(x):
    return torch.sign(x) * (torch.exp(torch.abs(x)) - 1)


# %% [markdown] tags=["predict"]
# **Predict.** Sketch symlog from -10 to 10 before you see it. How steep is it at 0? To
# the right of 0, does it run above or below the straight line $y = x$? And how does the
# left half follow from the right one?
#
# <details><summary>Answer</summary>
#
# At 0 it is as steep as $y = x$: the slope is $1 / (1 + |x|)$, which is 1 there. To the
# right it bends away below the line, and flattens more and more. The left half is the
# right half turned around the origin, because the sign is taken off and put back.
#
# </details>

# %% tags=["hide-input"]
CURVES = {
    "raw": lambda x: x,
    "cube root": lambda x: torch.sign(x) * x.abs() ** (1 / 3),
}
by_hand = torch.tensor([-9.0, 0.0, math.e - 1, 9.0, 99.0, 999.0])


def draw_curve(ax, power, other):
    """Draw symlog, and another curve, from -10**power to 10**power."""
    x = torch.linspace(-1, 1, 801) * 10.0**power
    y = symlog_literal(x)
    ax.plot(x, CURVES[other](x), **line("naive"), label=other)
    ax.plot(x, y, **line("ours"), label="symlog")
    points = by_hand[by_hand.abs() <= x.max()]
    color = line("target")["color"]
    ax.plot(points, symlog_literal(points), "o", color=color, label="six numbers")
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
    return fig, "Near zero symlog is the line y = x; far away it is almost flat."


_ = explore(
    one_zoom,
    alt=lambda power, other: (
        f"symlog and the {other} curve, for x up to {10.0**power:.3g}."
    ),
    static=three_zooms,
    power=Slider(-2.0, 6.0, 0.5, value=1.0, label="zoom: x up to 10 to the"),
    other=Choice(["raw", "cube root"], label="compare with"),
)

# %% [markdown]
# Move the slider. Near 0 the curve is almost the line $y = x$, so 0.01 passes through
# nearly unchanged. Far away it is the logarithm. The dots are six numbers that are easy
# to check by hand: 999, for example, becomes $\ln 1000 = 6.9$. A million becomes 13.8.
#
# The cube root squashes too, but it is infinitely steep at 0, so it would blow up every
# tiny reward.
#
# That is the whole idea. What is left is to write it so that no digits get lost.

# %% [markdown]
# ## Build it
#
# A float32 number has about seven digits. So $1 + 10^{-9}$ is rounded to 1, and a tiny
# reward is lost before the logarithm ever sees it:

# %%
tiny = torch.tensor(1e-9)
print("literal formula:", symlog_literal(tiny).item())


# %% [markdown]
# PyTorch has a function that adds the 1 inside, where no digits are lost, and another
# for the way back. Find them, and write your version before you see ours.
#
# ### Exercise 1.1: symlog and its inverse
#
# *easy, about 5 minutes*
#
# Write both functions for tensors of any shape. The check tells you which mistake you
# made, and never stops the notebook. To see our solution, remove the `#` from the last
# line of the check's cell.

# %% tags=["exercise-1.1"]
def my_symlog(x):
    """Squash ``x``: linear near 0, a logarithm far away, odd everywhere."""
    raise NotImplementedError("exercise 1.1")


def my_symexp(y):
    """Undo ``my_symlog``."""
    raise NotImplementedError("exercise 1.1")


# %%
check("1.1", my_symlog, my_symexp)
# solution("1.1")

# %% [markdown]
# Our version uses `log1p(x)`, which is $\ln(1 + x)$, and `expm1(x)`, which is
# $e^x - 1$. It also turns everything into float32: later, large parts of the agent
# compute in bfloat16, which has only two to three digits, and squashing must not lose
# more of them.
#
# Cells that begin with `#| export` make up the module `dreamer_lite/symlog.py`.

# %% tags=["hide-input"]
#| export
"""Symmetric logarithm and its inverse: one scale for rewards of any size.

Built in notebook 01. Source: DreamerV3, section "Robust predictions", equation 9.
"""

import numpy as np
import torch
from torch import Tensor


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
# Does our version keep its promises? The last line of the cell is about Adam, which had
# only come to 40 after 4,000 steps. In symlog space the way to 10,000 is only 9.21
# long.

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

reached = symexp(adam_towards(symlog(10_000.0))[-1]).item()
claim("Adam now comes within 1 % of 10,000", abs(reached - 10_000) < 100)

# %% [markdown]
# ## What an error costs now
#
# A loss decides what a network takes seriously. So what does symlog do to the price of
# an error? Suppose every prediction is 10 % too large.

# %% [markdown] tags=["predict"]
# **Predict.** Draw the cost of this error over the size of the target, from 0.001 to a
# million. For the raw squared error it climbs without end. What about the squared error
# after symlog: does it climb as well, level off, or come down again?
#
# <details><summary>Answer</summary>
#
# It climbs at first and then levels off. For large numbers symlog is the logarithm, and
# the logarithm turns factors into differences: $\ln(1.1\,y) - \ln y = \ln 1.1$, for
# every $y$. So the cost stays at $0.0953^2 = 0.0091$, the same for a thousand and for a
# million.
#
# </details>

# %% tags=["hide-input"]
targets = torch.tensor([0.01, 1.0, 100.0, 10_000.0, 1_000_000.0])
raw_cost = (1.1 * targets - targets) ** 2
symlog_cost = (symlog(1.1 * targets) - symlog(targets)) ** 2
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
print(f"the last two points after symlog: {symlog_cost[-2]:.4f}, {symlog_cost[-1]:.4f}")

# %% [markdown]
# On the left, far below 1, the two lines agree: 10 % of 0.01 counts as the small error
# that it is. That is on purpose, because a reward of nearly 0 is not important.
#
# On the right the line is flat: symlog charges for *relative* errors. In other words,
# no target can drown out the others.

# %% [markdown]
# ## The real experiment: six orders of magnitude, one network
#
# Does this help a network that really learns? Fourteen invented games share one
# network. Seven of them pay a reward of one size each: 0.01, 0.1, and so on up to
# 10,000. The other seven take the same amounts away.
#
# How well you play is a number $u$ between 0 and 1, and the reward is $(1 + u)$ times
# the basic one. The network sees the game and $u$, and predicts the reward.

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


# %% [markdown]
# We train it three times and change only the loss: squared error on raw rewards,
# squared error after symlog, and the Huber loss, a common remedy against outliers,
# which is squared for small errors and linear for large ones.

# %%
def train(loss_of, squash, steps=1500, batch=128, lr=3e-3):
    """Train a small network on all games at once; `squash` is applied to rewards."""
    torch.manual_seed(0)
    layers = [nn.Linear(15, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()]
    network = nn.Sequential(*layers, nn.Linear(64, 1))
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
# All three are measured in the same way: the distance to the true reward, *divided by*
# the true reward. So 0.1 means 10 % off, and a network that always says 0 scores 1.

# %%
every_game = torch.arange(len(basic)).repeat_interleave(51)  # 51 tries in each game,
every_u = torch.linspace(0, 1, 51).repeat(len(basic))  # from the worst to the best


@torch.no_grad()
def relative_errors(network, unsquash):
    """Median relative error for each of the seven sizes."""
    truth = reward_of(every_game, every_u)
    predicted = unsquash(network(network_input(every_game, every_u))[:, 0])
    errors = ((predicted - truth) / truth).abs().reshape(2, len(sizes), 51)
    return errors.movedim(1, 0).flatten(1).median(-1).values


# %% [markdown] tags=["predict"]
# **Predict.** Sketch the relative error over the size of the reward, from 0.01 on the
# left to 10,000 on the right. Which way does the curve of the raw loss slope? Is the
# Huber loss better, and where? And where is symlog at its weakest?
#
# <details><summary>Answer</summary>
#
# The raw curve falls from left to right. The games share their weights, and the network
# spends its accuracy on the thousands. So an error of ten units or more is left in
# *every* game. Ten units are a thousand times a reward of 0.01, but only a small part
# of 10,000.
#
# Up to 100, the Huber curve runs parallel to the raw one and lower. For errors above 1
# the Huber loss is a straight line, so every game pulls equally hard, and the large
# games no longer drown out the others. But a game of 10,000 now pulls no harder than a
# game of 10, although it has a thousand times as far to go. So, we think, Huber climbs
# again, and at 10,000 it is no better than the raw loss. Symlog stays low for all sizes, and is
# weakest at 0.01.
#
# </details>

# %%
raw = relative_errors(train(F.mse_loss, unchanged), unchanged)
huber = relative_errors(train(F.huber_loss, unchanged), unchanged)
squashed = relative_errors(train(F.mse_loss, symlog), symexp)

# %% tags=["hide-input"]
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

# %%
claim("raw: rewards of 0.01 are missed by over 100 times their size", raw[0] > 100)
claim("raw: rewards up to 0.1 are missed by over 10 times their size", raw[1] > 10)
claim("Huber: rewards up to 0.1 are missed by over 2 times their size", huber[1] > 2)
claim("symlog: below 20 % off for every size from 0.1 up", squashed[1:].max() < 0.2)
claim("symlog: even 0.01 is seen, better than saying 0", squashed[0] < 0.9)

# %% [markdown]
# With symlog, one network and one learning rate serve all rewards from 0.1 to 10,000,
# to within a few percent. Smaller rewards are not magnified: near 0 symlog is the line
# $y = x$ and leaves them as small as they are. So a reward of 0.01 has to wait until
# the network is accurate to a thousandth.
#
# Where does DreamerV3 use symlog? Observations that are vectors (positions, speeds)
# enter the network through it, and are reconstructed in symlog space (notebook 04).
# Images are already between 0 and 1 and need none.
#
# Rewards and values are treated in another way. The network divides the range of
# possible numbers into *bins*, whose places are laid out by symexp, and predicts a
# probability for each bin (notebook 02).

# %% [markdown]
# ## What symlog cannot do
#
# Why bins, and not simply a prediction in symlog space? Because such a prediction has a
# flaw that no training can mend.
#
# A leap over a pit pays 1,000 or 0, half and half, so its fair value is 500. A squared
# error teaches a network the *mean of its targets*: let one prediction $p$ stand for many
# targets $y$; then the mean of $(p - y)^2$ has the slope $2\,(p - \text{mean of } y)$, and
# this is 0 where $p$ is the mean. Here the targets are squashed.

# %% [markdown] tags=["predict"]
# **Predict.** A network learns this leap perfectly, with the squared error after
# symlog, and we read its prediction out with symexp. Do you expect more than 500, about
# 500, or less? How much less: a little, or far less?
#
# <details><summary>Answer</summary>
#
# Far less. The targets are symlog(1000) = 6.909 and symlog(0) = 0, so the network
# learns their mean, 3.454. Read out, that is $e^{3.454} - 1 = 30.6$. The fair value is
# sixteen times as much.
#
# </details>

# %%
outcomes = torch.tensor([0.0, 1000.0])
print("mean of the rewards      :", outcomes.mean().item())
print(f"read out of symlog space : {symexp(symlog(outcomes).mean()).item():.1f}")


# %% [markdown]
# Averaging logarithms and then undoing the logarithm gives another mean, the geometric
# one, and it is smaller.
#
# For observations this hardly matters, because little about them is random once the
# past is known. For rewards and values it matters a lot. Notebook 02 predicts the whole
# *distribution* instead, and takes the mean at the very end.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1.2: The treasure that does not count
#
# *easy, about 5 minutes, one planted bug*
#
# An agent dreams the same moment many times, and a network predicts the sum of rewards
# in each dream (the *return*), in symlog space. The function below says what the moment
# is worth.
#
# It was right as long as all dreams ended in the same way. Then one dream in a hundred
# found a treasure of 10,000. That is worth 100 on average, but the agent walked past
# it. Find the bug.

# %% tags=["exercise-1.2"]
def value_of_dreams(predicted):
    """Mean return, in points, of dreams with symlog returns [..., N] -> [...]."""
    average = symexp(predicted.mean(-1))
    return average


# %%
check("1.2", value_of_dreams)
# solution("1.2")

# %% [markdown]
# ### Exercise 1.3: The squashed mean
#
# *medium, about 10 minutes*
#
# Turn "What symlog cannot do" into a function: for outcomes and their probabilities,
# return the true mean, and what one would read out of a network trained with the
# squared symlog error. Then try some distributions. When do the two agree?
#
# <details><summary>Answer: when do they agree?</summary>
#
# They agree when the outcome is certain. They agree when the outcomes are symmetric
# around 0, where both are 0. They nearly agree when all outcomes are much smaller than 1
# in size, because there symlog is almost a straight line.
#
# Otherwise, if all outcomes have the same sign, the read-out is too close to 0: gains
# and losses both come out too small. With gains and losses mixed, even the sign can be
# wrong. The outcomes -10, 0 and 100 with probabilities 0.5, 0.3 and 0.2 have the mean
# 15, and are read out as -0.32.
#
# </details>

# %% tags=["exercise-1.3"]
def both_means(outcomes, probabilities):
    """Return the true mean and the one that is read out of symlog space.

    ``outcomes`` and ``probabilities`` are [..., N]; both results are [...].
    """
    raise NotImplementedError("exercise 1.3")


# %%
check("1.3", both_means)
# solution("1.3")

# %% [markdown]
# ## What breaks
#
# * **Forgetting symexp at the end.** The loss looks perfect, but a reward of 1,000 is
#   reported as 6.9. Print a prediction beside its target.
# * **A logarithm without the 1.** The first reward of 0 makes the loss `nan`, and all
#   the weights with it. Without $|x|$, the first reward below -1 does the same. Without
#   the sign, a gain and a loss become the same number.
# * **Averaging squashed random numbers.** The first version of the paper (arXiv v1) did
#   this, and so do [PyTorch ports](https://github.com/NM512/dreamerv3-torch) that
#   follow it. Notebook 02 compares it with the published version.

# %% [markdown] tags=["aside"]
# ### Aside: symlog in 16 bits
#
# Both functions compute in float32 for any input, because 16 bits are too few. The
# largest number in float16 is 65,504, so symexp of anything above 11.09 becomes
# infinite. In bfloat16, symlog(1000) and symlog(1010) are the same number.

# %%
coarse = symlog(torch.tensor([1000.0, 1010.0])).to(torch.bfloat16)
print("symlog(1000), symlog(1010) in bfloat16:", coarse.tolist())
print("symexp(12) in float16:", symexp(12.0).to(torch.float16).item())
print("symlog of a bfloat16 tensor is", symlog(torch.ones(2).bfloat16()).dtype)

# %% [markdown]
# ## What we built
#
# Two functions: `symlog` squashes numbers of every size onto a scale that a network can
# handle, and `symexp` undoes it.
#
# The last cell compares the module with this notebook. If you changed an exported cell,
# save, import `reexport` from `course` and call `reexport("01_symlog")`. Later
# notebooks then use your version.
#
# Next, in **02_two_hot**: how to predict a number by a distribution, so that the leap
# and the fall remain two outcomes, instead of becoming a mean that never happens.

# %%
what_we_built("01_symlog")
