# %% [markdown]
# # 05 The RSSM: a memory that knows, a latent that guesses
#
# **How can a model have a memory and be unsure at the same time?**
#
# Notebook 04 turns one frame into one embedding. A frame does not say where Mario is
# going, whether he holds the jump button, or what lies beyond the right edge. The world
# model needs a state that remembers the past, and that can say "I do not know yet"
# about the future. The **recurrent state-space model** has both: a memory $h$ that is
# computed, and a latent $z$ that is drawn from a distribution.
#
# At the end we let a trained model watch Mario play and read, frame by frame, how much
# it was surprised.
#
# *You need:* notebooks 03 (rows, resets) and 04 (`MLP`, `BlockLinear`); a rough idea of
# what a recurrent network is.
#
# *Measured: 0.2 minutes on two CPU cores, 0.7 GB memory, no GPU.*

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
import torch

from course import COLORS, Slider, check, claim, compare, data_path
from course import dreamer_map, explore, frames_grid, hint, line, rssm_cell
from course import show
from course import solution, use_style, what_we_built
from course.train_world_model import hold_out, load_world_model
from dreamer_lite.replay import Replay

use_style()
show(*dreamer_map("rssm"))

# %% [markdown]
# This is where we are going. A trained model watches rows that it has never seen. In every
# row its guess is compared with what it then believes after looking. How far the two differ
# is measured by the **KL**, and that is the model's surprise. Below are the four frames of one stream that surprised it most. (The very first
# row is left out: nothing led to it, so any frame is a surprise.)

# %%
replay = Replay.load(data_path("mario_episodes.npz"))
world = load_world_model()
unseen = {key: torch.as_tensor(value) for key, value in hold_out(replay).items()}
torch.manual_seed(0)
with torch.no_grad():
    _, posterior, prior = world.observe(unseen)
surprise = (posterior.exp() * (posterior - prior)).sum((-1, -2))[1]  # built below
peaks = surprise[1:].topk(4).indices.sort().values + 1
rows_of_figure = [["KL"] * 4, list("ABCD")]
fig, axes = plt.subplot_mosaic(rows_of_figure, figsize=(8, 3.6), height_ratios=(1, 1.4))
axes["KL"].plot(range(1, len(surprise)), surprise[1:], **line("kl"), linewidth=1.2)
axes["KL"].set(xlabel="row t [1]", ylabel="KL [nats]")
axes["KL"].set_ylim(0, 1.3 * surprise[peaks].max())
for letter, t in zip("ABCD", peaks.tolist()):
    axes["KL"].annotate(letter, (t, surprise[t]), ha="center", va="bottom")
    axes[letter].imshow(unseen["obs"][1, t])
    axes[letter].set(title=f"{letter}, t = {t}", xticks=[], yticks=[])
    axes[letter].grid(False)
show(fig, alt="A trained model's surprise over time, and the frames of four peaks.")

# %% [markdown]
# And this is the machine that does it: one time step, drawn with the sizes that play Mario.
# (The model of the picture above is the same machine with a memory of 512 and inner layers
# of 96.) Every box will be built below.

# %% tags=["hide-input"]
show(*rssm_cell(embed_size=2048))

# %% [markdown]
# The first cell of the module holds its docstring and its imports.

# %%
#| default_exp rssm

