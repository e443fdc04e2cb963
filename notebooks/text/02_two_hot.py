# %% [markdown]
# # 02 Two-hot: a distribution instead of a number
#
# **The question.** Why predict a distribution instead of a number?
#
# The agent judges its dreams by two predictions: the reward of a step, and the value of
# a moment. Both can be of any size, and both can come out in more than one way.
#
# **At the end** a small network predicts "300 points on average, which means 1,000 or
# nothing". After the same training it is as accurate for a game that pays a million as
# for one that pays a single point. And before training, its prediction is exactly 0.
#
# **You need** notebook 01 (symlog and symexp), softmax and cross entropy.
#
# *Measured: 0.4 minutes on two CPU cores, 0.6 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %% tags=["hide-input"]
#| default_exp two_hot
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from course import COLORS, Slider, check, claim, compare, dreamer_map
from course import explore, line, show, solution, use_style, what_we_built
from dreamer_lite.symlog import symexp, symlog

use_style()

# %% [markdown]
# ## Where we are going
#
# A game pays 1,000 points in three of ten tries, and otherwise nothing. A *head* is the
# last part of a network, the part that makes one prediction. The head that you will
# build here has watched this game 50,000 times.
#
# The bars show what it believes. The line is the number that it gives if we ask for
# just one. (The axis is stretched by symlog.)

# %% tags=["hide-input"]
from dreamer_lite.two_hot import TwoHot

finished = TwoHot()
generator = torch.Generator().manual_seed(0)
logits = torch.zeros(255, requires_grad=True)
optimizer = torch.optim.Adam([logits], 0.1)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 400)
for _ in range(400):
    points = 1000 * (torch.rand(128, generator=generator) < 0.3).float()
    loss = finished.loss(logits.expand(128, 255), points).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()

belief, answer = torch.softmax(logits.detach(), -1), finished.mean(logits.detach())

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(7.0, 2.8))
ax.bar(symlog(finished.bins), belief, 0.13, color=COLORS["ours"], label="probability")
ax.axvline(symlog(answer), **line("target"), label=f"mean: {answer:.0f}")
ticks = [0, 1, 10, 100, 1000]
ax.set_xticks([symlog(t).item() for t in ticks], ticks)
ax.set(xlim=(-0.5, 7.4), ylim=(0, 1), xlabel="what the game pays [points]")
ax.set(ylabel="probability [1]")
ax.legend(loc="upper center")
show(
    fig,
    alt="Two groups of bars, at nothing and at 1,000 points; the mean lies between.",
)

# %% [markdown]
# A single number could not say that. Here is where the head belongs: it predicts
# rewards in the world model, and values in the critic.

# %% tags=["hide-input"]
show(*dreamer_map("two_hot"))

# %% [markdown]
# ## The flag or the pit
#
# First, why is one number not enough? Mario runs towards a pit. In three of ten tries
# he clears it and reaches the flag, for 1,000 points. In seven he falls, for nothing.
#
# The sum of rewards from here to the end is called the **return**. Its mean is the
# **value** of this moment, here 300.

# %% [markdown] tags=["predict"]
# **Predict.** Three heads learn the value from these ten tries. One minimises the
# squared error, one the squared error after symlog, and one fits a Normal distribution.
# Which of them find 300? And which of them know that 300 itself never happens?
#
# <details><summary>Answer</summary>
#
# The squared error finds 300, and so does the Normal. After symlog the head says
# $\mathrm{symexp}(0.3 \cdot 6.909) = 6.9$, the flaw that notebook 01 ended with.
#
# None of them knows that there are two outcomes. The Normal is so wide that it puts a
# quarter of its probability below 0, on returns that never happen.
#
# </details>

# %%
returns = torch.tensor([1000.0] * 3 + [0.0] * 7)
width = returns.std(correction=0)
below_zero = 0.5 * (1 + math.erf(-300 / (width.item() * math.sqrt(2))))
print(f"squared error       : {returns.mean().item():.0f}")
print(f"squared symlog error: {symexp(symlog(returns).mean()).item():.1f}")
print(f"Normal              : 300, width {width:.0f}, below zero {below_zero:.2f}")

# %% [markdown]
# So the squared error is right about the mean, but its gradient grows with the target.
# Symlog tames the gradient and spoils the mean. We want three things at once: the right
# mean, a gradient that does not depend on the size of the numbers, and both outcomes.
#
# ## Bins, and two weights
#
# > **The paper says** ([DreamerV3](https://arxiv.org/abs/2301.04104), section "Robust
# > predictions", equation 10): for targets that may be random, such as rewards and
# > returns, the network gives a softmax distribution over bins $B$ that are spaced
# > exponentially, and the prediction is the mean of the bins under it:
# >
# > $$\hat{y} = \mathrm{softmax}(f(x))^\top B \qquad
# > B = \mathrm{symexp}\big([-20 \;\ldots\; {+20}]\big)$$
# >
# > A number is encoded for training as a *two-hot* vector: all zeros but for the two bins
# > around the number, whose weights add up to 1; the nearer bin gets the larger one.
#
# In our words: predicting a number becomes classification, as in image recognition. The
# network gives one output per bin, the *logits* $f(x)$, and the question is which bin
# the number falls into. Let us take five bins, so that we can see every number.

