# %% [markdown]
# # 05 The RSSM: a memory that knows, a latent that guesses
#
# **The question.** How can a model have a memory and be unsure at the same time?
#
# Notebook 04 turned one frame into one embedding. But one frame does not say where Mario is
# going, whether the jump button is still held, or what waits beyond the right edge. So the
# world model needs a state that remembers, and that can also say "I do not know yet".
#
# The **recurrent state-space model**, RSSM for short, has a part for each. The memory $h$ is
# computed, so it can keep what is certain. The *latent* $z$ says what is in the present
# frame. It is drawn at random from a distribution, and a distribution can be undecided.
#
# **At the end** you have built both, a trained model has watched Mario play, and you have
# read off how surprised it was.
#
# **You need** notebooks 03 (rows, resets) and 04 (`MLP`, `BlockLinear`).
#
# *Measured: 0.5 minutes on two CPU cores, 0.7 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
#| default_exp rssm
import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, Slider, check, claim, compare, data_path
from course import dreamer_map, explore, frames_grid, hint, line, progress, rssm_cell
from course import rssm_unrolled, show, solution, straight_through, use_style
from course import what_we_built, zoomed
from course.train_world_model import hold_out, load_world_model
from dreamer_lite.replay import Replay

use_style()
show(*dreamer_map("rssm"))

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
# Here is where we are going. Below, a trained model watches a recording of Mario that it has
# never seen. Before each frame it makes a guess; then it looks. The curve shows how far the
# guess was off, measured by the **KL**. You can read it as the model's surprise.
#
# Most of the time the model is hardly surprised at all. Then, suddenly, it is. The four
# letters mark the largest surprises, and the frames below show what the model saw
# there. Row 0 is left out: nothing led to it, so any frame is a surprise.

# %% tags=["hide-input"]
replay = Replay.load(data_path("mario_episodes.npz"))
world = load_world_model()
unseen = {key: torch.as_tensor(value) for key, value in hold_out(replay).items()}
torch.manual_seed(0)
with torch.no_grad():
    _, posterior, prior = world.observe(unseen)
stream = 1
surprise = (posterior.exp() * (posterior - prior)).sum((-1, -2))  # built below
peaks = surprise[stream, 1:].topk(4).indices.sort().values + 1
rows_of_figure = [["KL"] * 4, list("ABCD")]
fig, axes = plt.subplot_mosaic(rows_of_figure, figsize=(8, 3.6), height_ratios=(1, 1.4))
axes["KL"].plot(range(1, 160), surprise[stream, 1:], **line("kl"), linewidth=1.2)
axes["KL"].set(xlabel="row t [1]", ylabel="KL [nats]")
axes["KL"].set_ylim(0, 1.3 * surprise[stream, peaks].max())
for letter, t in zip("ABCD", peaks.tolist()):
    peak = (t, surprise[stream, t])
    axes["KL"].annotate(letter, peak, ha="center", va="bottom")
    axes[letter].imshow(unseen["obs"][stream, t])
    axes[letter].set(title=f"{letter}, t = {t}", xticks=[], yticks=[])
    axes[letter].grid(False)
where = ", ".join(map(str, peaks.tolist()))
show(fig, alt=f"A trained model's surprise over time, highest in the rows {where}.")

# %% [markdown]
# ## A model that must be sure draws ghosts
#
# Why should a latent be random, of all things? Let us first look at a model that is not
# allowed to guess.
#
# Here are two moments of the recording. The frames are the same to the eye, and during the
# next four steps the player presses the same buttons: run and jump. Yet the two futures
# differ.

# %%
pair, ahead = [(1, 1491), (1, 1517)], 4  # stream and row of two moments
now, later = (
    torch.stack([torch.from_numpy(replay.data["obs"][s, t + k]) for s, t in pair]) / 255
    for k in (0, ahead)
)
buttons = np.stack([replay.data["action"][s, t : t + ahead] for s, t in pair])
compare("the buttons", buttons[0], buttons[1], tolerance=0)
ghost = later.mean(0)

# %% tags=["hide-input"]
show(
    zoomed(
        torch.stack([now[0], now[1], *later, ghost]),
        ["one, now", "another, now", "one, later", "another, later", "the mean"],
        middle=(42, 31),
    ),
    alt="Two equal frames, then Mario beside a pipe or above it; the mean shows both.",
)

# %% [markdown]
# Look at the third and the fourth picture. In one future Mario is still beside the pipe, in
# the other he is in the air. Here the past holds the reason. A jump starts only if the
# button has been released since the last one, and in the first case the player had never
# let go of it. A memory could know that. But no memory knows everything, so some futures
# stay open.
#
# The last picture is the mean of both: two half-transparent Marios, a frame that the game
# never shows.
#
# A model that must name *one* picture, and pays for squared errors, will draw exactly this
# ghost. The numbers say why.

# %%
apart = (later[0] - later[1]).square().sum()
for name, picture in {"the ghost": ghost, "one of the two": later[0]}.items():
    error = (later - picture).square().sum() / 2
    print(f"{name}: squared error {error.item():.1f}")
ratio = (later - ghost).square().sum() / 2 / apart
compare("ghost's error / squared distance", ratio, 0.25)

# %% [markdown]
# Call the squared distance of the two futures $d$. The ghost lies half-way between them.
# Half of a distance, squared, is a quarter, so the ghost always pays $d / 4$. An honest
# guess pays nothing in one half of the cases and $d$ in the other, which makes $d / 2$ on
# average. So the ghost costs half as much, and squared error rewards it.
#
# That is not what we want. So we let the model *draw* from a distribution instead. It says
# "one of the two", and commits to it.
#
# That is only half of the story. What has already happened is not random: if Mario has
# passed the pipe, he has passed it. A model that re-sampled that fact at every step would
# soon lose it. So the state gets two parts.
#
# > **[The paper](https://arxiv.org/abs/2301.04104) says** (equation 1): a sequence model
# > computes the recurrent state $h_t = f(h_{t-1}, z_{t-1}, a_{t-1})$; an encoder draws the
# > latent from $q(z_t \mid h_t, x_t)$; a dynamics predictor guesses it from the memory
# > alone, $\hat z_t \sim p(\hat z_t \mid h_t)$.
#
# The distribution $q$ has seen the frame $x_t$; we call it the **posterior**. The
# distribution $p$ has not; we call it the **prior**. The picture shows six steps with them.
# Read it from left to right.