# %%
#| export
"""The recurrent state-space model: a memory `h` that knows, a latent `z` that guesses.

Built in notebook 05. Source: DreamerV3, section "World model learning", equations 1, 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_lite.networks import MLP, BlockLinear, Linear, RMSNorm

# %% [markdown]
# ## A model that must be sure draws ghosts
#
# Here are two recorded moments, both the same number of steps after the start. In one
# Mario comes down from a long jump, in the other he has just begun his second one. A
# model that sees the start, but not the buttons that will be pressed, and must name *one*
# picture minimises its squared error with the mean of the two. (Dreamer's model is told the
# buttons. What it cannot know is what one frame does not show: what waits beyond the edge,
# when a block changes its colour.)

# %%
streams, rows = replay.data["reward"].shape
starts = np.argwhere(replay.data["is_first"])
starts = starts[starts[:, 1] + 8 < rows]
later = torch.from_numpy(np.stack([replay.data["obs"][s, t + 8] for s, t in starts]))
later = later / 255
difference = (later[:, None] - later[None]).square().sum((-1, -2, -3))
near = torch.where(difference < 25, difference, 0.0)  # the camera has not moved
a, b = divmod(near.argmax().item(), len(later))
ghost = (later[a] + later[b]) / 2

# %%
show(
    frames_grid(torch.stack([later[a], later[b], ghost]), ["one", "another", "mean"]),
    alt="Two frames with Mario in different places; their mean has two faint Marios.",
)


def mean_error(picture):
    """Squared error of one picture, averaged over the two that may come."""
    return sum((picture - later[i]).square().sum() for i in (a, b)) / 2


apart = (later[a] - later[b]).square().sum()
for name, picture in {"the mean": ghost, "one of the two": later[a]}.items():
    print(f"squared error of {name}: {mean_error(picture).item():.1f}")
compare("error of the mean", mean_error(ghost), apart / 4, tolerance=1e-3)
compare("error of a guess", mean_error(later[a]), apart / 2, tolerance=1e-3)


# %% [markdown]
# The mean has half the error of an honest guess, so a network that minimises squared
# errors must draw it: two half-transparent Marios, a picture that never occurs. A model
# that may *draw* from a distribution says "one of the two", and a guess can look like a real
# frame. It does not always: our latent will be 32 dice that are rolled independently, and
# where they disagree, a picture can still mix two futures.
#
# On the other hand, what has already happened is not random: Mario has passed the pipe. A
# model that drew that fact anew at every step would soon lose it. So the state gets two
# parts.
#
# > **[The paper](https://arxiv.org/abs/2301.04104) says** (equation 1): a sequence model
# > computes the recurrent state $h_t = f(h_{t-1}, z_{t-1}, a_{t-1})$; an encoder draws the
# > latent from $q(z_t \mid h_t, x_t)$; a dynamics predictor guesses it from the memory
# > alone, $\hat z_t \sim p(\hat z_t \mid h_t)$.
#
# We call $q$ the **posterior** (after seeing the frame $x_t$) and $p$ the **prior** (before
# seeing it). While the model watches, $z$ comes from the posterior. While it dreams, there
# is no frame, and $z$ comes from the prior. Memory and latent together are the model's
# state, and everything else reads them side by side. In the code, $h$ has $D$ numbers; $z$
# is made of one-hot vectors ("The guess: 32 dice" says why), for Mario 32 of them with 8
# entries each. Written in one row those are $S = 32 \cdot 8 = 256$ numbers, the *flat* $z$.

# %%
#| export
class State(NamedTuple):
    """Model state: `h` [..., D] deterministic, `z` [..., latents, classes] one-hot.

    Source: DreamerV3, equation 1.
    """

    h: Tensor
    z: Tensor

    @property
    def feature(self) -> Tensor:
        """What every head reads: h and flat z side by side, [..., D + S]."""
        return torch.cat([self.h, self.z.flatten(-2).to(self.h.dtype)], -1)

    def map(self, fn: Callable[[Tensor], Tensor]) -> "State":
        """Apply `fn` to both parts: detach, flatten, index, move to a device."""
        return State(fn(self.h), fn(self.z))


# %%
state = State(torch.zeros(16, 1024), torch.zeros(16, 32, 8))
print("feature:", list(state.feature.shape))


# %% [markdown]
# ## The memory: a GRU
#
# A gated recurrent unit mixes its old memory with a candidate for a new one. An
# *update* gate between 0 and 1 says how much of the new one enters, a *reset* gate how
# strongly the candidate comes out. From three raw numbers $r, c, u$, with the sigmoid
# $\sigma$:
#
# $$\tilde h = \tanh(\sigma(r) \cdot c), \qquad g = \sigma(u - 1), \qquad
# h_t = g \cdot \tilde h + (1 - g) \cdot h_{t-1}$$

# %%
def gru_mix(h, r, c, u):
    """The new memory from the old one and three raw numbers."""
    candidate = torch.tanh(torch.sigmoid(r) * c)
    update = torch.sigmoid(u - 1)
    return update * candidate + (1 - update) * h


# %% [markdown] tags=["predict"]
# **Predict.** Old memory $h_{t-1} = 1$, raw numbers $r = 0$, $c = 2$, $u = 0$. How much
# of the candidate enters, and what is the new memory?
#
# <details><summary>Answer</summary>
#
# $\tilde h = \tanh(0.5 \cdot 2) = 0.7616$. The gate is $\sigma(-1) = 0.2689$, because of
# the $-1$: at the start, when $u \approx 0$, the memory keeps 73 % in every step. So
# $h_t = 0.2689 \cdot 0.7616 + 0.7311 \cdot 1 = 0.9359$.
#
# </details>

# %%
zero = torch.tensor(0.0)
print(f"gate: {torch.sigmoid(zero - 1).item():.4f}")
print(f"new memory: {gru_mix(torch.tensor(1.0), zero, zero + 2, zero).item():.4f}")


# %% [markdown]
# The raw numbers come from a network that sees all three inputs. Memory, latent and
# action first go through a layer each, so that all three have the same width; side by
# side with the old memory itself they go through two more, `core` and `gates`, and the
# second returns the raw numbers. With dense layers that is Dreamer's GRU (in PyTorch's
# `nn.GRUCell` the reset gate scales only what the candidate takes from the old memory; here
# it scales all of it):

# %%
class PlainGRU(nn.Module):
    """A dense GRU cell: h_t = f(h_{t-1}, z_{t-1}, a_{t-1})."""

    def __init__(self, stoch, actions, deter, units):
        super().__init__()
        self.from_h = MLP(deter, units)
        self.from_z = MLP(stoch, units)
        self.from_a = MLP(actions, units)
        self.core = Linear(deter + 3 * units, deter)
        self.core_norm = RMSNorm(deter)
        self.gates = Linear(deter, 3 * deter)

    def forward(self, h, z, a):
        inputs = torch.cat([h, self.from_h(h), self.from_z(z), self.from_a(a)], -1)
        x = F.silu(self.core_norm(self.core(inputs)))
        return gru_mix(h, *self.gates(x).chunk(3, -1))


# %% [markdown]
# The last layer, `gates`, alone has $1024 \cdot 3072$, three million weights. Notebook
# 04 built the way out: `BlockLinear`. The memory is cut into 8 blocks; each block of
# the next layer sees *its own* slice of the memory, and *all* of what the three input
# layers return. So the blocks can talk to each other, but only through the narrow layer
# `from_h`.
#
# > **The paper says** (Methods, "Networks"): the recurrent model is a GRU with
# > block-diagonal weights of 8 blocks; its input is the previous latent, the action and
# > the recurrent state, each embedded linearly, so that blocks can mix.
#
# (In the authors' code, and in ours, norm and SiLU follow each of the three linear layers.)
#
# (In [the first version](https://github.com/danijar/dreamerv3/tree/8fa35f8) the memory was
# one dense GRU with LayerNorm on its gates, and a latent had 32 classes whatever the size
# of the model.)
#
# One more detail: a continuous action may lie outside $[-1, 1]$, since the policy
# samples from a normal distribution. Dividing it by its size puts it on the border, -1
# or 1; whatever lies inside, and so every one-hot action, stays unchanged. The divisor
# gets no gradient.

# %%
#| export
class SequenceModel(nn.Module):
    """Block GRU, the function f of equation 1: h_t = f(h_{t-1}, z_{t-1}, a_{t-1}).

    Args: stoch, width of flat z; action_size, A; deter, D; units, width of the inner
    layers; blocks, of the block-diagonal layers (1 gives the dense cell).
    Source: DreamerV3, equation 1 and Methods, "Networks".
    """

    def __init__(
        self,
        stoch: int,
        action_size: int,
        *,
        deter: int,
        units: int,
        blocks: int,
    ):
        super().__init__()
        self.action_size, self.deter, self.blocks = action_size, deter, blocks
        self.from_h = MLP(deter, units)
        self.from_z = MLP(stoch, units)
        self.from_a = MLP(action_size, units)
        self.core = BlockLinear(deter + 3 * units * blocks, deter, blocks)
        self.core_norm = RMSNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def embed_action(self, action: Tensor) -> Tensor:
        """Actions [..., A] -> [..., units]; an unbounded sample is capped at 1."""
        size = action.abs().clamp(min=1.0).detach()
        return self.from_a(action / size)

    def advance(self, state: State, action_part: Tensor) -> Tensor:
        """One step: state [B, ...] and `embed_action` of its action -> h_t [B, D]."""
        h = state.h.to(action_part.dtype)
        inputs = [self.from_h(h), self.from_z(state.z.flatten(-2)), action_part]
        shared = torch.cat(inputs, -1)[:, None].expand(-1, self.blocks, -1)
        own = h.unflatten(-1, (self.blocks, -1))  # each block sees its own slice of h
        x = self.core(torch.cat([own, shared], -1).flatten(-2))
        gates = self.gates(F.silu(self.core_norm(x)))
        gates = gates.unflatten(-1, (self.blocks, 3, -1))  # split inside each block
        reset, candidate, update = gates.unbind(-2)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)  # leans towards remembering
        return (update * candidate + (1 - update) * own).flatten(-2)


# %% [markdown]
# With one block the two must be the same function. We copy the weights and compare: they
# differ by less than a millionth. Then we count the weights of the two large layers, dense
# and in 8 blocks.

# %%
torch.manual_seed(0)
plain = PlainGRU(stoch=12, actions=5, deter=64, units=16)
block = SequenceModel(12, 5, deter=64, units=16, blocks=1)
weights = plain.state_dict()
for name in ("core.weight", "gates.weight"):
    weights[name] = weights[name].T[None]  # dense [out, in] -> blocks [1, in, out]
block.load_state_dict(weights)
h, z, a = torch.randn(9, 64), torch.randn(9, 3, 4), torch.rand(9, 5)
mine = block.advance(State(h, z), block.embed_action(a))
compare("one block and the plain GRU", mine, plain(h, z.flatten(1), a))


def weights_of(layer):
    """Number of weights of a layer."""
    return layer.weight.numel()


dense = PlainGRU(256, 5, deter=1024, units=128)
blocks = SequenceModel(256, 5, deter=1024, units=128, blocks=8)
print("dense:   ", weights_of(dense.core) + weights_of(dense.gates))
print("8 blocks:", weights_of(blocks.core) + weights_of(blocks.gates))


# %% [markdown]
# The gate's $-1$ decides how long a memory lasts before anything is learnt. We start
# from a random memory, feed zeros as latent and action, and watch how much of it is
# left.

# %%
def left_after(model, steps=20):
    """How much of the first memory is in the memory after each step (projection)."""
    start = torch.randn(64, model.deter)
    nothing, h, found = torch.zeros(64, 32, 8), start, [1.0]
    with torch.no_grad():
        quiet = model.embed_action(torch.zeros(64, 5))
        for _ in range(steps):
            h = model.advance(State(h, nothing), quiet)
            found.append(((h * start).sum() / start.square().sum()).item())
    return found


kept = left_after(blocks)
fig, axis = plt.subplots(figsize=(6.4, 2.8))
axis.plot(kept, color=COLORS["memory"], label="measured")
axis.plot([0.7311**t for t in range(21)], **line("threshold"), label="0.73 to the t")
axis.set(xlabel="step t [1]", ylabel="what is left [1]", xticks=range(0, 21, 5))
axis.legend()
show(fig, alt="An untrained memory fades by about a quarter in every step.")
claim("after five steps a tenth of it is left, or more", kept[5] > 0.1)


# %% [markdown]
# ## The guess: 32 dice
#
# The latent $z$ is 32 dice with 8 faces each (the number of faces grows with the model).
# A throw is a one-hot vector for each die. Dice can say "one of these two" without a
# mean in between, and 32 of them can name $8^{32}$ situations.
#
# A network gives 8 raw numbers per die, softmax makes probabilities. Then 1 % of the
# uniform distribution is mixed in.
#
# > **The paper says** ("World model learning"): the categoricals are mixtures of 1 %
# > uniform and 99 % network output, which prevents them from becoming deterministic and
# > keeps the KL loss well behaved.

# %%
#| export
def categorical_logits(raw: Tensor, unimix: float = 0.01) -> Tensor:
    """Log-probabilities in float32, mixed with 1 % of the uniform distribution.

    The mix keeps every probability above unimix / classes, so that no KL explodes.
    Args: raw network outputs [..., classes]. Source: DreamerV3, "World model learning".
    """
    probs = torch.softmax(raw.float(), -1).clamp_min(1e-37)  # unimix may be 0
    return torch.log((1 - unimix) * probs + unimix / raw.shape[-1])


# %% [markdown] tags=["predict"]
# **Predict.** A network is absolutely sure of face 0 of 8. What are the largest and the
# smallest probability after the mix?
#
# <details><summary>Answer</summary>
#
# $0.99 + 0.01/8 = 0.99125$ and $0.01/8 = 0.00125$.
#
# </details>

# %%
sure = torch.tensor([[1000.0, 0, 0, 0, 0, 0, 0, 0]])
print(categorical_logits(sure).exp())

# %% [markdown]
# ### A throw that a gradient can pass
#
# Throwing a die is a jump: nothing changes when a probability moves a little, until
# another face comes up. The gradient of the naive throw is missing altogether.

# %%
raw = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
naive = F.one_hot(categorical_logits(raw).exp().multinomial(1).squeeze(-1), 3)
print("naive throw needs a gradient:", naive.requires_grad)


# %% [markdown]
# > **The paper says**: gradients through the samples are estimated with
# > straight-through gradients.
#
# We say: forwards, use the one-hot $o$; backwards, pretend it was the probabilities $p$.
# The formula $o + p - \mathrm{sg}(p)$ does both, where $\mathrm{sg}$ stops the gradient.
#
# The throw itself is a race: every face draws a waiting time from an exponential
# distribution and divides it by its probability; the first to arrive wins. The winner
# has exactly the right distribution, and the waiting times of all steps can be drawn in
# one call before the loop over time (the *scan*) begins.

# %%
#| export
def sample_one_hot(logits: Tensor, noise: Tensor) -> Tensor:
    """Exact sample as a one-hot with a straight-through gradient, same shape.

    `noise` is exponential with rate 1 and of the logits' shape: the class whose noise
    divided by its probability is smallest wins. A whole scan can draw it at once.
    Source: DreamerV3, "World model learning"; the race is ours.
    """
    probs = logits.exp()
    winner = (logits - noise.log()).argmax(-1)
    one_hot = F.one_hot(winner, logits.shape[-1]).to(probs.dtype)
    return one_hot + (probs - probs.detach())


# %% [markdown]
# One die with four faces, thrown 100,000 times:

# %%
torch.manual_seed(0)
logits = categorical_logits(torch.tensor([2.0, 1.0, 0.0, -1.0])).expand(100_000, 4)
throws = sample_one_hot(logits, torch.empty_like(logits).exponential_())
frequency, probability = throws.mean(0), logits[0].exp()
fig, axis = plt.subplots(figsize=(5.6, 2.8))
faces = np.arange(4)
axis.bar(faces - 0.2, probability, 0.4, color=COLORS["prior"], label="probability")
axis.bar(
    faces + 0.2,
    frequency,
    0.4,
    color=COLORS["latent"],
    hatch="//",
    label="share of 100,000 throws",
)
axis.set(xlabel="face [1]", ylabel="probability [1]", xticks=faces)
axis.legend()
show(fig, alt="The faces come up as often as their probabilities say.")
claim(
    "frequencies and probabilities agree within 0.01",
    (frequency - probability).abs().max() < 0.01,
)

# %% [markdown]
# The gradient by hand: if a loss is $w \cdot z$, straight-through gives the gradient of
# $w \cdot p$, which for a softmax is $p_i (w_i - \sum_j p_j w_j)$, times 0.99 for the
# mixed one.

# %%
raw = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
worth = torch.tensor([1.0, 0.0, 3.0])
(sample_one_hot(categorical_logits(raw), torch.ones(3)) * worth).sum().backward()
p = torch.softmax(raw.detach(), -1)
compare("straight-through", raw.grad, 0.99 * p * (worth - (p * worth).sum()), 1e-6)


# %% [markdown]
# ## How far two guesses are apart
#
# The Kullback-Leibler divergence (**KL**) says how surprised the prior $p$ is by what
# the posterior $q$ knows, in nats, the unit of natural logarithms:
#
# $$\mathrm{KL}[q \,\|\, p] = \sum_{\text{dice}} \sum_{\text{faces } i} q_i \ln \frac{q_i}{p_i}$$

# %%
#| export
def kl_divergence(left: Tensor, right: Tensor) -> Tensor:
    """KL[left || right] in nats of log-probabilities [..., latents, classes] -> [...].

    Summed over classes and over latents. Source: DreamerV3, equation 3.
    """
    return (left.exp() * (left - right)).sum((-1, -2))


# %% [markdown] tags=["predict"]
# **Predict.** One die with two faces. The posterior says $(0.9, 0.1)$, the prior
# $(0.5, 0.5)$. What is the KL? And what the other way round?
#
# <details><summary>Answer</summary>
#
# $0.9 \ln 1.8 + 0.1 \ln 0.2 = 0.529 - 0.161 = 0.368$ nats. The other way round
# $0.5 \ln \frac{0.5}{0.9} + 0.5 \ln \frac{0.5}{0.1} = 0.511$: it is not symmetric.
#
# </details>

# %%
q, p = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
print(f"{kl_divergence(q, p).item():.3f} {kl_divergence(p, q).item():.3f}")

# %% [markdown]
# Without the 1 % a prior that is sure and wrong would pay infinitely much. With it there
# is a largest possible KL: all 32 dice sure, all of them wrong. A larger number in your
# logs means that the mix is missing.

# %%
for classes in (4, 8, 16):
    raw = torch.zeros(2, 32, classes)
    raw[0, :, 0], raw[1, :, 1] = 1000.0, 1000.0
    worst = kl_divergence(*categorical_logits(raw))
    print(f"{classes:2} faces: at most {worst.item():.0f} nats")


# %% [markdown]
# ## The RSSM
#
# You have met all the parts: a memory that takes one step (`advance`), a guess before
# looking (the prior), a better guess after looking (the posterior), and a die that a gradient
# can pass (`sample_one_hot`). Now they are put together. There are two ways to walk through
# time with them.
#
# `observe` walks along a stored window. In every row it takes one step with the memory, looks
# at the frame, and draws $z$ from the posterior. `imagine` walks on alone: there is no
# frame, so $z$ comes from the prior, and a policy says which action comes next.
#
# Be careful at the borders of episodes. A window from the replay may contain the end of one
# episode and the start of the next. On a first row three things are set to zero *before* the
# step: memory, latent, and previous action. (Zero, not the one-hot of action 0. Version 1 of
# the paper learnt an initial state; zeros turned out to do.)
#
# ## Build it yourself

# %% [markdown]
# ### Exercise 5.0: Write observe and imagine
#
# *hard, about 60 minutes, 17 lines to write, 3 hints*
#
# These two loops are the heart of the world model. Write them before you look at ours. The
# model that the check hands to you has all the parts:
#
# | part | what it does |
# |---|---|
# | `model.initial(B)` | the state before anything was seen: zeros |
# | `model.embed_action(a)` | actions [B, A] as the memory wants them |
# | `model.advance(state, embedded)` | one step of the memory: h [B, D] |
# | `model.prior(h)` | logits of the guess before looking |
# | `posterior_of(model, h, embed)` | logits after looking; given below |
# | `sample_one_hot(logits, noise)` | a throw of all dice |
#
# The check goes through shapes, resets, the dream, and our own version, which agrees with the
# authors' code; at the end it compares gradients. As always, `hint("5.0", 1)` helps, and
# the notebook continues with our version below.

# %% tags=["exercise-5.0"]
def posterior_of(model, h, embed):
    """What z should be after looking: memory [B, D] and embedding [B, E] -> logits."""
    return model._logits(
        model.posterior_out(model.posterior_in(torch.cat([h, embed], -1)))
    )


def my_observe(model, embed, prev_action, is_first, noise):
    """Filter a window of experience.

    Args:
        embed [B, T, E]; prev_action [B, T, A], the action that led to each row;
        is_first [B, T], rows that begin an episode; noise [T, B, latents, classes],
        which `sample_one_hot` takes.
    Returns: h [B, T, D] and z [B, T, latents, classes] of every row, and the
        posterior's and the prior's logits [B, T, latents, classes].
    """
    raise NotImplementedError("exercise 5.0")


def my_imagine(model, state, policy, noise):
    """Dream on from a state, without seeing anything.

    Args:
        state, a `State` of B dreams; policy, a callable State -> actions [B, A];
        noise [H, B, latents, classes].
    Returns: h [B, H+1, D] and z [B, H+1, latents, classes], the first being `state`,
        and the actions [B, H, A].
    """
    raise NotImplementedError("exercise 5.0")


# %%
check("5.0", posterior_of, my_observe, my_imagine)


# %%
# hint("5.0", 1)
# solution("5.0")

# %% [markdown]
# ## Our version
#
# Ours does the same, a little faster. Two things deserve a second look.
#
# * **The embedding's half.** The posterior reads memory and embedding side by side. A
#   linear layer on two parts is a sum of two linear layers, and the embedding's part
#   needs no memory. So it is computed for all rows in one product before the loop.
# * **Noise** is drawn once for all steps.
#
# What each loop does in one row is a method of its own, `_observe_step` and
# `_imagine_step`, so that torch can compile it (`speed.py`). The last method, `kl_loss`, is
# explained below, in "One number, two gradients".

# %% tags=["hide-input"]
#| export
class RSSM(SequenceModel):
    """Sequence model, prior and posterior.

    Args:
        embed_size: width of the encoder's embedding. action_size: A.
        deter: D, deterministic units. latents, classes: z is `latents` one-hots.
        units: width of every inner layer. blocks: of the block-diagonal layers.
        unimix: share of the uniform distribution in every categorical.
    Source: DreamerV3, equation 1 and Methods, "Networks".
    """

    def __init__(
        self,
        embed_size: int,
        action_size: int,
        *,
        deter: int,
        units: int,
        latents: int,
        classes: int,
        blocks: int,
        unimix: float,
    ):
        stoch = latents * classes
        super().__init__(stoch, action_size, deter=deter, units=units, blocks=blocks)
        self.latents, self.classes, self.unimix = latents, classes, unimix
        self.prior_head = MLP(deter, units, 2, stoch)
        self.posterior_in = Linear(deter + embed_size, units)
        outputs = RMSNorm(units), nn.SiLU(), Linear(units, stoch)
        self.posterior_out = nn.Sequential(*outputs)

    @property
    def feature_size(self) -> int:
        """Width of `State.feature`: D + latents * classes."""
        return self.deter + self.latents * self.classes

    def initial(self, batch: int) -> State:
        """The state before anything was seen: zeros, z included (not a one-hot)."""
        zeros = self.gates.bias.new_zeros
        return State(zeros(batch, self.deter), zeros(batch, self.latents, self.classes))

    def _logits(self, raw: Tensor) -> Tensor:
        """Raw outputs [..., S] -> log-probabilities [..., latents, classes]."""
        raw = raw.unflatten(-1, (self.latents, self.classes))
        return categorical_logits(raw, self.unimix)

    def prior(self, h: Tensor) -> Tensor:
        """What z should be, judged from the memory alone: h [..., D] -> logits."""
        return self._logits(self.prior_head(h))

    def _noise(self, like: Tensor, *lead: int) -> Tensor:
        """Exponential noise [*lead, latents, classes], drawn at once for a scan."""
        shape = (*lead, self.latents, self.classes)
        return torch.empty(shape, device=like.device).exponential_()

    def observe(
        self,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        state: State | None = None,
    ) -> tuple[State, Tensor, Tensor]:
        """Filter a window of experience.

        Args: embed [B, T, E]; prev_action [B, T, A], the action of the row before;
        is_first [B, T], where state and previous action are cleared; state, before the
        window (default: zeros).
        Returns: states (h, z sampled from the posterior) [B, T, ...], posterior and
        prior log-probabilities [B, T, latents, classes]. Source: DreamerV3, equation 1.
        """
        batch, length = embed.shape[:2]
        state = self.initial(batch) if state is None else state
        keep = (~is_first.bool()).to(embed.dtype)[..., None]
        action_part = self.embed_action(prev_action * keep)
        # The observation's half of the posterior needs no memory: one product for all.
        weight_h, weight_e = self.posterior_in.weight.tensor_split([self.deter], 1)
        seen = F.linear(embed, weight_e, self.posterior_in.bias)
        weight_h = weight_h.to(seen.dtype)  # cast once, not in every step
        noise = self._noise(embed, length, batch)
        states, posteriors = [], []
        for row in zip(keep.unbind(1), action_part.unbind(1), seen.unbind(1), noise):
            state, posterior = self._observe_step(state, weight_h, row)
            states.append(state), posteriors.append(posterior)
        states = State(*(torch.stack(part, 1) for part in zip(*states)))
        return states, torch.stack(posteriors, 1), self.prior(states.h)

    def _observe_step(
        self, state: State, weight_h: Tensor, row: tuple[Tensor, ...]
    ) -> tuple[State, Tensor]:
        """One row of `observe`: the state after it, and its posterior."""
        keep, action_part, seen, noise = row
        state = State(state.h * keep, state.z * keep[..., None])
        h = self.advance(state, action_part)
        posterior = self._logits(self.posterior_out(F.linear(h, weight_h) + seen))
        return State(h, sample_one_hot(posterior, noise)), posterior

    def imagine(
        self, state: State, policy: Callable[[State], Tensor] | Tensor, horizon: int
    ) -> tuple[State, Tensor]:
        """Dream: roll the prior forward from `state` [B, ...] for `horizon` steps.

        Args: policy, a callable State -> actions [B, A], or actions [B, H, A].
        Returns: states [B, H+1, ...] (the first is `state`), actions [B, H, A].
        Source: DreamerV3, section "Critic learning".
        """
        noise = self._noise(state.h, horizon, len(state.h))
        states, actions = [state], []
        for t in range(horizon):
            action = policy(state) if callable(policy) else policy[:, t]
            state = self._imagine_step(state, action, noise[t])
            states.append(state), actions.append(action)
        states[0] = states[0]._replace(h=states[0].h.to(state.h.dtype))
        states = State(*(torch.stack(part, 1) for part in zip(*states)))
        return states, torch.stack(actions, 1)

    def _imagine_step(self, state: State, action: Tensor, noise: Tensor) -> State:
        """One step of `imagine`: the state that the model expects next."""
        h = self.advance(state, self.embed_action(action))
        return State(h, sample_one_hot(self.prior(h), noise))

    @staticmethod
    def kl_loss(
        posterior: Tensor, prior: Tensor, free_nats: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Dynamics and representation loss, two [B, T] in nats, clipped per element.

        One number, two gradients: `dyn` trains the prior to foresee the posterior,
        `rep` trains the posterior to stay foreseeable. The sum over all latents is
        clipped from below, not each latent. Source: DreamerV3, equation 3.
        """
        dyn = kl_divergence(posterior.detach(), prior)
        rep = kl_divergence(posterior, prior.detach())
        return dyn.clamp(min=free_nats), rep.clamp(min=free_nats)