# %%
steps = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
toy_bins = symexp(steps)
print("toy bins:", [round(b, 3) for b in toy_bins.tolist()])


# %% [markdown]
# The number 1 lies between the bins 0 and 1.718. A *one-hot* vector, which is 1 in one
# place and 0 in all others, would have to round it. Two-hot shares the weight between
# the two, so that the *mean of the bins gives the number back*: $0.418 \cdot 0 + 0.582 \cdot 1.718 = 1$. In general, for neighbours
# $b_k \le y \le b_{k+1}$:
#
# $$w_{k+1} = \frac{y - b_k}{b_{k+1} - b_k} \qquad w_k = 1 - w_{k+1}$$
#
# Here is a loop that follows these words.

# %%
def two_hot_slow(y, bins):
    """Two-hot vectors of numbers y [N] over bins [K], one number at a time: [N, K]."""
    encoded = torch.zeros(len(y), len(bins))
    for row, number in zip(encoded, y):
        number = number.clamp(bins[0], bins[-1])
        for k in range(len(bins) - 1):
            if bins[k] <= number <= bins[k + 1]:
                weight = (number - bins[k]) / (bins[k + 1] - bins[k])
                row[:] = 0
                row[k], row[k + 1] = 1 - weight, weight
    return encoded


# %% [markdown] tags=["predict"]
# **Predict.** Sketch the weights of two numbers as bars over the toy bins (-6.389,
# -1.718, 0, 1.718, 6.389): first 1, then -3. How many bars does each have, and which
# bar is the higher one? What happens to 50, which lies beyond the last bin?
#
# <details><summary>Answer</summary>
#
# Two bars each. For 1 the bar on 1.718 is higher, for -3 the one on -1.718, because the
# nearer bin gets more weight. 50 puts all its weight on the last bin, so it is read
# back as 6.389.
#
# </details>

# %%
numbers = torch.tensor([1.0, 0.0, 50.0, -3.0])
toy = two_hot_slow(numbers, toy_bins)
for number, row in zip(numbers.tolist(), toy.tolist()):
    print(f"{number:5.1f}  ->", [round(w, 3) for w in row])
compare("mean of the bins", toy @ toy_bins, numbers.clamp(max=toy_bins[-1].item()))

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.7), sharey=True)
for ax, number, row in zip(axes, (1.0, -3.0), (toy[0], toy[3])):
    ax.bar(symlog(toy_bins), row, 0.3, color=COLORS["ours"], label="weight")
    ax.axvline(symlog(number), **line("target"), label="the number")
    ax.set_xticks(steps, [f"{b:.1f}" for b in toy_bins])
    ax.set(title=f"y = {number:g}", xlabel="bin [reward]", ylabel="weight [1]")
axes[1].legend(loc="upper right")
show(
    fig, alt="Two bars carry the weight of each number, the nearer bin the higher one."
)

# %% [markdown]
# ## Why the bins grow
#
# Five bins were a toy. The real head has 255, from symexp(-20) to symexp(20), and so it
# reaches up to 485 million. How fine can it be, with so few bins for so long a way?

# %% [markdown] tags=["predict"]
# **Predict.** Near 0 the bins are 0.17 apart. Does this distance stay the same for
# larger numbers, or does it grow in proportion to them? What do you expect near 1,000?
#
# <details><summary>Answer</summary>
#
# It grows in proportion: each bin is about 17 % larger than the one before. Near 1,000
# they are about 150 apart. In other words, the bins have *relative* precision, just as
# symlog charges for relative errors. With equal distances of 0.17 it would take 5.7
# billion bins.
#
# </details>

# %%
real_bins = symexp(torch.linspace(-20, 20, 255))
for number in (0.1, 10.0, 1_000.0, 1_000_000.0):
    above = torch.searchsorted(real_bins, torch.tensor(number))
    gap = (real_bins[above] - real_bins[above - 1]).item()
    print(f"near {number:>11,.1f} the bins are {float(f'{gap:.2g}'):>7,g} apart")
print(f"the last bin: {real_bins[-1].item():.3g}")


# %% [markdown]
# Coarse bins do no harm, because the weights fill the gaps. Move the number and watch
# the weight walk from bin to bin. When the number hits a bin, that bin has all of it.