# %% tags=["hide-input"]
show(*rssm_unrolled())


# %% [markdown]
# While the model **watches**, it has both. It draws $z$ from the posterior, and the KL
# tells how far the prior was off. While it **dreams**, there is no frame. The posterior
# is gone, and $z$ comes from the prior.
#
# Why does the squared error not ask for a ghost again? Because while the model learns, $z$
# comes from the posterior, which has seen the frame. So $z$ says which of the two futures
# came, and the decoder can draw just that one. The guess of the prior is trained by another
# loss, the KL. It compares probabilities, not pictures, and for two equal chances the best
# answer is "half and half". A dream then draws one of the two.
#
# All that Dreamer predicts comes from *heads*, networks that read $h$ and $z$ side by
# side. In the code, $h$ has $D$ numbers, and $z$ is a list of one-hot vectors. For Mario
# there are 32 of them with 8 entries each, so the *flat* $z$ has $S = 32 \cdot 8 = 256$
# numbers.

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


# %% [markdown]
# ## The memory: a GRU
#
# We begin with the part that knows. It is a *recurrent* network: it is called once for every
# row, and gets back what it returned for the row before. In each step this memory must
# decide what to keep and what to write. A gated recurrent unit (GRU) does that with two
# *gates*, numbers between 0 and 1 that say how much of something passes. The *update* gate says
# how much new content enters, and the *reset* gate says how strong that content is. In spite
# of its name, the reset gate has nothing to do with the resets of episodes.
#
# A network returns three raw numbers for each number of the memory: $r$ for the reset gate,
# $c$ for the new content and $u$ for the update gate. With the sigmoid $\sigma$, they are
# mixed like this:
#
# $$\tilde h = \tanh(\sigma(r) \cdot c), \qquad g = \sigma(u - 1), \qquad
# h_t = g \cdot \tilde h + (1 - g) \cdot h_{t-1}$$
#
# In words: the *candidate* $\tilde h$ is the new content, made weaker or stronger by the
# reset gate $\sigma(r)$. The update gate is $g$. At $g = 1$ the candidate replaces the old
# memory, and at $g = 0$ the old memory stays as it is. The $-1$ in $g$ has a purpose, too,
# and the next question asks you for it.

# %%
def gru_mix(h, r, c, u, lean=1.0):
    """The new memory from the old one and three raw numbers."""
    candidate = torch.tanh(torch.sigmoid(r) * c)
    update = torch.sigmoid(u - lean)
    return update * candidate + (1 - update) * h


# %% [markdown] tags=["predict"]
# **Predict.** A new network returns raw numbers near 0, so the candidate $\tilde h$ is
# 0. Does the old memory stay as it is, or does it fade? Sketch what is left of it over
# 20 steps. What would the curve look like without the $-1$ in the gate?
#
# <details><summary>Answer</summary>
#
# It fades, because the gate mixes the candidate 0 into the memory in every step. With
# the $-1$ the gate is $\sigma(-1) = 0.27$, so 73 % are kept: a fifth is left after five
# steps. Without it the gate is $\sigma(0) = 0.5$, and after five steps only 3 % are
# left. The $-1$ makes a new memory lean towards remembering.
#
# </details>

# %%
zero = torch.tensor(0.0)
fig, axis = plt.subplots(figsize=(6.4, 2.6))
for name, lean, style in (("with -1", 1.0, "ours"), ("without", 0.0, "naive")):
    kept = [torch.tensor(1.0)]
    for _ in range(20):
        kept.append(gru_mix(kept[-1], zero, zero, zero, lean))
    axis.plot(kept, **line(style), label=name)
    print(f"{name}: {kept[5].item():.2f} is left after five steps")
axis.set(xlabel="step t [1]", ylabel="what is left [1]", xticks=range(0, 21, 5))
axis.legend()
show(fig, alt="A new memory fades; with the -1 in its gate it fades more slowly.")

# %% [markdown]
# Where do the raw numbers come from? Follow the picture below from left to right. Memory,
# latent and action each go through a small layer, so that all three have the same width.
# Two larger layers then mix them, and the second one returns the raw numbers. The line along
# the top carries the old memory to two places: into the first of these layers, and to the
# gates, where it is mixed with the candidate as in the formula above. On the right you see
# what the new memory $h_t$ is for: the prior is computed from it alone, the posterior from it
# and the embedding.
#
# The sizes are those of the agent that plays Mario. What "8 blocks" means comes right after
# the picture.

# %% tags=["hide-input"]
show(*rssm_cell(embed_size=2048))


# %% [markdown]
# Dense layers would be huge here: `gates` alone would have $1024 \cdot 3072$ weights, three
# million. Notebook 04 built the way out, `BlockLinear`: the memory is cut into 8 blocks, and
# each has its own small layer. A block reads its own slice of the memory, and also all that
# the three input layers return. That is how the blocks talk to each other.
#
# > **The paper says** (Methods, "Networks"): the recurrent model is a GRU with
# > block-diagonal weights of 8 blocks; its input is the previous latent, the action and
# > the recurrent state, each embedded linearly, so that blocks can mix.
#
# A continuous action can lie outside $[-1, 1]$, and `embed_action` pulls it back to the
# border. Buttons stay as they are.