# %% [markdown]
# The first check: an episode that starts in the middle of a window must give the same as
# the same episode alone. Both runs get the same noise.

# %%
torch.manual_seed(0)
sizes = dict(deter=64, units=16, latents=4, classes=4, blocks=8, unimix=0.01)
small = RSSM(embed_size=10, action_size=5, **sizes)
embed, action = torch.randn(3, 12, 10), torch.randn(3, 12, 5)
first = torch.zeros(3, 12)
first[:, 7] = 1.0  # a new episode begins in row 7
noise = torch.empty(12, 3, 4, 4).exponential_()


def observed(rows, first):
    """Posterior of the given rows, with the noise that belongs to them."""
    small._noise = lambda like, *lead: noise[rows]
    posterior = small.observe(embed[:, rows], action[:, rows], first[:, rows])[1]
    del small._noise
    return posterior


whole, alone = slice(0, 12), slice(7, 12)
both = observed(whole, first)
compare("rows after a reset", both[:, 7:], observed(alone, first), 1e-5)
never = observed(whole, 0 * first)
compare("without the reset", never[:, 7:], observed(alone, first), expect="different")

# %% [markdown]
# The second check: what `observe` does in one go equals the textbook, step by step, with
# memory and embedding side by side.

# %%
state = small.initial(3)
for t in range(12):
    keep = 1 - first[:, t, None]
    state = State(state.h * keep, state.z * keep[..., None])
    h = small.advance(state, small.embed_action(action[:, t] * keep))
    hidden = small.posterior_in(torch.cat([h, embed[:, t]], -1))
    logits = small._logits(small.posterior_out(hidden))
    state = State(h, sample_one_hot(logits, noise[t]))