# %% tags=["hide-input"]
def draw_bins(y):
    """Draw the two-hot vector of a number over the nearest bins."""
    weights = two_hot_slow(torch.tensor([y]), real_bins)[0]
    fig, ax = plt.subplots(figsize=(7.0, 3.0))
    ax.bar(symlog(real_bins), weights, 0.11, color=COLORS["ours"], label="weight")
    ax.plot(symlog(real_bins), 0 * real_bins, "|", color=COLORS["ink"], label="bins")
    ax.axvline(symlog(y), **line("target"), label=f"the number, {y:.2f}")
    middle = symlog(y).item()
    ticks = [t / 2 for t in range(-8, 9) if abs(t / 2 - middle) < 1.3]
    ax.set_xticks(ticks, [f"{symexp(t).item():.1f}" for t in ticks])
    ax.set(xlim=(middle - 1.3, middle + 1.3), ylim=(-0.05, 1.1))
    ax.set(xlabel="bin [reward]", ylabel="weight [1]")
    ax.legend(loc="upper right")
    return fig


_ = explore(
    draw_bins,
    alt=lambda y: f"Only the bins right beside the number {y:.2f} carry weight.",
    y=Slider(-20.0, 20.0, 0.05, value=1.0, label="the number"),
)


# %% [markdown]
# The loop `two_hot_slow` says exactly what we want, but it takes one number and one bin
# at a time. Write the fast version.
#
# ### Exercise 2.1: Two-hot without a loop
#
# *medium, about 15 minutes*
#
# Return what `two_hot_slow` returns, for all numbers at once.
# `torch.searchsorted(bins, y, right=True)` gives, for each number, how many bins are
# less than or equal to it. Mind the last bin: a number on it counts all K bins, and has
# no upper neighbour.

# %% tags=["exercise-2.1"]
def two_hot(y, bins):
    """Two-hot vectors of numbers y [N] over sorted bins [K]: [N, K], no loop."""
    raise NotImplementedError("exercise 2.1")


# %%
check("2.1", two_hot)
# solution("2.1")

# %% [markdown]
# ## The loss
#
# Now the head can describe a number. How does it learn one?
#
# > **The paper says** (equation 11): the loss is the cross entropy between the two-hot
# > target and the predicted distribution,
# >
# > $$\mathcal{L}(\theta) = -\,\mathrm{twohot}(y)^\top \log \mathrm{softmax}\big(f(x,
# > \theta)\big)$$
# >
# > It depends on the probabilities of the bins but not on where the bins lie, and so the
# > size of the gradient no longer depends on the size of the target.
#
# The result is in *nats*, the unit of losses that are made of natural logarithms. If
# the target is on a single bin, a loss of $n$ nats means that this bin had the
# probability $e^{-n}$.

# %%
def two_hot_loss_slow(logits, y, bins):
    """Cross entropy in nats: logits [N, K], numbers y [N] -> [N]."""
    return -(two_hot_slow(y, bins) * torch.log_softmax(logits, -1)).sum(-1)


# %% [markdown] tags=["predict"]
# **Predict.** The target grows from 1 to a million. The gradient of the squared error
# grows with it, a million times. What does the gradient of the two-hot loss do?
#
# <details><summary>Answer</summary>
#
# It stays the same. The gradient of a cross entropy is
# $\mathrm{softmax} - \mathrm{target}$, so each entry is between -1 and 1, and their
# sizes add up to at most 2. It makes no difference which numbers the bins stand for.
#
# Where does that come from? With the logits $l_k$ and the weights $w_k$, the loss is
# $-\sum_k w_k\,(l_k - \ln\sum_j e^{l_j})$. The weights add up to 1, so this is
# $\ln\sum_j e^{l_j} - \sum_k w_k l_k$. Its derivative with respect to $l_k$ is
# $e^{l_k} / \sum_j e^{l_j} - w_k$.
#
# </details>

# %%
for target in (1.0, 1_000_000.0):
    logits = torch.zeros(1, 255, requires_grad=True)
    loss = two_hot_loss_slow(logits, torch.tensor([target]), real_bins).sum()
    loss.backward()
    number = torch.zeros(1, requires_grad=True)
    ((number - target) ** 2).sum().backward()
    size, raw = logits.grad.abs().sum().item(), number.grad.abs().item()
    print(f"target {target:>9g}   two-hot {size:.2f}   squared error {raw:g}")
print(f"for both targets the two-hot loss begins at ln 255 = {loss.item():.3f}")

# %% [markdown]
# The last line is a number to remember. DreamerV3 starts the last layer of this head at
# 0, so at first all 255 bins are equally likely, and the loss begins at $\ln 255 =
# 5.541$, for any reward. You will meet it again in notebook 06.
#
# And where does it end? Not at 0. A cross entropy is smallest when the prediction
# equals the target, and even then the target's own entropy is left. For a target with
# the weights $w$ and $1 - w$ on two bins, that is $-w \ln w - (1 - w) \ln(1 - w)$. It
# is a floor: no prediction can get below it.