# %%
#| export
class SequenceModel(nn.Module):
    """Block GRU, the function f of equation 1: h_t = f(h_{t-1}, z_{t-1}, a_{t-1}).

    Args:
        stoch: width of flat z.
        action_size: A.
        deter: D.
        units: width of the inner layers.
        blocks: of the block-diagonal layers; 1 gives the dense cell.

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


# %% [markdown] tags=["aside"]
# ### Aside: with one block it is the dense GRU
#
# If you prefer to see the cell without blocks, here it is. The comparison copies the weights
# of the dense cell into a `SequenceModel` with one block, and both return the same memory.
#
# PyTorch's own `nn.GRUCell` has no norm, no input layers and no $-1$, and its update
# gate says how much is *kept*. One more difference matters: its reset gate scales only
# what the candidate takes from the old memory. Dreamer's scales the whole candidate.

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


# %% [markdown]
# ## The guess: 32 dice
#
# Now the part that guesses. It must be able to say "one of these two", without a mean in
# between. A die can do that: it has several faces, and a throw shows exactly one of them.
#
# So $z$ is 32 dice with 8 faces each, and a throw of one die is a one-hot vector.
# Together they can name $8^{32}$ situations. For each die a network returns 8 raw
# numbers, a softmax turns them into probabilities, and 1 % of the uniform distribution
# is mixed in. In this notebook, *logits* are the logarithms of these mixed
# probabilities.
#
# > **The paper says** ("World model learning"): the categoricals are mixtures of 1 %
# > uniform and 99 % network output, which prevents them from becoming deterministic and
# > keeps the KL loss well behaved.

# %%
#| export
def categorical_logits(raw: Tensor, unimix: float = 0.01) -> Tensor:
    """Log-probabilities in float32, mixed with 1 % of the uniform distribution.

    The mix keeps every probability above unimix / classes, so that no KL explodes.

    Args:
        raw: network outputs, [..., classes].
        unimix: share of the uniform distribution.

    Source: DreamerV3, "World model learning".
    """
    probs = torch.softmax(raw.float(), -1).clamp_min(1e-37)  # unimix may be 0
    return torch.log((1 - unimix) * probs + unimix / raw.shape[-1])


# %% [markdown]
# ### A throw that a gradient can pass
#
# There is one difficulty. To train the network behind a die, a gradient must flow back from
# the result of the throw to the probabilities. But a throw is a jump: if a probability moves
# a little, usually nothing changes, and then suddenly another face comes up. There is no
# gradient to be had.
#
# > **The paper says**: gradients through the samples are estimated with
# > straight-through gradients.
#
# The idea is simple, if a little brazen. Forwards we use the one-hot $o$. Backwards we
# pretend that it was the probabilities $p$, and hand them the gradient. One expression does
# both: $o + p - \mathrm{sg}(p)$, where $\mathrm{sg}$ means "stop the gradient". Forwards,
# $p$ and $\mathrm{sg}(p)$ are the same numbers and cancel, so that $o$ is left. Backwards,
# $o$ and $\mathrm{sg}(p)$ count as constants, so the gradient goes to $p$ alone.

# %% tags=["hide-input"]
raw = torch.tensor([2.0, 1.0, 0.0])
probs = categorical_logits(raw).exp()
show(*straight_through(raw.tolist(), probs.tolist(), thrown=1))


# %% [markdown]
# We write the throw itself as a race. Every face draws a waiting time from an exponential
# distribution and divides it by its probability, so that likely faces tend to arrive
# sooner. The face that arrives first wins. Exponential waiting times have a special
# property: each face wins with exactly its own probability. The code compares logarithms,
# which gives the same winner.
#
# The race is also fast: the waiting times of all steps are drawn in one call, before the
# loop over time begins.

# %%
#| export
def sample_one_hot(logits: Tensor, noise: Tensor) -> Tensor:
    """Exact sample as a one-hot with a straight-through gradient, same shape.

    `noise` is exponential with rate 1 and of the logits' shape: the class whose noise
    divided by its probability is smallest wins. It can be drawn for all steps at once.
    Source: DreamerV3, "World model learning"; the race is ours.
    """
    probs = logits.exp()
    winner = (logits - noise.log()).argmax(-1)
    one_hot = F.one_hot(winner, logits.shape[-1]).to(probs.dtype)
    return one_hot + (probs - probs.detach())


# %%
torch.manual_seed(0)
logits = categorical_logits(torch.tensor([2.0, 1.0, 0.0, -1.0])).expand(100_000, 4)
throws = sample_one_hot(logits, torch.empty_like(logits).exponential_())
difference = (throws.mean(0) - logits[0].exp()).abs().max()
claim("in 100,000 throws each face comes up as often as it should", difference < 0.01)

# %% [markdown] tags=["aside"]
# ### Aside: the gradient by hand
#
# If a loss is $w \cdot z$, straight-through gives the gradient of $w \cdot p$. For a softmax
# that is $p_i (w_i - \sum_j p_j w_j)$. The mix with 1 % uniform multiplies it by 0.99.

# %%
raw = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
worth = torch.tensor([1.0, 0.0, 3.0])
(sample_one_hot(categorical_logits(raw), torch.ones(3)) * worth).sum().backward()
p = torch.softmax(raw.detach(), -1)
compare("straight-through", raw.grad, 0.99 * p * (worth - (p * worth).sum()), 1e-6)


# %% [markdown]
# ## How far two guesses are apart
#
# The prior guesses, the posterior has looked. To train the prior, and to measure
# surprise, we need one number for how far apart they are. That is the Kullback-Leibler
# divergence (**KL**). It says how surprised the prior $p$ is by what the posterior $q$
# says, in nats, the unit of natural logarithms:
#
# $$\mathrm{KL}[q \,\|\, p] = \sum_{\text{dice}} \sum_{\text{faces } i} q_i \ln \frac{q_i}{p_i}$$
#
# Read it for one die. The logarithm compares the two probabilities of a face: it is 0 where
# they are equal, and large where the prior gave little to a face that is now likely. The
# factor $q_i$ weighs each face by how likely it is after looking. Then we add up, over the
# faces and over the dice. Where prior and posterior agree, the KL is 0.

# %%
#| export
def kl_divergence(left: Tensor, right: Tensor) -> Tensor:
    """KL[left || right] in nats of log-probabilities [..., latents, classes] -> [...].

    Summed over classes and over latents. Source: DreamerV3, equation 3.
    """
    return (left.exp() * (left - right)).sum((-1, -2))


# %% [markdown] tags=["predict"]
# **Predict.** A die has two faces. In case A the prior is undecided, $(0.5, 0.5)$, and the
# posterior says $(0.9, 0.1)$. In case B it is the other way round: the prior was fairly sure,
# and the posterior finds an even chance. Which of the two surprises costs more?
#
# <details><summary>Answer</summary>
#
# Case B. To be sure and wrong costs more than to be unsure: 0.511 against 0.368 nats. The KL
# is not symmetric, so it is not a distance.
#
# </details>

# %%
sure, even = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
print(f"A: {kl_divergence(sure, even).item():.3f} nats")
print(f"B: {kl_divergence(even, sure).item():.3f} nats")

# %% [markdown] tags=["predict"]
# **Predict.** Now a die has 8 faces. The posterior knows that face 0 came up, and the
# prior becomes more and more certain of face 1. How does the KL grow as the prior's raw
# number for face 1 rises? And what does the curve look like with 1 % of the uniform
# distribution mixed in?
#
# <details><summary>Answer</summary>
#
# Without the mix the KL grows with the raw number for ever, so a single mistake can
# cost any amount. With it the curve flattens: no face has a probability below $0.01 /
# 8$, and so no die can cost more than about 6.6 nats. Mario's 32 dice together cost at
# most 211. If the KL in your logs is ever higher, the mix is missing.
#
# </details>

# %%
strength = torch.linspace(0, 20, 81)
raw = torch.zeros(2, 81, 1, 8)
raw[0, :, 0, 0], raw[1, :, 0, 1] = 1000.0, strength
fig, axis = plt.subplots(figsize=(6.4, 2.6))
for name, mix, style in (("1 % mixed in", 0.01, "ours"), ("no mix", 0.0, "naive")):
    axis.plot(strength, kl_divergence(*categorical_logits(raw, mix)), **line(style))
    axis.lines[-1].set_label(name)
axis.set(xlabel="raw number of the wrong face [1]", ylabel="KL of one die [nats]")
axis.legend()
show(
    fig,
    alt="Without the mix the KL of a wrong guess grows for ever; with it, it stops.",
)
raw[1] = raw[1, -1] * 50
worst = 32 * kl_divergence(*categorical_logits(raw)).max().item()
print(f"32 dice of 8 faces cost at most {worst:.0f} nats")


# %% [markdown]
# ## The RSSM
#
# You have met all the parts: a memory that takes one step (`advance`), a guess before
# looking (the prior), a better one after looking (the posterior), and a throw that a gradient
# can pass (`sample_one_hot`). Now they are put together, and there are two ways to walk
# through time with them. They are the two halves of the picture with the six steps.
#
# `observe` is the left half. It walks along a stored window. In every row it takes one
# step with the memory, looks at the frame, and throws $z$ from the posterior. `imagine`
# is the right half. There is no frame, so $z$ comes from the prior, and a *policy*, a
# function of the state, picks the next action.
#
# Be careful where an episode begins. A window of the replay can contain the end of one
# episode and the start of the next. On a first row three things are therefore set to
# zero *before* the step: the memory, the latent, and the previous action. The action is set
# to zero before it is embedded. For buttons that means a vector of zeros, "nothing was
# chosen", and not the one-hot of action 0. (In Mario that one is a choice, too: to wait.)
#
# Why carry both $h$ and $z$? Once yours runs, we switch off one at a time in a tiny world,
# and see what each of them is good for.
#
# ## Build it yourself
#
# ### Exercise 5.0: Write observe and imagine
#
# *hard, about 60 minutes, 17 lines to write, 3 hints*
#
# These two loops are the heart of the world model. Write them before you look at ours. The
# check gives you a model that has all the parts:
#
# | part | what it does |
# |---|---|
# | `model.initial(B)` | the state before anything was seen: zeros |
# | `model.embed_action(a)` | actions [B, A] as the memory wants them |
# | `model.advance(state, embedded)` | one step of the memory: h [B, D] |
# | `model.prior(h)` | logits of the guess before looking |
# | `posterior_of(model, h, embed)` | logits after looking; given below, ready to use |
# | `sample_one_hot(logits, noise)` | a throw of all dice |
#
# You need no `detach`: `sample_one_hot` already lets gradients pass. The check tells you how
# far you have come. If you are stuck, `hint("5.0", 1)` helps. If you would rather read
# on: nothing below depends on your answer.

# %% tags=["exercise-5.0"]
def posterior_of(model, h, embed):
    """What z should be after looking: memory [B, D] and embedding [B, E] -> logits."""
    return model._logits(
        model.posterior_out(model.posterior_in(torch.cat([h, embed], -1)))
    )


def my_observe(model, embed, prev_action, is_first, noise):
    """Watch a window of experience, row by row.

    Args:
        embed: embeddings [B, T, E].
        prev_action: the action that led to each row, [B, T, A].
        is_first: True on rows that begin an episode, [B, T].
        noise: what `sample_one_hot` needs, [T, B, latents, classes].

    Returns:
        Four tensors: h [B, T, D] and z [B, T, latents, classes] of every row, then the
        logits of posterior and prior, both [B, T, latents, classes].
    """
    raise NotImplementedError("exercise 5.0")


def my_imagine(model, state, policy, noise):
    """Dream on from a state, without seeing anything.

    Args:
        state: the `State` in which B dreams begin.
        policy: a callable State -> actions [B, A].
        noise: what `sample_one_hot` needs, [H, B, latents, classes].

    Returns:
        Three tensors: h [B, H+1, D] and z [B, H+1, latents, classes], of which the
        first is `state`, then the actions [B, H, A].
    """
    raise NotImplementedError("exercise 5.0")


# %%
check("5.0", posterior_of, my_observe, my_imagine)
# hint("5.0", 1)
# solution("5.0")

# %% [markdown]
# ## Our version
#
# Ours does the same, a little faster. Two things deserve a second look.
#
# * **The embedding's half.** A linear layer on memory and embedding is the sum of two linear
#   layers. The embedding's part needs no memory, so it is computed for all rows before the
#   loop, like the noise.
# * **One row is one method**, `_observe_step` or `_imagine_step`, so that torch can
#   compile it. The last method, `kl_loss`, turns the KL into a loss. We use it at once,
#   and explain it in "One number, two gradients".

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
        """Exponential noise [*lead, latents, classes], for all steps at once."""
        shape = (*lead, self.latents, self.classes)
        return torch.empty(shape, device=like.device).exponential_()

    def observe(
        self,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        state: State | None = None,
    ) -> tuple[State, Tensor, Tensor]:
        """Watch a window of experience, row by row.

        Args:
            embed: embeddings of the observations, [B, T, E].
            prev_action: the action that led to each row, [B, T, A].
            is_first: rows at which state and previous action are cleared, [B, T].
            state: the state before the window; by default zeros.

        Returns:
            States [B, T, ...] with z sampled from the posterior, and log-probabilities
            of posterior and prior, [B, T, latents, classes].

        Source: DreamerV3, equation 1.
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

        Args:
            state: where the dreams begin.
            policy: a callable State -> actions [B, A], or actions [B, H, A].
            horizon: H, the number of steps.

        Returns:
            States [B, H+1, ...], of which the first is `state`, and actions [B, H, A].

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

        One number, two gradients: `dyn` trains the prior to predict the posterior,
        `rep` trains the posterior to stay predictable. The sum over all latents is
        clipped from below, not each latent. Source: DreamerV3, equation 3.
        """
        dyn = kl_divergence(posterior.detach(), prior)
        rep = kl_divergence(posterior, prior.detach())
        return dyn.clamp(min=free_nats), rep.clamp(min=free_nats)


# %% [markdown]
# Resets are easy to get wrong, so we check them. An episode that begins in the middle of a
# window must give the same result as the same episode alone. Both runs get the same noise,
# so that any difference comes from the past.

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
both, never = observed(whole, first)[:, 7:], observed(whole, 0 * first)[:, 7:]
compare("rows after a reset", both, observed(alone, first), 1e-5)
compare("without the reset", never, observed(alone, first), expect="different")

# %% [markdown]
# ## What each half is good for
#
# Does the state really need both parts? We can find out by switching off one of them. For
# that we need a world so small that training takes seconds.
#
# It has one lamp and one coin. The lamp is left or right, and stays there for the whole
# episode, but it is visible only in the first row and in rows in which the button is pressed.
# That is something to *remember*. The coin shows left or right as well, but it is thrown
# anew in every row. That is something nobody can *know*.
#
# What a model sees is four numbers. In the figure below we draw them as a small square: the
# lamp is the upper half and the coin the lower half, and the bright field says left or
# right. While the lamp is not visible, its half is dark. Four numbers are so few that we
# need no encoder. The button in a row is the one that *led to* it, so nothing is shifted.

# %%
ROWS = 8


def lamp_and_coin(batch, press):
    """Rows of the world: lamp, coin [B, T, 4], button [B, T, 1], first [B, T]."""
    lamp = F.one_hot(torch.randint(2, (batch, 1)), 2).expand(-1, ROWS, -1)
    coin = F.one_hot(torch.randint(2, (batch, ROWS)), 2)
    first = (torch.arange(ROWS) == 0).expand(batch, -1)
    button = (torch.rand(batch, ROWS) < press) | first
    obs = torch.cat([lamp * button[..., None], coin], -1).float()
    return obs, button[..., None].float(), first


class Toy(RSSM):
    """A tiny RSSM with a screen, in which memory or dice can be switched off."""

    def __init__(self, memory=True, dice=True):
        sizes = dict(deter=32, units=32, latents=4, classes=4, blocks=4, unimix=0.01)
        super().__init__(embed_size=4, action_size=1, **sizes)
        self.screen = MLP(self.feature_size, 32, 1, 4)
        self.memory, self.dice = memory, dice

    def advance(self, state, action_part):
        h = state.h if self.memory else 0 * state.h
        return super().advance(State(h, state.z), action_part)

    def _observe_step(self, *row):
        state, posterior = super()._observe_step(*row)
        return (state if self.dice else State(state.h, posterior.exp())), posterior

    def _imagine_step(self, *inputs):
        state = super()._imagine_step(*inputs)
        return state if self.dice else State(state.h, self.prior(state.h).exp())


# %% [markdown] tags=["predict"]
# We train three of them. One is whole. One has no *memory*: its $h$ is emptied before
# every step, so that it must copy all it wants to keep from one throw of $z$ to the
# next. And one has no *dice*: its $z$ is not thrown; the probabilities themselves are
# handed on, as an ordinary network would do it.
#
# **Predict.** Each model sees two rows and dreams the rest. At the end the button is
# pressed. Does the model without memory still know where the lamp is? What will the
# coin look like in each dream?
#
# <details><summary>Answer</summary>
#
# Less often than the whole model. How much less depends on the seed: with four seeds it was
# right in 50, 58, 85 and 90 of 100 dreams, and the whole model in 96 to 99. A blind guess is
# right in 50. In the dream without dice the coin is a ghost, half left and half right. In the
# other two it is mostly clear, left or right, but not always as the real one: nobody can know it.
#
# </details>

# %%
def train_toy(updates=300, **parts):
    """Train one toy on the world of lamp and coin."""
    torch.manual_seed(0)
    model = Toy(**parts)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in progress(updates):
        obs, button, first = lamp_and_coin(32, press=0.4)
        states, posterior, prior = model.observe(obs, button, first)
        error = (model.screen(states.feature) - obs).square().sum(-1)
        dyn, rep = model.kl_loss(posterior, prior, free_nats=0.0)
        optimizer.zero_grad()
        # Times 10, so that the picture counts for more than its price in nats.
        (10 * error + dyn + 0.1 * rep).mean().backward()
        optimizer.step()
    return model


toys = {
    "whole": train_toy(),
    "no memory": train_toy(memory=False),
    "no dice": train_toy(dice=False),
}


# %% tags=["hide-input"]
@torch.no_grad()
def dreams_of(model, obs, button, first):
    """What a toy sees in two rows and dreams in the rest, [B, T, 4]."""
    torch.manual_seed(1)
    seen, _, _ = model.observe(obs[:, :2], button[:, :2], first[:, :2])
    dream, _ = model.imagine(seen.map(lambda x: x[:, -1]), button[:, 2:], ROWS - 2)
    return model.screen(torch.cat([seen.feature, dream.feature[:, 1:]], 1))


torch.manual_seed(0)
obs, button, first = lamp_and_coin(1000, press=0.0)
button[:, -1] = 1.0
obs[:, -1, :2] = obs[:, 0, :2]
dreams = {name: dreams_of(model, obs, button, first) for name, model in toys.items()}
right = {k: (d[:, -1, :2].argmax(-1) == obs[:, 0, 1]) for k, d in dreams.items()}
lamp = {name: each.float().mean().item() for name, each in right.items()}
episode = (right["whole"] & ~right["no memory"]).nonzero()[0, 0]
coin = {k: (d[:, 2:, 2] - d[:, 2:, 3]).abs().mean().item() for k, d in dreams.items()}

fig, axes = plt.subplots(4, ROWS, figsize=(8, 3.9))
for row, (name, clip) in zip(axes, {"real": obs, **dreams}.items()):
    row[0].set_ylabel(name)
    for t, axis in enumerate(row):
        axis.imshow(
            clip[episode, t].unflatten(0, (2, 2)), vmin=0, vmax=1, cmap="cividis"
        )
        axis.set(xticks=[], yticks=[], aspect="auto")
        axis.grid(False)
for t, axis in enumerate(axes[-1]):
    axis.set_xlabel(f"{t}, seen" if t < 2 else f"{t}, button" if t == 7 else t)
fig.suptitle("in each picture, above: lamp, below: coin", fontsize=10)
show(
    fig,
    alt="One dream of each model: the whole one ends with the right lamp, the one "
    "without memory with the wrong one, and without dice the coin is always grey.",
)
claim("whole: the lamp is right in nine of ten dreams", lamp["whole"] > 0.9)
claim("no memory: the lamp is lost more often", lamp["no memory"] < lamp["whole"])
blur = coin["no dice"] < coin["whole"] / 3
claim("no dice: the coin has less than a third of the contrast", blur)

# %% [markdown]
# Look at the last column, where the button is pressed. We picked an episode in which the
# model without memory gets the lamp wrong. This model can keep the lamp only in $z$, so it
# has to throw the lamp anew in every step. It must first learn to do that, and even then
# one wrong throw loses the lamp for good.
#
# Now look at the lower halves. Without dice the coin is grey in every dreamed row: a ghost
# again. And at the end the lamp of this model is pale as well, although it has a memory. We
# think this is why: while it learnt, the posterior had seen each coin, so the probabilities
# that were handed on were near 0 or 1. In the dream they are one half, and a memory that has
# never met such numbers makes mistakes with them.
#
# So each half does what the other does badly. The memory keeps what is certain, and the
# dice commit to one of several futures. In the whole model, too, the coin is sometimes a
# little grey. Each die is thrown without looking at the others, so one may say "left" while
# another says "right".
#
# ## One number, two gradients
#
# The KL is not only a measure of surprise. As we said, it is also a loss: it teaches the prior to
# predict what the posterior will see, so that dreams come true. But the KL can shrink in two
# ways. The prior can get better, which we want. Or the posterior can say less about the
# frame, and that makes the model blind.
#
# > **The paper says** (equation 3): the dynamics loss
# > $\mathcal L_\mathrm{dyn} = \max(1, \mathrm{KL}[\mathrm{sg}(q) \| p])$ trains the
# > prior towards the posterior; the representation loss
# > $\mathcal L_\mathrm{rep} = \max(1, \mathrm{KL}[q \| \mathrm{sg}(p)])$ trains the
# > posterior to be predictable. They are weighted 1 and 0.1. Clipping below 1 nat (*free
# > bits*) switches them off where they are already small.
#
# Think of a teacher and a student. The posterior is the teacher, because it has seen
# the frame. The student, the prior, moves towards the teacher with weight 1, and the
# teacher towards the student with a tenth of that. If they are less than 1 nat apart,
# both stop: that nat is free. We say *free nats*, after the unit of our logarithms.
#
# Both losses are the same number. They differ only in the part that they move.

# %%
posterior = torch.randn(2, 3, 4, 8, requires_grad=True)
prior = torch.randn(2, 3, 4, 8, requires_grad=True)
losses = RSSM.kl_loss(posterior.log_softmax(-1), prior.log_softmax(-1))
compare("dyn and rep", *losses, tolerance=0)
for name, loss in zip(("dyn", "rep"), losses):
    reached = torch.autograd.grad(loss.sum(), (posterior, prior), allow_unused=True)
    reached = [gradient is not None for gradient in reached]
    print(f"{name} reaches the posterior: {reached[0]}, the prior: {reached[1]}")


# %% [markdown] tags=["predict"]
# **Predict.** Suppose that nothing but the KL loss trains 32 equal dice with two faces.
# The teacher gives face 0 a probability of 0.95, the student 0.5: together they are about
# 16 nats apart. With Dreamer's weights, how far does each of them move? And if the
# weights are swapped (`dyn` 0.1, `rep` 1) and there are no free nats?
#
# <details><summary>Answer</summary>
#
# With Dreamer's weights they do not quite meet. The student walks most of the way, and
# both stop when all dice together are less than 1 nat apart: the teacher stays sure.
# With swapped weights the teacher gives in, and they meet near 0.6, where neither knows
# much.
#
# </details>

# %%
def descend(free_nats, dyn, rep, updates=120, rate=0.02):
    """Let the KL loss alone move 32 equal dice; the paths of posterior and prior."""
    raw = torch.tensor([[2.944, 0.0], [0.0, 0.0]], requires_grad=True)
    path = []
    for _ in range(updates):
        logits = raw.log_softmax(-1)[:, None].expand(2, 32, 2)
        path.append(logits[:, 0, 0].exp().tolist())
        losses = RSSM.kl_loss(*logits, free_nats)
        gradient = torch.autograd.grad(dyn * losses[0] + rep * losses[1], raw)[0]
        raw = (raw - rate * gradient).detach().requires_grad_()
    return np.array(path)


# %% tags=["hide-input"]
HEALTHY = {"free_nats": 1.0, "dyn": 1.0, "rep": 0.1}


def settings(free_nats, dyn, rep):
    return f"{free_nats:g} free nats, dyn {dyn:g}, rep {rep:g}"


def draw(**yours):
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.0), sharey=True)
    for axis, name, values in zip(axes, ("Dreamer", "yours"), (HEALTHY, yours)):
        path = descend(**values)
        axis.plot(path[:, 0], **line("posterior"), label="posterior")
        axis.plot(path[:, 1], **line("prior"), label="prior")
        axis.set_title(f"{name}: {settings(**values)}", fontsize=9)
        axis.set(xlabel="update [1]", ylim=(0.45, 1))
        axis.legend(loc="center right")
    axes[0].set_ylabel("probability of face 0 [1]")
    return fig


def ends(**yours):
    (good, _), (end, met) = descend(**HEALTHY)[-1], descend(**yours)[-1]
    return (
        f"With Dreamer's weights the posterior ends at {good:.2f}; with "
        f"{settings(**yours)} it ends at {end:.2f} and the prior at {met:.2f}."
    )


explore(
    draw,
    alt=ends,
    free_nats=Slider(0.0, 8.0, 0.5, value=0.0),
    dyn=Slider(0.0, 1.0, 0.1, value=0.1),
    rep=Slider(0.0, 1.0, 0.1, value=1.0),
)
claim("Dreamer: the teacher stays above 0.94", descend(**HEALTHY)[-1, 0] > 0.94)
claim("swapped: the teacher ends below 0.65", descend(0.0, 0.1, 1.0)[-1, 0] < 0.65)


# %% [markdown]
# On the left the teacher keeps what it knows. On the right, with swapped weights and no
# free nats, it has been dragged down to the student. Move one slider at a time: more free
# nats help the teacher, and so does more `dyn`, but only `rep` = 0 leaves it exactly where
# it was.
#
# Then why not `rep` = 0? The teacher would be free to say what no student can ever guess,
# such as the exact noise of a picture. In a dream only the student is left, and the decoder
# may then get a $z$ unlike any that it has learnt from. With a small `rep` the teacher leaves
# out those details that cannot be predicted and would hardly lower the error of the picture.
# And why only one free nat? The student stops there, too: each free nat is one that the
# prior never has to learn.
#
# One detail is easy to get wrong: the clip at 1 nat belongs around the *sum* over the
# 32 dice. So one nat is free for the whole row, not one for every die.
#
# ## The real experiment: what surprises the model?
#
# Let us go back to the first picture and see what a trained model knows and does not know.
# The model comes from the next notebook, and the 160 rows below were held back from its
# training.
#
# Beside the KL we now draw two entropies. The entropy says how undecided a guess is: high
# means "it could be anything". Notice how the posterior, which has seen the frame, is less
# undecided than the prior. Its entropy need not fall to 0: a die that says nothing about this frame
# stays undecided before and after looking, and costs no KL.

# %% tags=["hide-input"]
def entropy(logits):
    """Entropy in nats, summed over the dice: [..., latents, classes] -> [...]."""
    return -(logits.exp() * logits).sum((-1, -2))


torch.manual_seed(0)
with torch.no_grad():
    _, posterior, prior = world.observe(unseen)
surprise, unsure = kl_divergence(posterior, prior), entropy(prior)
fig, axis = plt.subplots(figsize=(8, 2.8))
axis.plot(surprise[stream], **line("kl"), linewidth=1.2, label="KL")
axis.plot(unsure[stream], **line("prior"), linewidth=1.2, label="prior entropy")
knows = entropy(posterior)[stream]
axis.plot(knows, **line("posterior"), linewidth=1.2, label="posterior entropy")
bold = {"ha": "center", "va": "bottom", "weight": "bold", "color": COLORS["kl"]}
for letter, t in zip("ABCD", peaks.tolist()):
    axis.axvline(t, color=COLORS["kl"], alpha=0.25, linewidth=1, zorder=0)
    axis.annotate(letter, (t, -7.5), **bold)
axis.set(xlabel="row t [1]", ylabel="[nats]", ylim=(-8, None))
axis.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
resets = unseen["is_first"][stream].nonzero()[:, 0].tolist()
show(
    fig,
    alt="After row 0 the KL peaks at the letters; the prior's entropy is highest "
    f"where a window or an episode begins: rows {', '.join(map(str, resets))}.",
)
before, now = unseen["obs"][stream, peaks - 1], unseen["obs"][stream, peaks]
labels = [f"before {x}" for x in "ABCD"] + list("ABCD")
show(
    frames_grid(torch.cat([before, now]), labels, columns=4),
    alt="The frame before each of the four peaks, and below it the frame of the peak.",
)


# %% [markdown]
# Compare the upper frames with the lower ones. At A and B a pipe comes into the picture at
# the right edge: the memory may know *that* it is coming, but not when. At B and C the
# question blocks change their colour, at a rhythm of their own. At D we see nothing of the
# kind. What surprises a model need not be visible to us.
#
# The entropy of the prior tells another story. It is highest where the memory is empty: in
# row 0, where the window begins, and in the two rows that begin a new episode. The prior is
# the same in all three, because each time the memory is computed from zeros. But the KL of
# row 0 is twice as high as that of the other two. Row 0 shows a frame from the middle of a
# level. The other two show the start of the level, the most common frame after a reset. So
# to be unsure and to be surprised are two different things.

# %% [markdown] tags=["predict"]
# **Predict.** Now we surprise the model on purpose. We cut a film: forty rows of one
# stream, that is of one player, then forty rows of another, without telling the model.
# The peaks A to D were about 25 nats high. Does the KL at the cut stay below them, or
# rise far above? Will it calm down within a few rows, or stay high to the end of the
# film?
#
# <details><summary>Answer</summary>
#
# It jumps far above: to about a hundred nats, and in every film to more than twice the
# height of A to D. Then it falls quickly: after five rows more than half of the
# surprise is gone. With every look, the posterior carries more of the new scene into
# the memory, and the prior can predict again.
#
# </details>

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

fig, axis = plt.subplots(figsize=(7.2, 2.8))
times = np.arange(-39, 40)
for film in cuts:
    axis.plot(times, film[1:], color=COLORS["kl"], alpha=0.35, linewidth=1)
axis.plot(times, cuts[:, 1:].mean(0), **line("kl"), label="mean of six films")
axis.axvline(0, **line("threshold"), label="cut")
axis.set(xlabel="rows after the cut [1]", ylabel="KL [nats]")
axis.legend()
show(
    fig,
    alt="The KL of all six films jumps at the cut and falls back within a few rows.",
)
at_cut, highest = cuts[:, 40], surprise[stream, peaks].max()
claim("in every film the cut is twice as high as A to D", at_cut.min() > 2 * highest)
claim("the mean film has its peak at the cut", cuts[:, 1:].mean(0).argmax() == 39)
half_gone = cuts[:, 45].mean() < at_cut.mean() / 2
claim("five rows later at least half of the surprise is gone", half_gone)


# %% [markdown]
# ## Exercises
#
# Exercises 5.1 and 5.2 hide a bug. If you do not find it, look up its signs in
# [metrics](reference/metrics.md), which shows healthy and sick curves, or in
# [troubleshooting](reference/troubleshooting.md), which goes from the symptom to the cause.
#
# ### Exercise 5.1: No two beginnings are alike
#
# *easy, about 8 minutes, one planted bug*
#
# The memory $h$ of a row is computed before the row's frame is looked at, and on a first
# row nothing of the past may enter. So while the agent acts, $h$ on the first row should be
# the same in every episode. With this `step` it differs from episode to episode.
# Find the bug.

# %% tags=["exercise-5.1"]
def step(model, state, prev_action, is_first):
    """The next memory h [B, D]; a row whose is_first [B] is True forgets the past."""
    keep = 1.0 - is_first.float()
    state = State(state.h * keep[:, None], state.z * keep[:, None, None])
    action_part = model.embed_action(prev_action)
    return model.advance(state, action_part)


# %%
check("5.1", step)
# solution("5.1")

# %% [markdown]
# ### Exercise 5.2: A prior that hardly learns
#
# *medium, about 10 minutes, one planted bug*
#
# With this loss, `dyn` in the log never reads below 32 for 32 dice. The prior learns nothing
# about a die that is off by less than a whole nat. Find the bug.

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
# solution("5.2")

# %% [markdown]
# ### Exercise 5.3: Which die was surprised?
#
# *medium, about 10 minutes*
#
# The KL of the experiment was a sum over 32 dice. Find the die that was surprised most, and
# say by how many nats.

# %% tags=["exercise-5.3"]
def most_surprised(posterior, prior):
    """The die with the largest KL[posterior || prior], in one row.

    Both are log-probabilities [latents, classes], as everywhere in this notebook.
    Returns the number of the die, counted from 0, and its KL in nats.
    """
    raise NotImplementedError("exercise 5.3")


# %%
check("5.3", most_surprised)
# solution("5.3")

# %% [markdown]
# ## What breaks
#
# * **The previous action is not reset.** [TorchRL had
#   this](https://github.com/pytorch/rl/pull/4128). Training does not show it: the replay
#   stores zeros as the action of a last row, so there is nothing to reset. But an acting agent
#   carries over the real last action of the old episode, and its first steps suffer.
# * **Resets are missing** inside windows. The memory then carries the old episode into the
#   new one, as at our cut. Compare the KL on first rows with that of a healthy model, which
#   is about twenty, as in rows 48 and 82.
# * **The 1 % uniform is missing.** Single KL values exceed 211 nats, and sometimes explode.
# * **dyn and rep differ** in the logs. One of them is clipped differently, or its arguments
#   are swapped. A stop-gradient in the wrong place does *not* show in the numbers; ask for
#   the gradients, as we did above.
# * **`loss/dyn`**, the dynamics loss in the log, **stays at 1.0** while the pictures
#   are poor: the posterior says nothing. Look at the image loss first, which must be a
#   sum over pixels (notebook 04).
#
# ## What we built
#
# `RSSM` with `observe` (watch) and `imagine` (dream), the block GRU `SequenceModel`, and
# two pieces that the actor will use again: `categorical_logits` and `sample_one_hot`.
# Notebook 06 puts encoder, RSSM and decoder together, adds heads for the reward and the
# end of the episode, and trains them.

# %%
what_we_built("05_rssm")