compare("the textbook's last row", both[:, -1], logits, 1e-4)

# %% [markdown]
# Third: dreaming starts from any state and needs no frame. A policy is anything that maps
# a state to actions, or a tensor of actions [B, H, A].

# %%
dream, actions = small.imagine(state, lambda s: torch.zeros(3, 5), horizon=15)
for name, part in {"h": dream.h, "z": dream.z, "actions": actions}.items():
    print(f"{name:8}", list(part.shape))
compare("it starts where it was told", dream.h[:, 0], state.h, tolerance=0)


# %% [markdown]
# ## What must be true before the first update
#
# At the start all weights are random. In the first row memory, latent and action are
# zero. The biases are still 0 and the norm has no shift, so all layers up to the prior
# turn zeros into zeros, and the prior is uniform. From the second row on its raw
# numbers have the variance 0.356, the mean square of a normed signal after SiLU
# (notebook 04), and so have the posterior's.

# %% [markdown] tags=["predict"]
# **Predict.** What is the entropy of the prior in the first row, for 32 dice with 8
# faces? And will the KL between two random heads be nearer to 1, 9 or 66 nats?
#
# <details><summary>Answer</summary>
#
# $32 \ln 8 = 66.5$ nats. For small logits the KL of one die is about half the variance, over
# its faces, of posterior logit minus prior logit. Each logit has variance 0.356, so their
# difference has $2 \cdot 0.356$; the variance is taken around the mean of 8 faces, hence
# $\frac78$. So $\frac12 \cdot 2 \cdot 0.356 \cdot \frac78 = 0.31$, times 32 about 10; a
# little less, since the mix and higher terms pull it down: 9.
#
# </details>