# %% [markdown] tags=["predict"]
# **Predict.** A reward is always the same, and the network knows it. Sketch the lowest
# possible loss over rewards from 0 to 3. Where does it touch 0, and where is it
# largest?
#
# <details><summary>Answer</summary>
#
# It touches 0 on every bin, where a single weight is left. In between it arches up to
# $\ln 2 = 0.693$, where both bins have the weight one half. The arches get wider as the
# bins do.
#
# </details>

# %% tags=["hide-input"]
y = torch.linspace(-0.2, 3.0, 641)
curve = torch.special.entr(two_hot_slow(y, real_bins)).sum(-1)  # entr(w) is -w ln w
at_one = torch.special.entr(two_hot_slow(torch.ones(1), real_bins)).sum().item()
fig, ax = plt.subplots(figsize=(6.8, 2.8))
ax.plot(y, curve, **line("entropy"), label="lowest loss")
ax.plot(1.0, at_one, "o", color=COLORS["target"], label="reward 1")
near = real_bins[(real_bins >= -0.2) & (real_bins <= 3)]
ax.plot(near, 0 * near, "|", markersize=14, color=COLORS["ink"], label="bins")
ax.axhline(math.log(2), **line("threshold"), label="ln 2")
ax.set(xlabel="reward that is always the same [1]", ylabel="loss [nats]")
ax.set(ylim=(-0.05, 0.95))
ax.legend(loc="upper right", ncols=4)
show(fig, alt="The lowest loss is zero on every bin and arches up to ln 2 between two.")
print(f"lowest loss for a reward of 1: {at_one:.3f}")

# %% [markdown]
# This floor is easily taken for a bug. The dot in the picture is the floor for a reward
# of 1, and a reward of -1 has the same one. So with rewards of 1 and -1, the reward
# loss stops at 0.665 even if the network always knows which of the two comes.
#
# ## Reading it out: a value from nothing
#
# To read a prediction, we take the mean of the bins under the probabilities. This
# sounds harmless. It hides a trap that gives a fresh agent a hallucination.

# %% [markdown] tags=["predict"]
# **Predict.** All 255 probabilities are equal. Every bin has a mirror image with the
# other sign, so the true mean is 0. We add the products from left to right, in float32.
# Will the sum be exactly 0, off by something like $10^{-7}$, or off by an amount that
# you would notice?
#
# <details><summary>Answer</summary>
#
# By an amount that you would notice: 0.625. After the negative bins, the sum is at -13
# million, and there float32 numbers are a whole 1 apart. The small bins around 0 come
# just then, and they are rounded away. The large bins that follow cannot bring them
# back.
#
# </details>

# %%
upper = np.expm1(np.linspace(0, 20, 128))  # in float64, then rounded once
bins32 = np.concatenate([-upper[:0:-1], upper]).astype(np.float32)
products = bins32 * np.float32(1 / 255)

total = np.float32(0)
lowest = total
for product in products:
    total = total + product
    lowest = min(lowest, total)
print("left to right:", total)
print(f"lowest partial sum: {lowest:.3g}")
print("distance of neighbouring numbers there:", np.spacing(np.abs(lowest)))
compare("NumPy's sum", products.sum(), 0.0, expect="different")

# %% [markdown]
# A network that has learnt nothing sees a reward of 0.625 in every step. NumPy adds in
# another order and makes another error.
#
# Does it matter? From notebook 07 on, an agent adds up rewards over about 333 steps. So
# it would believe in a return of 208. In our Mario, dying costs 2.
#
# > **The paper says** (Methods, "Distributions"): the order of the sum matters; positive and
# > negative bins are summed separately, from small to large, and then added.
#
# We go one step further, at no cost. We pair each positive bin with its mirror image,
# and subtract their *probabilities* before we multiply or add anything. Then equal
# probabilities cancel exactly.

# %%
paired = ((1 / 255 - np.full(127, 1 / 255)) * bins32[128:]).sum()
print("in pairs     :", paired)
spaced = torch.linspace(-20, 20, 255, dtype=torch.float32)
print(
    "linspace mirrors to within 1e-5:",
    (spaced + spaced.flip(0)).abs().max().item() < 1e-5,
)

# %% [markdown]
# This only works if each negative bin is the exact mirror image of its partner.
# `linspace` promises that only up to rounding, so we build one half of the bins and
# mirror it.
#
# Equal probabilities must also survive training: where two mirrored bins receive equal
# gradients, their probabilities should stay equal. Whether they do depends on the layer
# in front of the bins. Notebook 04 builds one.
#
# ## The module
#
# Here is everything together. Two things are new. The loss needs only two
# log-probabilities per number, so it gathers those two and never builds the 255-wide
# target. And the target is detached: the loss trains the prediction, never the number
# that is to be predicted. That matters in notebook 08, where the target itself comes
# out of networks.