# %%
def entropy(logits):
    """Entropy in nats, summed over the dice: [..., latents, classes] -> [...]."""
    return -(logits.exp() * logits).sum((-1, -2))


torch.manual_seed(0)
sizes = dict(deter=1024, units=128, latents=32, classes=8, blocks=8, unimix=0.01)
model = RSSM(embed_size=1024, action_size=5, **sizes)
embed = F.silu(torch.randn(16, 32, 1024))  # what an encoder returns: SiLU of normed
action = F.one_hot(torch.randint(5, (16, 32)), 5).float()
first = torch.zeros(16, 32)
first[:, 0] = 1
with torch.no_grad():
    _, posterior, prior = model.observe(embed, action, first)
guess = categorical_logits(0.356**0.5 * torch.randn(2, 20_000, 32, 8))
by_hand = kl_divergence(*guess).mean()
measured = kl_divergence(posterior, prior)[:, 1:].mean()
print(
    f"entropy of the prior in the first row: {entropy(prior)[:, 0].mean().item():.1f}"
)
random_head = entropy(guess[0]).mean()
print(f"32 ln 8 = {32 * np.log(8):.1f}")
print(f"random heads: entropy {random_head.item():.0f}, KL of two {by_hand.item():.0f}")

# %%
print("from the second row on, compared with random heads:")
claim("the KL is within 25 % of theirs", abs(measured / by_hand - 1) < 0.25)
spread = entropy(prior)[:, 1:].mean() / random_head
claim("the prior's entropy is within 5 % of theirs", abs(spread - 1) < 0.05)