# %% tags=["hide-input"]
#| export
"""Numbers predicted as a distribution over exponentially spaced bins.

Built in notebook 02. Source: DreamerV3, section "Robust predictions", equations 10, 11.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_lite.symlog import symexp


# %%
#| export
class TwoHot(nn.Module):
    """Encode numbers as two-hot vectors, score logits against them, read them out.

    Args:
        bins: number of bins, odd, so that one bin is exactly 0.
        low, high: the range in symlog space; symmetric, so that the bins mirror.
    Raises: ValueError where the bins could not mirror around 0.
    Source: DreamerV3, equations 10 and 11 (symexp two-hot).
    """

    def __init__(self, bins: int = 255, low: float = -20.0, high: float = 20.0):
        super().__init__()
        if bins < 3 or bins % 2 == 0 or low != -high or high <= 0:
            raise ValueError(
                f"TwoHot expects an odd number of bins, at least 3, and low = -high, "
                f"but got bins={bins}, low={low}, high={high}; choose a range that "
                "mirrors around 0, so that equal probabilities mean exactly 0."
            )
        # One half is computed and mirrored: the bins are antisymmetric to the bit.
        half = symexp(torch.linspace(low, 0.0, bins // 2 + 1))
        mirrored = torch.cat([half, -half[:-1].flip(0)])
        self.register_buffer("bins", mirrored, persistent=False)

    def _neighbours(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower bin's index [...] and the weight of the upper one [...]."""
        y = torch.clamp(y.detach().float(), self.bins[0], self.bins[-1])
        below = torch.searchsorted(self.bins, y.contiguous(), right=True) - 1
        below = below.clamp(0, len(self.bins) - 2)
        lower, upper = self.bins[below], self.bins[below + 1]
        return below, (y - lower) / (upper - lower)

    def encode(self, y: Tensor | float) -> Tensor:
        """Two-hot targets: [...] -> [..., bins], at most two weights, their sum 1.

        The weights are the ones whose weighted bins give back `y`; a number beyond the
        last bin becomes that bin.
        """
        below, weight = self._neighbours(torch.as_tensor(y))
        lower = F.one_hot(below, len(self.bins)) * (1 - weight)[..., None]
        upper = F.one_hot(below + 1, len(self.bins)) * weight[..., None]
        return lower + upper

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross entropy in nats: logits [..., bins], numbers y [...] -> [...].

        Only two log-probabilities enter, so two are gathered and the dense target is
        never built. No gradient flows into `y`.
        """
        if logits.shape[:-1] != y.shape or logits.shape[-1] != len(self.bins):
            raise ValueError(
                f"TwoHot.loss expects logits of shape [..., {len(self.bins)}] with the "
                f"targets' shape in front, but got logits {tuple(logits.shape)} and "
                f"targets {tuple(y.shape)}; drop or add the missing dimension."
            )
        below, weight = self._neighbours(y)
        log_probs = torch.log_softmax(logits.float(), -1)
        pair = torch.stack([below, below + 1], -1)
        lower, upper = log_probs.gather(-1, pair).unbind(-1)
        return -(lower * (1 - weight) + upper * weight)

    def mean(self, logits: Tensor) -> Tensor:
        """Expected number: logits [..., bins] -> [...].

        Mirrored bins are paired before anything is summed: equal probabilities cancel
        to exactly 0, where a plain float32 sum leaves 0.6 or -1.
        """
        probs = torch.softmax(logits.float(), -1)
        half = len(self.bins) // 2
        positive, negative = probs[..., half + 1 :], probs[..., :half].flip(-1)
        return ((positive - negative) * self.bins[half + 1 :]).sum(-1)


# %% [markdown]
# ## Check it
#
# We compare with the loops and with the hand calculation. Then come the two promises:
# exactly 0 for equal probabilities, and no gradient into the target.

# %%
toy_head = TwoHot(bins=5, low=-2.0, high=2.0)
compare("toy bins", toy_head.bins, toy_bins)
compare("two-hot of 1 by hand", toy_head.encode(1.0)[3], 1 / (math.e - 1))

head = TwoHot()
generator = torch.Generator().manual_seed(0)
numbers = symexp(torch.empty(500).uniform_(-9, 9, generator=generator))
logits = torch.randn(500, 255, generator=generator)
encoded = head.encode(numbers)
compare("encode and the loop", encoded, two_hot_slow(numbers, head.bins), 1e-5)
dense = -(encoded * torch.log_softmax(logits, -1)).sum(-1)
compare("gathered and dense loss", head.loss(logits, numbers), dense, 1e-4)
compare("bins mirror", head.bins, -head.bins.flip(0), tolerance=0)
compare("uniform mean", head.mean(torch.zeros(255)), 0.0, tolerance=0)

target = torch.tensor([3.0], requires_grad=True)
head.loss(logits[:1].requires_grad_(), target).sum().backward()
claim("no gradient reaches the target", target.grad is None)

# %% [markdown] tags=["aside"]
# ### Aside: the form of the first version
#
# The first version of the paper (arXiv v1), and [PyTorch
# ports](https://github.com/NM512/dreamerv3-torch) that follow it, spaced the bins
# *equally in symlog space*. They took the mean there and applied symexp to it. The
# published form takes the mean of the numbers themselves.
#
# The old form is right when the outcome is certain. When it is random, it has the flaw
# that we met at the pit.

# %%
mixture = head.encode(returns).mean(0)  # what a perfect head predicts: [255]
old_bins = torch.linspace(-20, 20, 255)
old_mixture = two_hot_slow(symlog(returns), old_bins).mean(0)
print(f"true value: {returns.mean().item():.0f}")
print(f"old form  : {symexp((old_mixture * old_bins).sum()).item():.1f}")
print(f"new form  : {(mixture * head.bins).sum().item():.0f}")


# %% [markdown]
# Move the chance of reaching the flag, and what it pays. The bars are what a perfect
# head would predict, and the lines are the two numbers that are read out of it.

# %% tags=["hide-input"]
def draw_read_out(chance, flag):
    """Draw the perfect prediction for flag or pit, and both ways to read it out."""
    outcomes, chances = torch.tensor([flag, 0.0]), torch.tensor([chance, 1 - chance])
    probs = chances @ head.encode(outcomes)
    new = (probs * head.bins).sum()
    old = symexp((chances * symlog(outcomes)).sum())
    fig, ax = plt.subplots(figsize=(7.0, 3.0))
    ax.bar(symlog(head.bins), probs, 0.13, color=COLORS["ours"], label="probability")
    ax.axvline(symlog(new), **line("target"), label=f"new form: {new:.3g}")
    ax.axvline(symlog(old), **line("naive"), label=f"old form: {old:.1f}")
    ticks = [0, 1, 10, 100, 1000]
    ax.set_xticks([symlog(t).item() for t in ticks], ticks)
    ax.set(
        xlim=(-0.5, 7.4),
        ylim=(0, 1),
        xlabel="return [points]",
        ylabel="probability [1]",
    )
    ax.legend(loc="upper center")
    return fig


_ = explore(
    draw_read_out,
    alt=lambda chance, flag: (
        f"{flag:g} points with the chance {chance:g}: the new form reads "
        f"{chance * flag:.3g}, the old one "
        f"{symexp(chance * symlog(flag)).item():.1f}."
    ),
    chance=Slider(0.0, 1.0, 0.05, value=0.3, label="chance of the flag"),
    flag=Slider(1.0, 1000.0, 1.0, value=1000.0, label="points for the flag"),
)

# %% [markdown]
# ## The real experiment: flag or pit, three sizes, four heads
#
# Now the same with learning. The input is the chance $x$ of reaching the flag, between
# 0 and 1. The return is the flag's points with probability $x$ and otherwise 0, drawn
# anew for every sample.
#
# Can the two-hot head learn a value from returns that contradict each other? In its loss,
# the target appears only as a factor in front of the logarithms. So the mean loss over
# many targets is the loss for the *mean of the targets*, and the best prediction is that mean: for $x =
# 0.3$ it has the weight 0.3 around the flag's points, and 0.7 on 0. Every two-hot vector
# gives its number back as the mean of the bins, so the mean of the vectors gives back the
# mean of the numbers. This is what squared errors after symlog could not do.
#
# Four heads compete, with everything else equal: squared error, squared error after
# symlog, a Normal, and two-hot. The flag pays 1, 1,000 or 1,000,000. That makes twelve
# short trainings.
#
# The loss of the Normal, which the code below uses: the network gives a mean $m$ and a
# width $s$ (as $\ln s$, so that $s$ is positive). The Normal's density at the return
# $y$ is $\frac{1}{s\sqrt{2\pi}}\, e^{-(y-m)^2/(2s^2)}$. What really came should have a
# high density, so the loss is its negative logarithm: $\frac{(y-m)^2}{2s^2} + \ln s$,
# and a constant that we leave out. Its derivative with respect to $m$ is $(m-y)/s^2$.

# %%
HEADS = {"squared": 1, "symlog": 1, "Normal": 2, "two-hot": 255}


def head_loss(kind, output, y):
    """Loss of one kind of head: output [N, ...], returns y [N]."""
    if kind == "squared":
        return ((output[:, 0] - y) ** 2).mean()
    if kind == "symlog":
        return ((output[:, 0] - symlog(y)) ** 2).mean()
    if kind == "two-hot":
        return head.loss(output, y).mean()
    mean, log_width = output.unbind(-1)
    return (0.5 * ((y - mean) * torch.exp(-log_width)) ** 2 + log_width).mean()


def read_out(kind, output):
    """The value that a head predicts: output [N, ...] -> [N]."""
    if kind == "two-hot":
        return head.mean(output)
    return symexp(output[:, 0]) if kind == "symlog" else output[:, 0]


# %% [markdown]
# All outputs start at 0, as they do in DreamerV3 for rewards and values. The network is
# the one of notebook 01. Its code is folded, and so is that of the game.

# %% tags=["hide-input"]
def new_network(kind):
    """A small network with one kind of head; all its outputs are 0 at first."""
    torch.manual_seed(0)
    layers = [nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()]
    network = nn.Sequential(*layers, nn.Linear(64, HEADS[kind]))
    nn.init.zeros_(network[-1].weight)
    nn.init.zeros_(network[-1].bias)
    return network


def play(flag, count, generator):
    """Chances x [count], evenly drawn, and what came of them: returns y [count]."""
    x = torch.rand(count, generator=generator)
    return x, flag * (torch.rand(count, generator=generator) < x).float()


# %%
def train(kind, flag, steps=1000, batch=128, lr=3e-3):
    """Train one head on a game that pays `flag` points with probability x."""
    network = new_network(kind)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        x, y = play(flag, batch, generator)
        loss = head_loss(kind, network(x[:, None]), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return network


# %%
games = [1.0, 1_000.0, 1_000_000.0]
trained = {(kind, flag): train(kind, flag) for kind in HEADS for flag in games}

# %% [markdown] tags=["predict"]
# **Predict.** Sketch the error of the value, as a share of what the flag pays, over the
# three games. Which head's line stays flat and low? Which ones rise, and which of them
# gives up first?
#
# <details><summary>Answer</summary>
#
# Only two-hot stays low: for it, the three games are the same problem with other bins.
# The squared error is fine up to 1,000 and fails at a million.
#
# At 1,000, two more heads fail. Symlog reads out the wrong mean. For the Normal, we
# think that its width is to blame. The width grows early, and the gradient of the mean
# is divided by the square of the width, so it becomes small. Adam divides each gradient
# by its usual size and could make up for that. But the large gradients of the beginning
# still count in that usual size, so the mean hardly moves.
#
# </details>

# %%
chance = torch.linspace(0, 1, 21)
error = {}
with torch.no_grad():
    for (kind, flag), network in trained.items():
        value = read_out(kind, network(chance[:, None]))
        error[kind, flag] = ((value - flag * chance).abs().mean() / flag).item()

print("the value, to 10 % of what the flag pays:")
for kind in HEADS:
    found = ["found" if error[kind, flag] < 0.1 else "missed" for flag in games]
    row = [f"{flag:>11,.0f} {word}" for flag, word in zip(games, found)]
    print(f"{kind:8}", *row)

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(6.8, 3.2))
looks = {"squared": "naive", "symlog": "neutral", "Normal": "random", "two-hot": "ours"}
for (kind, quantity), marker in zip(looks.items(), "xdso"):
    values = [error[kind, flag] for flag in games]
    ax.semilogx(games, values, marker=marker, **line(quantity), label=kind)
ax.set(xlabel="what the flag pays [points]", ylabel="error of the value / flag [1]")
ax.set(ylim=(0, 0.56))
ax.legend(loc="upper left")
show(
    fig,
    alt="Only the two-hot head has the same small error in games of all three sizes.",
)

claim(
    "two-hot: error below 8 % in all games",
    max(error["two-hot", f] for f in games) < 0.08,
)
claim("squared error: over 30 % at a million", error["squared", 1e6] > 0.3)
claim("Normal: over 30 % at a thousand", error["Normal", 1e3] > 0.3)
claim("symlog: over 20 % at a thousand", error["symlog", 1e3] > 0.2)

# %% [markdown]
# To be fair: in the game of 1 point, the squared error and the Normal have a *smaller*
# error than two-hot, and in the game of 1,000 the squared error still does. Where the
# scale is known, they can find the value well. Two-hot is the only one here that works in all
# three games.

# %% [markdown] tags=["predict"]
# **Predict.** And the outcomes? Take the 1-point game where the chance is one half.
# Sketch the probability that the two-hot head and the Normal give to each return
# between -1 and 2.
#
# <details><summary>Answer</summary>
#
# The two-hot head puts nearly everything on 0 and on the two bins around 1. The Normal
# is one wide bell around one half, with most of its probability on returns that never
# happen.
#
# </details>

# %% tags=["hide-input"]
with torch.no_grad():
    half = torch.tensor([[0.5]])
    probs = torch.softmax(trained["two-hot", 1.0](half)[0], -1)
    mean, log_width = trained["Normal", 1.0](half)[0]

normal = torch.distributions.Normal(mean, log_width.exp())
edges = torch.cat([head.bins[:1] - 1, (head.bins[1:] + head.bins[:-1]) / 2])
normal_probs = torch.cat([normal.cdf(edges), torch.ones(1)]).diff()

near = (head.bins > -1.3) & (head.bins < 2.3)
fig, ax = plt.subplots(figsize=(6.8, 3.0))
at = head.bins[near]
look = {"color": COLORS["random"], "hatch": "//", "label": "Normal"}
ax.bar(at, normal_probs[near], 0.14, **look)
ax.bar(at, probs[near], 0.06, color=COLORS["ours"], label="two-hot")
for outcome in (0.0, 1.0):
    ax.axvline(outcome, **line("target"))
ax.set(xlabel="return; the lines are what happens [points]", ylabel="probability [1]")
ax.legend(loc="upper left")
show(
    fig,
    alt="Two-hot puts its weight on 0 and beside 1, the Normal around and between.",
)

possible = head.encode(torch.tensor([0.0, 1.0])).sum(0) > 0
claim(
    "two-hot: over 99 % of its belief is on the two outcomes",
    probs[possible].sum() > 0.99,
)
claim(
    "Normal: less than half of its belief is there", normal_probs[possible].sum() < 0.5
)


# %% [markdown]
# The Normal's bell seems to lean to the right only because the bins get wider there,
# and so collect more.
#
# So the two-hot head does what we asked for at the beginning. It finds the mean at any
# size, and it knows what can happen.

# %% [markdown]
# ## Exercises
#
# ### Exercise 2.2: A value from nothing
#
# *medium, about 10 minutes, one planted bug*
#
# An agent with this read-out believes in returns before its first update, as in
# "Reading it out": equal probabilities do not give 0. Find out why, and mend it.

# %% tags=["exercise-2.2"]
def read_mean(probs, bins):
    """The mean of the bins under probabilities: [..., K], [K] -> [...]."""
    half = len(bins) // 2
    gains = probs[..., half + 1 :] * bins[half + 1 :]
    losses = probs[..., :half] * bins[:half]
    return gains.sum(-1) + losses.sum(-1)


# %%
check("2.2", read_mean)
# solution("2.2")

# %% [markdown]
# ### Exercise 2.3: Bug or floor?
#
# *medium, about 15 minutes*
#
# In a game, half of the rewards are 0 and half are 1. The reward loss has stopped at
# 0.34. Is the network as good as it can be?
#
# Write the function that answers such questions: the lowest loss that *any* prediction
# can reach if it does not know which of the given rewards comes next. Then call it in
# two ways. For a network that cannot tell the rewards apart, give it 0 and 1 together.
# For one that can, take the mean of its results for 0 alone and for 1 alone.
#
# <details><summary>Answer: bug or floor?</summary>
#
# Not knowing costs at least 1.03 nats. Knowing costs $(0 + 0.665) / 2 = 0.33$. With
# 0.34 the network tells the rewards apart almost perfectly. There is no bug.
#
# </details>

# %% tags=["exercise-2.3"]
def lowest_loss(rewards, head):
    """Lowest mean loss of one prediction for all rewards [N], equally likely: a number.

    ``head`` is a ``TwoHot``. The best prediction is the mean of the targets.
    """
    raise NotImplementedError("exercise 2.3")


# %%
check("2.3", lowest_loss)
# solution("2.3")

# %% [markdown]
# ## What breaks
#
# * **The last layer does not start at 0.** The bins reach 485 million, so a probability
#   of one in a million on the last bin is already worth 485 points. With PyTorch's
#   usual initialisation, the first prediction is far beyond 1,000. Weights *and* bias
#   must be 0.
# * **The two weights are swapped.** The loss falls to the same floor, because the
#   swapped target has the same entropy. Only the read-out is wrong: 1 becomes 1.075.
#   Always test the round trip, encode then mean.
# * **The floor is taken for a bug**, or a bug for the floor. Compare the loss with the
#   entropy of the targets, not with 0.
# * **A plain sum in the read-out.** It shows as a value that is not 0 in the very first
#   step of training.

# %%
print("one in a million on the last bin:", round(1e-6 * head.bins[-1].item()))
torch.manual_seed(0)
usual = nn.Linear(64, 255)
first = head.mean(usual(torch.randn(100, 64))).abs().median()
claim("usual initialisation: the first prediction is beyond 1,000", first > 1000)

swapped = head.encode(1.0)
pair = swapped.nonzero()[:, 0]  # the two bins that carry weight
swapped[pair] = swapped[pair].flip(0)
print(f"1 read back with swapped weights: {(swapped * head.bins).sum().item():.3f}")

# %% [markdown]
# ## What we built
#
# `TwoHot`, with four members: `bins`, `encode`, `loss` and `mean`. The reward head
# (notebook 06) and the critic (notebook 08) are each a small network with 255 outputs
# and one `TwoHot`.
#
# Next, in **03_replay**: where the experience comes from, and which action belongs to
# which frame.

# %%
what_we_built("02_two_hot")