# %% [markdown]
# ## One number, two gradients
#
# The KL can shrink in two ways. The prior can learn to foresee (good), or the posterior
# can say less about the frame (bad, beyond a point).
#
# > **The paper says** (equation 3): the dynamics loss
# > $\mathcal L_\mathrm{dyn} = \max(1, \mathrm{KL}[\mathrm{sg}(q) \| p])$ trains the
# > prior towards the posterior; the representation loss
# > $\mathcal L_\mathrm{rep} = \max(1, \mathrm{KL}[q \| \mathrm{sg}(p)])$ trains the
# > posterior to be predictable. They are weighted 1 and 0.1. Clipping below 1 nat (*free
# > bits*) switches them off where they are already small.
#
# We say *free nats*, after the unit of our logs, and: the posterior is the teacher, the
# prior the student. The student comes to the teacher; the teacher leans a tenth as much
# towards the student. (Version 1 used 0.5 and 0.1.)

# %% [markdown] tags=["predict"]
# **Predict.** In one row the KL is 5 nats, in another 0.6. What do `dyn` and `rep` read in
# each, what do they add to the loss with their weights, and which parts get a gradient?
#
# <details><summary>Answer</summary>
#
# 5 and 5: stopping a gradient changes no value. With their weights they add
# $5 + 0.1 \cdot 5 = 5.5$; `dyn` moves only the prior, `rep` only the posterior. In the other
# row both are clipped to 1: they add 1.1, and neither part gets a gradient.
#
# </details>

# %%
posterior = torch.randn(2, 3, 4, 8, requires_grad=True)
prior = torch.randn(2, 3, 4, 8, requires_grad=True)
losses = RSSM.kl_loss(posterior.log_softmax(-1), prior.log_softmax(-1))
compare("dyn and rep", *losses, tolerance=0)
for name, loss in zip(("dyn", "rep"), losses):
    reached = torch.autograd.grad(loss.sum(), (posterior, prior), allow_unused=True)
    reached = [gradient is not None for gradient in reached]
    print(f"{name} reaches the posterior: {reached[0]}, the prior: {reached[1]}")


# %% [markdown]
# Move the sliders. There are 32 dice with two faces each, all alike; the posterior
# starts at 0.95 for face 0, the prior at 0.5; both follow the gradient of the KL loss
# only. Without free nats the teacher is dragged towards the student, and the further
# the larger `rep` is. With free nats both stop as soon as the KL is below them. Try 0
# free nats, `dyn` 0.1 and `rep` 1: now the teacher follows the student, and both end
# where neither knows much. (The cell below the picture checks that.)

# %%
def descend(free_nats, dyn, rep, updates=120, rate=0.02):
    """Let the KL loss alone move 32 equal dice; the paths of posterior and prior."""
    raw = torch.tensor([[2.944, 0.0], [0.0, 0.0]], requires_grad=True)
    path, kls = [], []
    for _ in range(updates):
        logits = raw.log_softmax(-1)[:, None].expand(2, 32, 2)
        path.append(logits[:, 0, 0].exp().tolist())
        kls.append(kl_divergence(*logits).item())
        losses = RSSM.kl_loss(*logits, free_nats)
        gradient = torch.autograd.grad(dyn * losses[0] + rep * losses[1], raw)[0]
        raw = (raw - rate * gradient).detach().requires_grad_()
    return np.array(path), np.array(kls)


# %% tags=["hide-input"]
def draw(free_nats, dyn, rep):
    path, kls = descend(free_nats, dyn, rep)
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.0))
    axes[0].plot(kls, **line("kl"), label="KL")
    axes[0].axhline(free_nats, **line("threshold"), label="free nats")
    axes[0].set(xlabel="update [1]", ylabel="KL of 32 dice [nats]", ylim=(-0.5, 17))
    axes[1].plot(path[:, 0], **line("posterior"), label="posterior")
    axes[1].plot(path[:, 1], **line("prior"), label="prior")
    axes[1].set(xlabel="update [1]", ylabel="probability of face 0 [1]", ylim=(0.45, 1))
    for axis in axes:
        axis.legend()
    return fig


explore(
    draw,
    alt=lambda free_nats, dyn, rep: (
        f"With {free_nats:g} free nats, dyn {dyn:g} and rep {rep:g}: the KL over the "
        "updates, and where prior and posterior meet."
    ),
    free_nats=Slider(0.0, 8.0, 0.5, value=1.0),
    dyn=Slider(0.0, 1.0, 0.1, value=1.0),
    rep=Slider(0.0, 1.0, 0.1, value=0.1),
)

# %%
held, dragged = descend(1.0, 1.0, 0.1)[0][-1, 0], descend(0.0, 0.1, 1.0)[0][-1, 0]
claim("with dyn 1 and rep 0.1 the teacher stays above 0.94", held > 0.94)
claim("with dyn 0.1 and rep 1 it ends below 0.65", dragged < 0.65)

# %% [markdown]
# ### Clipped once, not 32 times
#
# The clip belongs around the *sum* of the 32 dice. Suppose every die is off by 0.1 nats.

# %% [markdown] tags=["predict"]
# **Predict.** What does the loss read if the sum is clipped below at 1? And if every die
# is clipped at 1, and then summed? What gradient is left?
#
# <details><summary>Answer</summary>
#
# The sum is 3.2, above 1, so the clip does nothing and every die gets the gradient 1, 32 in
# all. Die by die each counts as 1: the loss reads 32, and no gradient is left.
#
# </details>

# %%
each = torch.full((32,), 0.1, requires_grad=True)
right, wrong = each.sum().clamp(min=1.0), each.clamp(min=1.0).sum()
for name, loss in {"clip the sum": right, "clip each die": wrong}.items():
    gradient = torch.autograd.grad(loss, each)[0].sum().item()
    print(f"{name}: loss {loss.item():.1f}, gradient {gradient:.0f}")

# %% [markdown]
# ## The real experiment: what surprises the model?
#
# Back to the trained model of the first picture (notebook 06 shows how it was trained;
# `data/README.md` says with which command), which watches rows that it has never seen.
# In every row prior and posterior are compared. We look for surprises from
# the second row on: in the first row of a window the prior knows nothing yet. To begin
# with, one thing must be true: after a reset the prior is unsure.

# %%
torch.manual_seed(0)
with torch.no_grad():
    _, posterior, prior = world.observe(unseen)
surprise = kl_divergence(posterior, prior)  # [streams, rows], in nats
unsure = entropy(prior)
begins = unseen["is_first"].bool()
claim(
    "after a reset the prior is half again as unsure as usual",
    unsure[begins].min() > 1.5 * unsure.median(),
)

# %% tags=["hide-input"]
stream = 1
times = surprise[stream, 1:].topk(6).indices.sort().values + 1
fig, axis = plt.subplots(figsize=(8, 2.8))
axis.plot(surprise[stream], **line("kl"), linewidth=1.2, label="KL")
axis.plot(unsure[stream], **line("prior"), linewidth=1.2, label="prior entropy")
knows = entropy(posterior)[stream]
axis.plot(knows, **line("posterior"), linewidth=1.2, label="posterior entropy")
bold = {"ha": "center", "va": "bottom", "weight": "bold", "color": COLORS["kl"]}
for letter, t in zip("PQRSTU", times.tolist()):
    axis.axvline(t, color=COLORS["kl"], alpha=0.25, linewidth=1, zorder=0)
    axis.annotate(letter, (t, -7.5), **bold)
axis.set(xlabel="row t [1]", ylabel="[nats]", ylim=(-8, None))
axis.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
show(
    fig,
    alt="The KL is low most of the time, with peaks; letters mark the six highest.",
)

# %% tags=["hide-input"]
before, now = unseen["obs"][stream, times - 1], unseen["obs"][stream, times]
labels = [f"before {x}" for x in "PQRSTU"] + list("PQRSTU")
show(
    frames_grid(torch.cat([before, now]), labels, columns=6),
    alt="The frame before each of the six peaks and the frame of the peak below it.",
)


# %% [markdown]
# (A to D of the first picture are P, Q, S and T here.) Look at the pairs. At P and Q a pipe
# comes into the picture at the right edge: the memory may know *that* it comes, but not at
# which step. At Q and S the question blocks change colour, at a rhythm of their own. R, T
# and U cannot be read off the pictures, and after U the KL stays high for nine more rows in
# which Mario only stands on the pipe, even where no block changes its colour: what
# surprises a model need not be visible. In most other rows Mario walks and jumps under
# buttons that the model knows, and the KL is low.
#
# The entropy of the prior tells another story: its peaks are the rows with an empty memory,
# row 0, where the window begins, and the two rows where a new episode begins. An empty
# memory says "it could be anywhere", for windows of the replay begin anywhere, and always
# with a reset. How large the KL is there depends on what comes. In row 0 it is a frame from
# the middle of a level, and the KL is the highest of the figure. At the two new episodes it
# is the start of the level, the commonest frame after a reset, and the KL stays below the
# six letters. So to be unsure and to be surprised are two things: in these three rows the
# prior is the same and equally unsure, yet the KL of row 0 is twice that of the other two.
#
# To test that the KL means surprise, we make one. The film is cut: forty rows of one
# stream, then forty of another, as if Mario had been teleported, and nobody tells the
# model (no `is_first` at the cut).

# %%
def cut_film(a, b, at=60, half=40):
    """Rows of stream a before `at`, then of stream b, without a reset between."""
    film = {
        key: torch.cat([value[[a], at - half : at], value[[b], at : at + half]], 1)
        for key, value in unseen.items()
    }
    film["is_first"][:, 0], film["is_first"][:, half] = True, False
    return film


cuts = []
torch.manual_seed(0)
with torch.no_grad():
    for a, b in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
        _, posterior, prior = world.observe(cut_film(a, b))
        cuts.append(kl_divergence(posterior, prior)[0])
cuts = torch.stack(cuts)

# %% tags=["hide-input"]
fig, axis = plt.subplots(figsize=(7.2, 2.8))
for film in cuts:
    axis.plot(np.arange(-39, 40), film[1:], color=COLORS["kl"], alpha=0.35, linewidth=1)
axis.plot(
    np.arange(-39, 40), cuts[:, 1:].mean(0), **line("kl"), label="mean of six films"
)
axis.axvline(0, **line("threshold"), label="cut")
axis.set(xlabel="rows after the cut [1]", ylabel="KL [nats]")
axis.legend()
show(
    fig,
    alt="The KL of all six films jumps at the cut and falls back within a few rows.",
)

# %%
at_cut, rest = cuts[:, 40], cuts[:, 1:].median()
claim(
    "in every film the cut costs more than four times the median",
    at_cut.min() > 4 * rest,
)
claim("the mean film has its peak at the cut", cuts[:, 1:].mean(0).argmax() == 39)
claim(
    "five rows later at least half of the surprise is gone",
    cuts[:, 45].mean() < at_cut.mean() / 2,
)


# %% [markdown]
# The last claim is the memory at work: with every look the posterior carries more of
# the new scene into $h$, and after a few rows the prior foresees it.

# %% [markdown]
# ## Exercises
#
# ### Exercise 5.1: No two beginnings are alike
#
# *easy, about 8 minutes, one planted bug*
#
# All episodes begin with the same frame. With this `step` the memory $h$ at that first frame
# still differs from episode to episode while the agent acts. The losses do not show it: in
# a window of the replay, whose last rows hold no action, all is well. Find the bug.

# %% tags=["exercise-5.1"]
def step(model, state, prev_action, is_first):
    """The next memory h [B, D]; a row whose is_first [B] is True forgets what was."""
    keep = 1.0 - is_first.float()
    state = State(state.h * keep[:, None], state.z * keep[:, None, None])
    action_part = model.embed_action(prev_action)
    return model.advance(state, action_part)


# %%
check("5.1", step)


# %%
# solution("5.1")

# %% [markdown]
# ### Exercise 5.2: A prior that hardly learns
#
# *medium, about 10 minutes, one planted bug*
#
# With this loss `dyn` in the log never reads below 32 for 32 dice, and the prior learns
# nothing about a die that is off by less than a whole nat. Find the bug.

# %% tags=["exercise-5.2"]
def kl_loss(posterior, prior, free_nats=1.0):
    """dyn and rep [B, T] of log-probabilities [B, T, latents, classes]."""
    fixed = posterior.detach()
    per_die = (fixed.exp() * (fixed - prior)).sum(-1)
    dyn = per_die.clamp(min=free_nats).sum(-1)
    target = prior.detach()
    per_die = (posterior.exp() * (posterior - target)).sum(-1)
    rep = per_die.sum(-1).clamp(min=free_nats)
    return dyn, rep


# %%
check("5.2", kl_loss)


# %%
# solution("5.2")

# %% [markdown]
# ### Exercise 5.3: Which die was surprised?
#
# *medium, about 10 minutes*
#
# The KL of the experiment was a sum over 32 dice. Find the one that was surprised most,
# and by how much.

# %% tags=["exercise-5.3"]
def most_surprised(posterior, prior):
    """The die [latents, classes] that surprises most: (its number, its KL in nats)."""
    raise NotImplementedError("exercise 5.3")


# %%
check("5.3", most_surprised)

# %%
# solution("5.3")

# %% [markdown]
# ## What breaks
#
# * **The previous action is not reset.** Memory and latent start at zero, but while the agent
#   acts, the action that it drew after the last frame still enters. In a window a last row
#   holds zeros, so our loss does not show it; acting suffers. ([TorchRL had
#   this](https://github.com/pytorch/rl/pull/4128).)
# * **Resets are missing** inside windows: a model that was trained with them is as surprised
#   at first rows as at our cut, by about a hundred nats. (Twenty at a first row are healthy,
#   as the figure with the letters shows: the prior starts from nothing.)
# * **The KL is clipped per die**: it never reads below 32, and a die that is off by less
#   than 1 nat teaches the prior nothing.
# * **No 1 % uniform**: single KL values above the bound of the mix (211 nats for 32 dice of
#   8 faces), and rare explosions.
# * **dyn and rep differ** in the logs: one of them is clipped differently, or has its
#   arguments swapped. A stop-gradient in the wrong place does *not* show in the
#   numbers; ask for the gradients, as in "One number, two gradients".
# * **`loss/dyn` sits at 1.0** (the KL itself is below) from early on while the pictures are
#   poor: the posterior says nothing. Look at the image loss first (notebook 04: summed, not
#   averaged).
#
# ## What we built
#
# `RSSM` with `observe` (watch) and `imagine` (dream), the block GRU `SequenceModel`, and
# the pieces that the actor will use again: `categorical_logits` and `sample_one_hot`.
# Notebook 06 puts encoder, RSSM and decoder together, adds heads for the reward and the
# end of the episode, and trains them.

# %%
what_we_built("05_rssm")
