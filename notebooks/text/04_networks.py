# %% [markdown]
# # 04 Networks: pixels and vectors in, one embedding out, and back
#
# **The question.** How do pixels and vectors become one embedding, and back?
#
# The world model cannot remember frames of 12,288 numbers. So an **encoder** turns
# every observation into one shorter vector, the *embedding*, and a **decoder** draws
# the observation again from what the model remembers. The drawing teaches the model:
# what it cannot draw, it has not understood.
#
# **At the end** both work on real frames of Super Mario Bros., together with a number,
# Mario's position.
#
# **You need** notebooks 01 (symlog), 02 (bins, nats and the loss of a Normal) and 03
# (rows, spaces), and linear layers and convolutions in PyTorch.
#
# *Measured: 0.7 minutes on two CPU cores, 0.9 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %% tags=["hide-input"]
#| default_exp networks
import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, check, claim, compare, data_path
from course import dreamer_map, frames_grid, line, progress, show, solution, strip
from course import use_style, what_we_built
from course.train_world_model import load_world_model
from dreamer_lite.replay import Replay
from dreamer_lite.symlog import symexp

use_style()
show(*dreamer_map("networks"))

# %% tags=["hide-input"]
#| export
"""Layers, and the way from observations to one embedding and back.

Built in notebook 04. Source: DreamerV3, Methods, "Model sizes" and "Networks".
"""

import math
from itertools import pairwise

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_lite.replay import Field, read_spaces
from dreamer_lite.symlog import symlog

# %% [markdown]
# This is where we are going. Below each real frame you see how a decoder redraws it
# from a vector of 768 numbers, 512 of memory and 256 about what was just seen. The
# third row is the error, white where the drawing is right. The decoder belongs to a
# small trained world model that comes with this course, and has never seen these frames
# in training.

# %% tags=["hide-input"]
replay = Replay.load(data_path("mario_episodes.npz"))
streams, rows = replay.data["reward"].shape
frames = torch.from_numpy(replay.data["obs"])  # [streams, rows, 64, 64, 3], uint8

shipped = load_world_model()
newest = {key: torch.from_numpy(x[2:, -160:]) for key, x in replay.data.items()}
torch.manual_seed(0)
with torch.no_grad():
    states, _, _ = shipped.observe(newest)
    redrawn = shipped.decoder(states.feature)["obs"]
show(
    strip(newest["obs"][0], redrawn[0], label="redrawn"),
    alt="Frames of Super Mario Bros., how a trained decoder redraws them, the error.",
)

# %% [markdown]
# ## A signal that dies on its way
#
# Why does Dreamer not simply use PyTorch's layers? Let us stack twenty of them, each a
# linear layer and then SiLU. SiLU is $x\,\sigma(x)$, with the sigmoid $\sigma$: almost
# 0 for large negative numbers, almost $x$ for large positive ones.
#
# We feed in 512 different inputs, and measure how much the outputs still differ after
# each layer.

# %% [markdown] tags=["predict"]
# **Predict.** Sketch how the differences change from layer to layer, over twenty
# layers. Do they stay about the same, shrink a little in total, or shrink by the same
# factor in every layer? How much is left at the end?
#
# <details><summary>Answer</summary>
#
# They shrink by about the same factor in layer after layer, and so they vanish
# exponentially, until float32 can hardly tell the outputs apart. After twenty layers,
# less than a millionth is left. A picture of it follows further down.
#
# </details>

# %%
torch.manual_seed(0)
x = torch.randn(512, 256)  # 512 inputs of 256 numbers


def differences_through(layers, x):
    """How much the 512 inputs differ after each layer: standard deviations."""
    found = [x.std(0).mean().item()]
    for layer in layers:
        x = layer(x)
        found.append(x.std(0).mean().item())
    return found


plain = [nn.Sequential(nn.Linear(256, 256), nn.SiLU()) for _ in range(20)]
with torch.no_grad():
    naive_sizes = differences_through(plain, x)
claim("after 20 layers less than a millionth is left", naive_sizes[-1] < 1e-6)


# %% [markdown]
# All 512 inputs look the same now, and gradients shrink on their way back, too.
# Dreamer's networks are not twenty layers deep. But a recurrent model applies its
# layers at every time step, and sixty steps are sixty times the depth.
#
# So every layer has to keep the size of its signal. Two things do that: a
# normalisation, and an initialisation that suits it.
#
# ## RMSNorm
#
# > **The paper says** ([DreamerV3](https://arxiv.org/abs/2301.04104), Methods, what is new
# > since the previous generations, and the table of hyperparameters): the networks use root
# > mean square normalisation and the SiLU activation. (The $\varepsilon$ below is that of the
# > authors' code.)
#
# In our words: divide a vector by its typical size. Nothing is subtracted.
#
# $$\mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\tfrac1n \sum_i x_i^2 + \varepsilon}} \cdot
# s, \qquad \varepsilon = 10^{-4}$$
#
# The scale $s$ is learnt, one number for each entry, and starts at 1.

# %%
def rms_norm_by_hand(x, scale=1.0, eps=1e-4):
    """Divide x by the root of the mean of its squares, along the last dimension."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * scale


# %% [markdown] tags=["predict"]
# **Predict.** Two vectors point in the same direction, $(3, 4)$ and $(300, 400)$. After
# the norm, is the second one still longer? And what happens to the zero vector: does it
# stay where it is, or does the division fail?
#
# <details><summary>Answer</summary>
#
# Both become the same vector, $(0.849, 1.131)$. The length is gone and the direction is
# left. The zero vector stays zero, because $\varepsilon$ keeps the division alive and
# nothing is added.
#
# </details>

# %%
pair = torch.tensor([[3.0, 4.0], [300.0, 400.0], [0.0, 0.0]])
for row, normed in zip(pair.tolist(), rms_norm_by_hand(pair).tolist()):
    print(row, "->", [round(value, 3) for value in normed])


# %% [markdown]
# The zero vector matters, because every episode starts from a state of zeros.
#
# The first version of the paper used another norm, LayerNorm. It subtracts the mean
# before it divides, and so it loses more than the length: $(3, 4)$ becomes $(-1, 1)$,
# as any rising pair would.
#
# The exported form computes in float32 for any input, because squares overflow or lose
# digits in 16 bits.

# %%
#| export
class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, then scale (no shift).

    Computed in float32 for any input; returns the dtype that came in.
    Args: size, the last dimension; eps, added under the root.
    Source: DreamerV3, Methods, table of hyperparameters; eps from the authors' code.
    """

    def __init__(self, size: int, eps: float = 1e-4):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scaled = F.rms_norm(x.float(), self.scale.shape, self.scale, self.eps)
        return scaled.to(x.dtype)


# %%
compare("RMSNorm and the formula", RMSNorm(256)(x), rms_norm_by_hand(x))
print("dtype kept:", RMSNorm(256)(x.bfloat16()).dtype)


# %% [markdown]
# ## An initialisation that keeps variance
#
# How large should the weights be at the start? Take an output
# $y = \sum_{i=1}^{n} w_i x_i$. Let all weights and inputs be independent, with mean 0,
# and let the inputs have variance 1. Then each product $w_i x_i$ has the variance
# $\mathrm{var}(w)$, and $n$ of them add up to $n \cdot \mathrm{var}(w)$. To keep that
# at 1, the weights need the variance $1/n$. Here $n$ is the number of inputs that one
# output sees, the *fan-in*.
#
# Dreamer draws them from a normal distribution that is cut at two standard deviations,
# so that no weight starts far out. The factor 1.1368 gives back the variance that the
# cut takes away.

# %%
#| export
def init_(layer: nn.Module, fan_in: int, outscale: float = 1.0) -> nn.Module:
    """Fill a layer's weight from a normal cut at two sigma; its bias becomes 0.

    The weight gets variance outscale^2 / fan_in. The cut takes away variance; the
    factor 1.1368 gives it back. Returns: the layer.
    Source: the authors' code, not the paper's text.
    """
    std = 1.1368 / fan_in**0.5
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight *= outscale
    return layer


class Linear(nn.Linear):
    """A dense layer with Dreamer's initialisation; `outscale` 0 starts at exactly 0.

    Source: as `init_`.
    """

    def __init__(self, inputs: int, outputs: int, outscale: float = 1.0):
        super().__init__(inputs, outputs)
        init_(self, inputs, outscale)


# %% [markdown]
# The last argument, `outscale`, makes a layer start small. The reward head and the
# critic use 0, so that their first predictions are exactly 0. The actor uses 0.01.
#
# Now back to the twenty layers. We try them with our initialisation, and with our
# initialisation and RMSNorm.

# %% [markdown] tags=["predict"]
# **Predict.** Sketch three curves into one picture: how much the outputs still differ
# after each of twenty layers, (a) as PyTorch makes them, (b) with our initialisation,
# (c) with RMSNorm as well. Which of them reach the right edge with something left?
#
# <details><summary>Answer</summary>
#
# Only (c), where more than a fifth is left. With our weights alone less gets lost,
# because PyTorch's have only a third of the variance. But SiLU swallows most of what is
# negative in every layer, and weights of variance $1/n$ do not make up for that. Larger
# ones could at the start, but training moves them. The norm sets the size anew each time.
#
# </details>

# %%
weights = Linear(1024, 1024).weight.detach().flatten() * 1024**0.5
blocks = [nn.Sequential(Linear(256, 256), nn.SiLU()) for _ in range(20)]
normed = [nn.Sequential(Linear(256, 256), RMSNorm(256), nn.SiLU()) for _ in range(20)]
with torch.no_grad():
    init_sizes = differences_through(blocks, x)
    normed_sizes = differences_through(normed, x)

claim("the weights have variance 1 / fan-in within 1 %", abs(weights.var() - 1) < 0.01)
claim("no weight lies beyond 2 x 1.1368 of its unit", weights.abs().max() <= 2.2737)
claim("with the norm, more than a fifth is left", normed_sizes[-1] > 0.2)

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.0))
look = {"bins": np.linspace(-4, 4, 81), "density": True, "histtype": "step"}
axes[0].hist(torch.randn(100_000).numpy(), label="normal", **look, **line("naive"))
axes[0].hist(weights.numpy(), label="ours, unit variance", **look, **line("ours"))
axes[0].set(xlabel=r"weight [$1/\sqrt{n}$]", ylabel="density [1]", ylim=(0, 0.6))
axes[0].legend(loc="upper center")
axes[1].semilogy(naive_sizes, **line("naive"), label="PyTorch's layers")
dashed = line("neutral") | {"linestyle": "-."}
axes[1].semilogy(init_sizes, **dashed, label="our initialisation")
axes[1].semilogy(normed_sizes, **line("ours"), label="and RMSNorm")
axes[1].set(xlabel="layer [1]", ylabel="difference of outputs [1]")
axes[1].legend()
show(
    fig,
    alt="Our weights end at 2.27 of their standard deviations; only with RMSNorm do "
    "inputs stay different.",
)

# %% [markdown]
# On the left, our weights have the same variance as the normal distribution beside
# them, and end at the cut. It is at 2.27 and not at 2, because the factor 1.1368
# stretches it with the weights. On the right, the solid blue line is the one with
# RMSNorm. It still falls a little, because SiLU makes the outputs slightly more similar
# in every layer. But the signal survives.

# %% [markdown] tags=["aside"]
# ### Aside: where the factor 1.1368 comes from
#
# About 5 % of a normal distribution lie beyond two standard deviations. They are drawn
# again, inside. These are few, but their squares are the largest, so the variance drops
# to 0.774. With the density $\varphi$ and the distribution function $\Phi$ of a normal,
# it is $1 - \frac{2 \cdot 2\,\varphi(2)}{2\Phi(2) - 1}$. Stretching the weights by
# $1/\sqrt{0.774} = 1.1368$ makes up for it.

# %%
normal = torch.distributions.Normal(0.0, 1.0)
two = torch.tensor(2.0)
density, inside = normal.log_prob(two).exp(), 2 * normal.cdf(two) - 1
variance = 1 - 4 * density / inside
print(f"standard deviation after the cut: {variance.sqrt().item():.4f}")
print(f"the factor that makes up for it:  {1 / variance.sqrt().item():.4f}")


# %% [markdown] tags=["aside"]
# ### Aside: a last layer that keeps mirrored bins equal
#
# The reward head and the critic end in 255 outputs, one for each bin of notebook 02. No
# reward ever comes near the outer bins. So the two bins of an outer pair get the same
# gradient in every update, keep the same probability, and cancel.
#
# They must cancel exactly. If the two probabilities differ in the last digit of
# float32, 0.2 is left over, and the agent sees a reward that is not there.
#
# An ordinary layer does not manage this. The gradient of its bias is a sum over the
# batch, and PyTorch adds the last few of the 255 sums in another order than the rest.
# So about 14 of the 127 pairs differ in the last bit. The optimizer does not shrink
# such a difference, because it divides by the size of the gradient.
#
# The gradients of the *weights* come out of a matrix product, which adds all outputs in
# the same order. So we let the product do the bias, too, as the weight of one more
# input that is always 1.

# %%
#| export
class TwoHotHead(Linear):
    """The last layer of a two-hot prediction: its outputs are 0 before training.

    The bias is computed as the weight of one more input, which is always 1, so that
    mirrored bins with equal gradients change equally, to the last bit.
    Args: inputs; bins, the number of outputs.
    Source: DreamerV3, "Robust predictions", for the zeros; the extra input is ours.
    """

    def __init__(self, inputs: int, bins: int = 255):
        super().__init__(inputs, bins, outscale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.weight, self.bias[:, None]], 1)
        return F.linear(torch.cat([x, torch.ones_like(x[..., :1])], -1), weight)


# %% [markdown]
# It computes what an ordinary layer does, and a mirrored gradient stays mirrored:

# %%
head = TwoHotHead(256)
nn.init.normal_(head.weight), nn.init.normal_(head.bias)
ordinary = F.linear(x, head.weight, head.bias)
compare("with and without the extra input", head(x), ordinary, 1e-4)

below = torch.rand(512, 127)  # gradients of the bins below 0, for 512 rows
mirrored = torch.cat([below, torch.rand(512, 1), below.flip(1)], 1)
head(x).backward(mirrored)
for name, tensor in head.named_parameters():
    compare(f"gradient of the {name}", tensor.grad, tensor.grad.flip(0), tolerance=0)


# %% [markdown]
# ## The MLP
#
# Now we can build networks. Every fully connected one, called an **MLP**, has the same
# form: linear layer, norm and SiLU, a few times over, and then a plain linear layer if
# outputs are asked for.

# %%
#| export
class MLP(nn.Sequential):
    """`layers` times [Linear, RMSNorm, SiLU], then a Linear if `outputs` is given.

    Args: inputs, units, outputs: widths; outscale: of the last layer's initialisation
    (0.01 for the actor).
    Source: DreamerV3, Methods, "Networks".
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int = 1,
        outputs: int | None = None,
        outscale: float = 1.0,
    ):
        parts = []
        for width in [inputs] + [units] * (layers - 1):
            parts += [Linear(width, units), RMSNorm(units), nn.SiLU()]
        if outputs is not None:
            parts.append(Linear(units, outputs, outscale))
        super().__init__(*parts)


# %%
silent = MLP(4, 8, outputs=3, outscale=0.0)(torch.randn(5, 4))
compare("a head that starts at 0", silent, torch.zeros(5, 3), tolerance=0)


# %% [markdown]
# ## Block-diagonal layers
#
# One layer of the agent would be too large as an ordinary `Linear`. In notebook 05 the
# memory $h$ has 1,024 numbers. The last of the layers that compute a new memory reads as
# many numbers and returns 3,072. An ordinary layer
# needs a matrix of three million weights for that, nearly as many as the whole world
# model that plays Mario ends up with.
#
# > **The paper says** (Methods, "Networks"): the sequence model is a GRU with
# > block-diagonal recurrent weights of eight blocks, which allows many memory units
# > without the quadratic growth of parameters and arithmetic.
#
# In our words: cut input and output into 8 pieces each, and let piece $k$ of the input
# reach only piece $k$ of the output. (The GRU is a memory cell, see notebook 05.) Here
# is a toy with two blocks, written as a dense matrix.

# %%
def block_matrix(weight):
    """The dense matrix [inputs, outputs] of block weights [blocks, in, out]."""
    return torch.block_diag(*weight)


toy = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])  # 2 blocks
print(block_matrix(toy))
print(torch.tensor([1.0, 1.0, 1.0, 0.0]) @ block_matrix(toy))


# %% [markdown]
# By hand: the first piece $(1, 1)$ gives $(1 + 3, 2 + 4) = (4, 6)$, and the second
# piece $(1, 0)$ gives $(5, 6)$. The exported layer never builds the zeros. It
# multiplies all blocks at once, as a batch of small matrices.

# %%
#| export
class BlockLinear(nn.Module):
    """A dense layer whose weight is block-diagonal: [..., inputs] -> [..., outputs].

    Block k of the input reaches block k of the output only, which divides weights and
    arithmetic by `blocks`. With `blocks=1` it is `Linear`. The initialisation counts
    the full input width as fan-in.
    Raises: ValueError if `blocks` does not divide both widths.
    Source: DreamerV3, Methods, "Networks"; the fan-in is that of the authors' code.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int = 8):
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(
                f"BlockLinear expects widths that {blocks} blocks divide, but got "
                f"{inputs} inputs and {outputs} outputs; choose multiples of {blocks}."
            )
        self.blocks = blocks
        shape = (blocks, inputs // blocks, outputs // blocks)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(outputs))
        init_(self, inputs)

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[:-1]
        x = x.reshape(-1, self.blocks, x.shape[-1] // self.blocks).transpose(0, 1)
        y = torch.bmm(x, self.weight).transpose(0, 1)
        return y.reshape(*lead, -1) + self.bias.to(y.dtype)


# %%
layer = BlockLinear(4, 4, blocks=2)
with torch.no_grad():
    layer.weight.copy_(toy)
mine = layer(torch.tensor([1.0, 1.0, 1.0, 0.0]))
compare("by hand", mine, torch.tensor([4.0, 6.0, 5.0, 6.0]), tolerance=0)

big = BlockLinear(1024, 3072, blocks=8)
inputs = torch.randn(16, 60, 1024)
compare("the dense matrix", big(inputs), inputs @ block_matrix(big.weight), 1e-4)
print("weights dense:", 1024 * 3072, "| in 8 blocks:", big.weight.numel())

# %% [markdown] tags=["predict"]
# **Predict.** Draw a weight matrix of 64 x 64 with 8 blocks, and blacken the weights
# that are not 0. What share of the square is black? And if you change only the first
# input, how many of the 64 outputs can change?
#
# <details><summary>Answer</summary>
#
# Eight small squares along the diagonal, one eighth of the whole. The first input
# reaches only the eight outputs of its own block.
#
# </details>

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.4))
many = block_matrix(BlockLinear(64, 64, 8).weight.detach())
for axis, blocks, weight in zip(axes, (2, 8), (block_matrix(toy), many)):
    axis.imshow(weight != 0, cmap="Greys", vmin=0, vmax=1.4)
    left = (weight != 0).sum()
    axis.set(title=f"{blocks} blocks: {left} of {weight.numel()} weights")
    axis.set(xlabel="output [1]", ylabel="input [1]")
    axis.grid(False)
axes[0].set(xticks=range(4), yticks=range(4))
for i, o in (block_matrix(toy) != 0).nonzero().tolist():
    number = f"{block_matrix(toy)[i, o]:.0f}"
    axes[0].text(o, i, number, color=COLORS["paper"], ha="center", va="center")
show(fig, alt="Two blocks fill half of the toy's matrix, eight an eighth of another.")


# %% [markdown]
# One detail is easy to miss. The initialisation counts the full input width as fan-in,
# 1,024 here and not 128, as the [authors' code](https://github.com/danijar/dreamerv3)
# does. So the weights have the variance 1/1,024, but an output adds up only 128
# products. Its variance is 1/8 instead of 1, and it starts $\sqrt 8$ times smaller than
# usual. A well-known re-implementation [counted the width of one
# block](https://github.com/pytorch/rl/pull/4128) for a while.
#
# ## From stored values to numbers
#
# What do the layers read? In notebook 03 an observation is a dictionary of pictures,
# vectors, choices and texts, each with a *field* that says how it is stored. Here the
# stored values become numbers for a network.
#
# A picture goes to the range from 0 to 1, by the bounds of its space. For a frame the
# highest value is 255, for a mask it is 1. A mask that was divided by 255 would be
# black for the model. The encoder below subtracts 0.5 before its convolutions, so that the
# numbers lie around 0. The decoder draws from 0 to 1, so its loss compares with the picture
# before that subtraction.

# %%
#| export
def scale_picture(field: Field, value: Tensor) -> Tensor:
    """A picture [..., *shape] as [..., H, W, C] from 0 to 1, channels last.

    Source: the authors' code divides bytes by 255; ours goes by the space's bounds.
    """
    if len(field.shape) == 2:
        value = value[..., None]
    elif field.shape != field.frame:
        value = value.movedim(-3, -1)
    value = value - field.low if field.low else value
    return value / (field.high - field.low)


def flatten_vector(field: Field, value: Tensor) -> Tensor:
    """One key as [..., width]: one-hots of its choices, else symlog of its numbers.

    Source: DreamerV3, Methods, "Networks".
    """
    lead = value.shape[: value.dim() - len(field.shape)]
    value = value.reshape(*lead, -1)
    if not field.sizes:
        return symlog(value.float())
    # F.one_hot would wait for a GPU.
    ranges = [(low, low + n) for low, n in zip(field.starts, field.sizes)]
    choices = [torch.arange(*ends, device=value.device) for ends in ranges]
    hots = [value[..., i, None] == choice for i, choice in enumerate(choices)]
    return torch.cat(hots, -1).float()


# %% [markdown]
# Our example is the screen, Mario's position along the level in pixels, and the button
# that is pressed. The position is 40 at the start and 3,161 at the flag, which is why
# it goes through symlog.

# %%
spaces = gym.spaces.Dict(
    screen=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
    position=gym.spaces.Box(0, np.inf, ()),
    button=gym.spaces.Discrete(5),
)
fields = read_spaces(spaces)
print({name: field.kind for name, field in fields.items()})
print(flatten_vector(fields["position"], torch.tensor([40.0, 3161.0])))
print(flatten_vector(fields["button"], torch.tensor([3])))

# %% [markdown] tags=["aside"]
# ### Aside: masks, levers and whole numbers
#
# A mask of zeros and ones and a frame of bytes both end up between 0 and 1, and
# pictures never go through symlog. Two choices, of three and of two, become two
# one-hots side by side.
#
# Whole numbers in a `Box` count as a vector here, with symlog and a squared error. The
# authors' code takes them for choices, with one-hots and a cross entropy. If yours are
# names and not amounts, declare them as `MultiDiscrete`.

# %%
more = {
    "mask": gym.spaces.Box(0, 1, (16, 16), np.uint8),
    "levers": gym.spaces.MultiDiscrete([3, 2]),
}
more = read_spaces(gym.spaces.Dict(more))
mask = scale_picture(more["mask"], torch.ones(16, 16, dtype=torch.uint8))
print(list(mask.shape), "highest value:", mask.max().item())
print(flatten_vector(more["levers"], torch.tensor([2, 0])))

# %% [markdown]
# ## The encoder
#
# Four convolutions halve the sides of a picture, from 64 to 32, 16, 8 and 4. The first
# makes `depth` channels, and each of the others doubles their number. A kernel of 4
# with stride 2 and padding 1 halves any even side exactly.
#
# > **The paper says** (Methods, "Networks"): images are encoded by convolutions with
# > stride 2 down to a resolution of 6 x 6 or 4 x 4, and decoded by transposed convolutions
# > with stride 2 and a sigmoid at the end; vectors go through MLPs of three layers, after
# > symlog.
#
# The authors' [newest code](https://github.com/danijar/dreamerv3) pools instead of
# striding. We follow the text, because stride 2 needs several times less arithmetic.

# %% [markdown] tags=["predict"]
# **Predict.** A kernel of 4 x 4 ones slides over an image of 8 x 8 ones, with stride 2
# and padding 1, and gives 4 x 4 numbers. Are all of them equal? If not, where are they
# smallest, and why?
#
# <details><summary>Answer</summary>
#
# They are smallest in the corners. The padding is 0, and it hides one row or column of
# the window at an edge, and one of each in a corner. So there is 16 inside, 12 at an
# edge and 9 in a corner.
#
# </details>

# %%
ones = torch.ones(1, 1, 8, 8)
print(F.conv2d(ones, torch.ones(1, 1, 4, 4), stride=2, padding=1)[0, 0])
print(
    F.conv_transpose2d(ones[..., :4, :4], torch.ones(1, 1, 4, 4), stride=2, padding=1)
)


# %% [markdown]
# The second table is the way back, the transposed convolution. There every input adds
# a copy of the 4 x 4 kernel to the output, and neighbouring copies begin two pixels
# apart. Notice that a pixel inside is only 4: just $2 \times 2$ copies overlap there.
# In other words, only a quarter of the kernel's 16 places meets an input.
#
# So the fan-in of a convolution is $16 \cdot C_\mathrm{in}$, and that of a transposed
# one is $4 \cdot C_\mathrm{in}$, where $C_\mathrm{in}$ is the number of channels that
# come in. If we counted the whole kernel there, too, the weights would get a quarter
# of the variance that they need, and every such layer would halve the size of the
# signal.
#
# The norm of a convolution works over the channels, at each position by itself.

# %%
#| export
class ChannelNorm(RMSNorm):
    """RMSNorm over the channels of [N, C, H, W], at every position.

    Source: DreamerV3, Methods, "Networks".
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv_stack(layer: type[nn.Module], widths: list[int], taps: int) -> nn.Sequential:
    """Convolutions through `widths` channels, each with norm and SiLU.

    Args: layer, nn.Conv2d to halve or nn.ConvTranspose2d to double the sides each
    time; taps, inputs in one channel that reach an output (16, or 4 transposed).
    Source: DreamerV3, Methods, "Networks".
    """
    parts = []
    for inputs, outputs in pairwise(widths):
        conv = layer(inputs, outputs, 4, stride=2, padding=1)
        parts += [init_(conv, taps * inputs), ChannelNorm(outputs), nn.SiLU()]
    return nn.Sequential(*parts)


# %% [markdown] tags=["aside"]
# ### Aside: pictures of other sizes
#
# Sides of 64 can be halved four times, but sides of 84 cannot. We pad such a picture
# with grey, at the right and at the bottom, to the next multiple of 16: 84 becomes 96.
# Nothing is resized, so no pixel is lost. The price is arithmetic, because 96 x 96 is a
# third more than 84 x 84.

# %%
#| export
def padded(side: int) -> int:
    """The next multiple of 16. Source: none; the authors resize to 64 or 96."""
    return -side % 16 + side


# %% [markdown] tags=["aside"]
# ### Aside: reading text
#
# A text is a row of bytes, as many as its space allows. A character needs its
# neighbours, at any distance, so we let every character look at all others, in a small
# *transformer* with two layers.
#
# A transformer sees a set, in no order. So each place adds a pattern of sines and
# cosines to the character's embedding. The mean over the characters is one vector for
# the whole text.

# %%
#| export
class TextEncoder(nn.Module):
    """Texts [..., L] of bytes -> [..., width]: attention, then the mean.

    Args:
        length: L, characters of the longest text.
        width: of the embedding of a character.
        heads, layers: of the transformer; there is no dropout.

    Source: "Attention Is All You Need", section 3; not part of DreamerV3.
    """

    def __init__(self, length: int, width: int = 128, heads: int = 4, layers: int = 2):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        rates = torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
        angle = torch.arange(length)[:, None] * rates
        place = torch.cat([angle.sin(), angle.cos()], -1)
        self.register_buffer("place", place, persistent=False)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, text: Tensor) -> Tensor:
        flat = text.flatten(0, -2)
        empty = flat == 0
        empty[:, 0] = False  # a text without characters has one: nothing
        x = self.embedding(flat.int()) + self.place[: flat.shape[-1]]
        x = self.layers(x, src_key_padding_mask=empty)
        there = (~empty)[..., None].to(x.dtype)
        mean = (x * there).sum(1) / there.sum(1)
        return mean.unflatten(0, text.shape[:-1])


# %% [markdown]
# Two short checks. The zeros that fill up a short text must not change the result. The
# order of the characters must change it.

# %%
torch.manual_seed(0)
reader = TextEncoder(20)
lines = [b"red door", b"door red", b""]
text = torch.tensor([list(line.ljust(20, b"\0")) for line in lines], dtype=torch.uint8)
with torch.no_grad():
    read, short = reader(text), reader(text[:1, :8])
compare("filled up or not", read[0], short[0], tolerance=1e-5)
compare("another order", read[0], read[1], expect="different")


# %% [markdown]
# ### All of them together
#
# The encoder joins the parts. Pictures of one size go through one stack of
# convolutions, side by side as channels. Numbers and choices go through an MLP. All
# results are laid end to end, and that is the embedding.

# %%
#| export
def keys_of(fields: dict[str, Field], *kinds: str) -> list[str]:
    """Sorted keys of these kinds. Source: none, bookkeeping."""
    return sorted(key for key, field in fields.items() if field.kind in kinds)


def pictures_by_size(fields: dict[str, Field]) -> list[list[str]]:
    """Keys of the pictures, those of one height and width together: at least one list.

    Source: none, bookkeeping.
    """
    sizes = {}
    for key in keys_of(fields, "picture"):
        sizes.setdefault(fields[key].frame[:2], []).append(key)
    return list(sizes.values()) or [[]]


class Encoder(nn.Module):
    """Dictionary observations [B, T, ...] (or [B, ...]) -> one embedding [..., size].

    Pictures go through four convolutions that halve each side, numbers and choices
    through an MLP, texts through a transformer; the results are laid end to end.

    Args:
        spaces: a Dict of observations.
        depth: channels of the first convolution (then x2, x4, x8).
        units: width of the MLP.

    Attributes:
        size: width of the embedding.

    Source: DreamerV3, Methods, "Networks"; text is ours.
    """

    def __init__(self, spaces: gym.Space, *, depth: int, units: int):
        super().__init__()
        self.fields, self.size = read_spaces(spaces), 0
        self.images, *others = pictures_by_size(self.fields)
        if self.images:
            frames = [self.fields[key].frame for key in self.images]
            channels, (height, width, _) = sum(c for _, _, c in frames), frames[0]
            widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
            self.conv = conv_stack(nn.Conv2d, widths, 16)
            self.size += 8 * depth * (padded(height) // 16) * (padded(width) // 16)
        self.vectors = keys_of(self.fields, "vector", "choices")
        if self.vectors:
            inputs = sum(self.fields[key].width for key in self.vectors)
            self.mlp = MLP(inputs, units, 3)
            self.size += units
        self.texts = keys_of(self.fields, "text")
        if self.texts:
            self.text = TextEncoder(max(self.fields[key].width for key in self.texts))
            self.size += len(self.texts) * self.text.embedding.embedding_dim
        sizes = [gym.spaces.Dict({k: spaces[k] for k in keys}) for keys in others]
        self.others = nn.ModuleList(
            Encoder(part, depth=depth, units=units) for part in sizes
        )
        self.size += sum(other.size for other in self.others)

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        parts, fields = [], self.fields
        if self.images:
            images = [scale_picture(fields[key], obs[key]) for key in self.images]
            x = (torch.cat(images, -1) if images[1:] else images[0]) - 0.5  # centred
            lead = x.shape[:-3]
            x = x.flatten(0, -4).permute(0, 3, 1, 2)
            height, width = x.shape[-2:]
            if padded(height) > height or padded(width) > width:
                x = F.pad(x, (0, padded(width) - width, 0, padded(height) - height))
            parts.append(self.conv(x).reshape(*lead, -1))
        if self.vectors:
            flat = [flatten_vector(fields[key], obs[key]) for key in self.vectors]
            parts.append(self.mlp(torch.cat(flat, -1)))
        parts += [self.text(obs[key]) for key in self.texts]
        parts += [other(obs) for other in self.others]
        return torch.cat(parts, -1)


# %% [markdown] tags=["predict"]
# **Predict.** Our example has a screen of 64 x 64, one vector and one choice. The first
# convolution makes 16 channels, and the MLP returns 128 numbers. Which part of the
# embedding is wider, that of the screen or that of the other two? And if the screen had
# sides of 128, would its part stay as wide, get twice as wide, or four times?
#
# <details><summary>Answer</summary>
#
# The screen's part is far wider: 4 x 4 positions with 128 channels are 2,048 numbers,
# and the position and the button together give 128. With sides of 128 there are 8 x 8
# places, so it gets four times as wide.
#
# </details>

# %%
torch.manual_seed(0)
encoder = Encoder(spaces, depth=16, units=128)
example = {
    "screen": frames[:, 100:104],
    "position": torch.full((streams, 4), 123.0),
    "button": torch.zeros(streams, 4).long(),
}
print("embedding:", list(encoder(example).shape))
for side in (64, 128):
    bigger = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
    width = Encoder(gym.spaces.Dict(screen=bigger), depth=16, units=128).size
    print(f"a screen of {side} x {side} alone: {width}")

# %% [markdown]
# Here is one frame on its way through this encoder, which has learnt nothing yet: the
# mean size of the channels after each convolution. Look for the edges. Even random
# kernels answer where the picture changes.

# %% tags=["hide-input"]
x = (frames[0, 100] / 255 - 0.5).permute(2, 0, 1)[None]
fig, axes = plt.subplots(1, 5, figsize=(8, 2.1))
axes[0].imshow(frames[0, 100])
axes[0].set_title("64 x 64 x 3", fontsize=9)
with torch.no_grad():
    for axis, stage in zip(axes[1:], range(0, 12, 3)):
        x = encoder.conv[stage : stage + 3](x)  # convolution, norm, SiLU
        axis.imshow(x[0].abs().mean(0), cmap="cividis")
        axis.set_title("{1} x {2} x {0}".format(*x.shape[1:]), fontsize=9)
for axis in axes:
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
show(fig, alt="A frame shrinks from 64 x 64 x 3 to 4 x 4 x 128 in four convolutions.")


# %% [markdown]
# ## The decoder and its loss
#
# Now the way back. The decoder reads the state of the world model, the memory $h$ and
# the latent $z$. Notebook 05 builds them; here they are just two vectors.
#
# The large memory enters through a `BlockLinear`, the latent through an MLP. Their sum
# is a picture of 4 x 4 positions, which four transposed convolutions blow up. A sigmoid
# brings the result between 0 and 1.
#
# > **The paper says** (equation 3): the prediction loss is the negative log-likelihood
# > of what was observed. For images and vectors that is a squared error, in symlog
# > space for vectors.
#
# In our words: the likelihood says how probable the model finds what was observed, and its
# negative logarithm is the loss. For numbers we take a Normal of width 1 around each
# predicted number; by the formula in notebook 02, half the squared error is left. The
# squared error of an image is **summed** over its 12,288 numbers, and then averaged over
# batch and time. Choices and the characters of a text cost their cross entropy. The factor
# 1/2 of equation 8 is neither in the [published
# code](https://github.com/danijar/dreamerv3) nor in ours.

# %%
#| export
class TextDecoder(nn.Sequential):
    """Features [..., units] -> logits of every character [..., length, 256].

    Args:
        units: width of the features.
        length: characters of the text.
        width: numbers for each place.

    Source: none; not part of DreamerV3.
    """

    def __init__(self, units: int, length: int, width: int = 32):
        places = nn.Unflatten(-1, (length, width))
        head = RMSNorm(width), nn.SiLU(), Linear(width, 256)
        super().__init__(Linear(units, length * width), places, *head)


def module_name(key: str) -> str:
    """A name under which PyTorch takes a module for `key`. Source: none."""
    name = key.replace(".", "/") or "_"
    return name + "_" if hasattr(nn.ModuleDict(), name) else name


class Decoder(nn.Module):
    """Features [..., deter + stoch] -> a reconstruction of every observation key.

    Pictures: h through a BlockLinear and z through an MLP are added at a sixteenth of
    the sides, then four transposed convolutions mirror the encoder; a sigmoid ends
    them. All others share one MLP, and each has a head.

    Args:
        spaces: a Dict of observations.
        deter, stoch: widths of h and of the flat z.
        depth, units: as in the encoder.
        blocks: of the BlockLinear.

    Source: DreamerV3, Methods, "Networks", and equation 3.
    """

    def __init__(
        self,
        spaces: gym.Space,
        *,
        deter: int,
        stoch: int,
        depth: int,
        units: int,
        blocks: int,
    ):
        super().__init__()
        self.fields, self.deter = read_spaces(spaces), deter
        self.images, *others = pictures_by_size(self.fields)
        if self.images:
            frames = [self.fields[key].frame for key in self.images]
            self.frame, self.channels = frames[0][:2], [c for _, _, c in frames]
            self.grid = (8 * depth, *(padded(side) // 16 for side in self.frame))
            start = math.prod(self.grid)
            self.from_h = BlockLinear(deter, start, blocks)
            self.from_z = MLP(stoch, 2 * units, 1, start)
            self.norm = ChannelNorm(8 * depth)
            widths = [8 * depth, 4 * depth, 2 * depth, depth, sum(self.channels)]
            self.conv = conv_stack(nn.ConvTranspose2d, widths, 4)[:-2]  # plain end
        self.rest = keys_of(self.fields, "vector", "choices", "text")
        if self.rest:
            self.mlp = MLP(deter + stoch, units, 3)
            self.heads = nn.ModuleDict()
        for key in self.rest:
            field = self.fields[key]
            head = TextDecoder if field.kind == "text" else Linear
            self.heads[module_name(key)] = head(units, field.width)
        size = dict(deter=deter, stoch=stoch, depth=depth, units=units, blocks=blocks)
        parts = [gym.spaces.Dict({k: spaces[k] for k in keys}) for keys in others]
        self.others = nn.ModuleList(Decoder(part, **size) for part in parts)

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """Reconstruct every key.

        Returns:
            {key: tensor}. Pictures are [..., H, W, C] from 0 to 1, channels last,
            vectors [..., n] in symlog units, choices [..., width] and texts
            [..., length, 256] logits.
        """
        recon = {}
        if self.images:
            flat = feature.flatten(0, -2)
            h, z = flat[:, : self.deter], flat[:, self.deter :]
            x = (self.from_h(h) + self.from_z(z)).unflatten(-1, self.grid)
            height, width = self.frame
            x = self.conv(F.silu(self.norm(x)))[..., :height, :width]
            x = torch.sigmoid(x.float()).permute(0, 2, 3, 1)
            x = x.unflatten(0, feature.shape[:-1])
            recon |= zip(self.images, x.split(self.channels, -1))
        if self.rest:
            x = self.mlp(feature)
            heads = zip(self.rest, self.heads.values())
            recon |= {key: head(x).float() for key, head in heads}
        for other in self.others:
            recon |= other(feature)
        return recon

    def loss(
        self, recon: dict[str, Tensor], obs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Reconstruction losses {key: [B, T]}, summed over pixels or dimensions.

        Pictures: squared error in [0, 1]. Vectors: squared error in symlog space.
        Choices and texts: cross entropy in nats. Summed, not averaged: a picture of
        12,288 numbers must outweigh the price in nats (the KL) of a latent of 32
        categoricals.
        """
        losses = {}
        for key, field in self.fields.items():
            guess, value = recon[key], obs[key]
            if field.kind == "picture":
                error = guess - scale_picture(field, value)
                losses[key] = error.square().sum((-1, -2, -3))
            elif field.kind == "text":
                right = value.flatten().long()
                nats = F.cross_entropy(guess.flatten(0, -2), right, reduction="none")
                losses[key] = nats.view(value.shape).sum(-1)
            elif field.kind == "choices":
                target = flatten_vector(field, value)
                pairs = zip(guess.split(field.sizes, -1), target.split(field.sizes, -1))
                losses[key] = sum(-(t * g.log_softmax(-1)).sum(-1) for g, t in pairs)
            else:
                error = guess - flatten_vector(field, value)
                losses[key] = error.square().sum(-1)
        return losses


# %% [markdown] tags=["aside"]
# ### Aside: the losses before training
#
# A wrong scale shows in the very first loss, so it is worth knowing what that should
# be. The last convolution receives $\mathrm{SiLU}(n)$ of a normed signal $n$. If $n$ is
# distributed like a normal, the mean square of $\mathrm{SiLU}(n)$ is $0.356$. The
# initialisation keeps that, so the sigmoid sees numbers of variance $0.356$, and
# returns $0.5$ with a variance of $0.0190$ around it.
#
# The error of a pixel $x$ is therefore $(0.5 - x)^2 + 0.0190$ on average. The position
# is predicted near 0, and costs about the square of its target. The button begins a
# little above $\ln 5 = 1.61$ nats.

# %%
n = torch.linspace(-8, 8, 100_001).double()
weight = (-n.square() / 2).exp() / (-n.square() / 2).exp().sum()  # a normal signal
silu = (weight * F.silu(n).square()).sum()
spread = (weight * (torch.sigmoid(n * silu.sqrt()) - 0.5).square()).sum()
print(f"mean square after SiLU: {silu.item():.3f}")
print(f"variance after the sigmoid: {spread.item():.4f}")

# %%
torch.manual_seed(0)
sample = frames.flatten(0, 1)[::7]
decoder = Decoder(spaces, deter=1024, stoch=256, depth=16, units=128, blocks=8)
feature = torch.randn(len(sample), 1024 + 256)
obs = {"screen": sample, "position": torch.full((len(sample),), 1000.0)}
obs["button"] = torch.arange(len(sample)) % 5
with torch.no_grad():
    first = {k: v.mean() for k, v in decoder.loss(decoder(feature), obs).items()}
by_hand = ((0.5 - sample / 255) ** 2 + spread).sum((1, 2, 3)).mean()
print(f"button, first loss: {first['button'].item():.1f} nats")
claim(
    "the image loss is within 15 % of the prediction",
    abs(first["screen"] / by_hand - 1) < 0.15,
)
claim("the button's loss is between 1.6 and 2.2 nats", 1.6 < first["button"] < 2.2)
claim("the position's is 25 to 75 (symlog(1000)^2 = 47.7)", 25 < first["position"] < 75)

# %% [markdown]
# ## Why the pixels are summed
#
# Many image models *average* the squared error over the pixels. That is only a factor
# of 12,288, and Adam does not care about a factor in front of the whole loss. So why
# does it matter?
#
# Because there is a second loss, a price on information, and the factor decides which
# of the two counts for more. Notebook 05 adds this price. It is counted in nats: how
# much about the picture could not be predicted. The first nat is free. Every further
# one costs between a tenth of a unit of loss and one unit. So the model only describes
# what saves more error than it costs to tell.

# %% [markdown]
# Is Mario worth it? To name one of $n$ equally likely things takes $\ln n$ nats, so
# telling in which of the 64 columns he is takes up to $\ln 64 = 4.16$.
#
# To see what drawing him saves, we need the same scene without him. Eight steps after
# the start he has moved on, and in three of four episodes the camera has not. The
# median of such frames is the empty scene.

# %%
starts = [(s, t) for s, t in np.argwhere(replay.data["is_first"]) if t + 8 < rows]
later = torch.stack([frames[s, t + 8] for s, t in starts])
empty = later.float().median(0).values / 255
scene = frames[starts[0]] / 255
grey = torch.tensor([0.299, 0.587, 0.114])
difference = scene - empty
in_colour = difference.square().sum().item()
in_grey = (difference @ grey).square().sum().item()
averaged = difference.square().mean().item()

# %% [markdown] tags=["predict"]
# **Predict.** Drawing Mario saves some squared error. In colour and with summed pixels,
# does it save more than the price of 4.16? Does it still, if the frames are grey? And
# if they are in colour, but the error is averaged over the pixels?
#
# <details><summary>Answer</summary>
#
# Only in colour and summed. In grey he is nearly as bright as what is behind him, and
# saves less than a tenth of the price. Averaged, he saves less than a thousandth of it.
#
# </details>

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 3, figsize=(8, 2.7), width_ratios=(1, 1, 1.6))
for axis, image, title in zip(axes, (scene, empty), ("with Mario", "without")):
    axis.imshow(image)
    axis.set(title=title, xticks=[], yticks=[])
    axis.grid(False)
names = ["colour,\nsummed", "grey,\nsummed", "colour,\naveraged"]
axes[2].bar(names, [in_colour, in_grey, averaged], color=COLORS["error"])
axes[2].axhline(np.log(64), **line("threshold"), label="ln 64: his column")
axes[2].axhline(np.log(64) / 10, **line("neutral"), label="a tenth of it")
axes[2].set(ylabel="saved by drawing him [1]", yscale="log", ylim=(1e-4, 200))
axes[2].legend()
show(
    fig,
    alt="Only in colour and summed does drawing Mario save more error than telling his "
    "column costs.",
)
claim("in colour and summed, drawing Mario saves more than ln 64", in_colour > 4.16)
claim("in grey it saves less than even a tenth of that price", in_grey < 4.16 / 10)
claim("averaged it saves less than a thousandth of it", averaged < 4.16 / 1000)

# %% [markdown]
# In the picture on the right, a bar that ends below both lines means that drawing Mario
# saves less than telling his column costs, even at the lowest price, a tenth of a unit
# for each nat. (The scale is logarithmic.)
#
# A prototype of this course used grey frames. It learnt to dream clouds and hills
# within minutes, and never Mario or a Goomba. The agent did not get past the first
# screens, and nothing in the loss curve looked wrong.
#
# Now the same with real training. An *autoencoder* is an encoder and a decoder that are
# trained together to give back what goes in. Ours is small: it squeezes a frame into 64
# numbers. Then it adds noise of size 1 to each, so that a number near 0 is lost in the
# noise. The further a number $m$ is from 0, the more information gets through, and the
# more it pays for that: $\frac12 m^2$ nats.
#
# Why $\frac12 m^2$? Suppose that without the frame, we expect each noisy number $y$ to
# come from a Normal of width 1 around 0. With the frame, $y$ comes from a Normal of the
# same width around $m$. The price is how much larger the logarithm of the density at $y$
# is for the second: $\frac12 y^2 - \frac12 (y-m)^2 = my - \frac12 m^2$. On average $y$ is
# $m$, so this is $\frac12 m^2$. Notebook 05 calls such a price the KL.
#
# Our decoder asks for a memory $h$ and a latent $z$. Here there is no memory, so it simply
# gets the two halves of the 64 numbers.

# %%
screen = gym.spaces.Dict(screen=spaces["screen"])


class NoisyAutoencoder(nn.Module):
    """Encoder, 64 noisy numbers with a price in nats, decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder(screen, depth=8, units=128)
        self.squeeze = Linear(self.encoder.size, 64)
        sizes = dict(deter=32, stoch=32, depth=8, units=128, blocks=8)
        self.decoder = Decoder(screen, **sizes)

    def forward(self, obs):
        mean = self.squeeze(self.encoder(obs))
        price = 0.5 * mean.square().sum(-1)
        return self.decoder(mean + torch.randn_like(mean)), price


# %% tags=["hide-input"]
def train_with(reduce, steps=200):
    """Train on `reduce` of the squared errors plus the price."""
    torch.manual_seed(0)
    model = NoisyAutoencoder()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(steps):
        batch = {"screen": everything[torch.randint(len(everything), (32,))]}
        recon, price = model(batch)
        error = (recon["screen"] - batch["screen"] / 255).square()
        loss = (reduce(error, (1, 2, 3)) + price).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


# %%
everything = frames.flatten(0, 1)
summed, averaged = train_with(torch.sum), train_with(torch.mean)

# %% [markdown] tags=["predict"]
# **Predict.** We train it twice, once with summed pixels and once with averaged ones.
# Everything else is equal. Picture the drawings of eight different frames in both
# cases. How will those of the averaged one look?
#
# <details><summary>Answer</summary>
#
# All eight drawings are the same: the mean picture, a blur of sky and ground. No detail
# is worth its price. With summed pixels the drawings begin to differ.
#
# </details>

# %% tags=["hide-input"]
shown = frames[torch.arange(8) % streams, torch.linspace(60, rows - 60, 8).long()]
with torch.no_grad():
    drawn = {}
    for name, model in {"summed": summed, "averaged": averaged}.items():
        recon, price = model({"screen": shown})
        drawn[name] = recon["screen"], price.mean().item()
pictures = torch.cat([shown / 255, drawn["summed"][0], drawn["averaged"][0]])
labels = ["real"] * 8 + ["summed"] * 8 + ["averaged"] * 8
show(
    frames_grid(pictures, labels),
    alt="Summed, the drawings begin to differ; averaged, they are all the same.",
)
claim("summed, the code pays for more than 2 nats", drawn["summed"][1] > 2)
claim("averaged, it pays for less than a tenth of a nat", drawn["averaged"][1] < 0.1)
unlike = {name: image.std(0).mean().item() for name, (image, _) in drawn.items()}
claim(
    "averaged pictures differ five times less from each other",
    unlike["averaged"] < unlike["summed"] / 5,
)


# %% [markdown]
# So this is how averaged pixels betray themselves. The code pays for almost no
# information, and every drawing is the mean picture. The image loss tells you only by
# its size: it begins near 0.1 instead of a thousand.
#
# ## The real experiment: a picture and a number
#
# Now everything together, without noise and price: an autoencoder for the screen and
# the position. The position follows from the rewards, which are progress in blocks of
# 16 pixels. The last fifth of every stream is kept for the test.

# %% tags=["hide-input"]
def positions(reward, is_first, is_last):
    """Mario's x [pixels] from the shaped rewards of one stream."""
    found, x = np.zeros(len(reward), np.float32), 40.0
    for t in range(len(reward)):
        # The reward of a last row also holds the -2 or the +5: no progress can be read.
        moved = 0.0 if is_first[t] or is_last[t] else 16 * (reward[t] + 0.02)
        x = 40.0 if is_first[t] else x + moved
        found[t] = x
    return found


columns = ("reward", "is_first", "is_last")
x = [positions(*row) for row in zip(*(replay.data[name] for name in columns))]
data = {
    "screen": frames,
    "position": torch.from_numpy(np.stack(x)),
}
cut = rows * 4 // 5
train = {key: value[:, :cut].flatten(0, 1) for key, value in data.items()}
test = {key: value[:, cut:].flatten(0, 1)[::3] for key, value in data.items()}
claim(
    "all positions lie in the level",
    (0 < data["position"]).all() & (data["position"] < 3400).all(),
)


# %%
class Autoencoder(nn.Module):
    """Encoder, 256 numbers, decoder."""

    def __init__(self, spaces, code=256, depth=16):
        super().__init__()
        self.encoder = Encoder(spaces, depth=depth, units=128)
        self.squeeze = Linear(self.encoder.size, code)
        half = code // 2
        sizes = dict(deter=half, stoch=half, depth=depth, units=128, blocks=8)
        self.decoder = Decoder(spaces, **sizes)

    def loss(self, obs):
        """Mean losses {key: number} and the reconstruction."""
        recon = self.decoder(self.squeeze(self.encoder(obs)))
        losses = self.decoder.loss(recon, obs)
        return {key: value.mean() for key, value in losses.items()}, recon


torch.manual_seed(0)
seen = gym.spaces.Dict(screen=spaces["screen"], position=spaces["position"])
model = Autoencoder(seen)
print("numbers in: 12,289 | in the code: 256")

# %% [markdown] tags=["predict"]
# **Predict.** We train for 300 updates on screen and position together. Sketch both
# losses. Does the screen's loss get below that of the best *constant* picture, or does
# it stop there? And in the drawings of frames that it has never seen: what will be
# there, and what will be missing?
#
# <details><summary>Answer</summary>
#
# Both losses fall, and the screen's gets well below that of the best constant picture.
# Sky, ground, pipes and hills are there. Mario is missing. What costs most is learnt
# first, and he costs little: of that constant picture's error of some 250, drawing him
# saves about 7.
#
# </details>

# %%
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
history = {key: [] for key in seen}
for _ in progress(300):
    index = torch.randint(len(train["screen"]), (32,))
    losses, _ = model.loss({key: value[index] for key, value in train.items()})
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    for key, value in losses.items():
        history[key].append(value.item())

# %% tags=["hide-input"]
mean_frame = train["screen"].float().mean(0) / 255
constant = (test["screen"] / 255 - mean_frame).square().sum((1, 2, 3)).mean().item()
with torch.no_grad():
    tested, recon = model.loss(test)
fig, axis = plt.subplots(figsize=(7.2, 3.2))
for key, look in {"screen": line("real"), "position": line("reward")}.items():
    axis.semilogy(history[key], **look, label=key)
axis.axhline(constant, **line("threshold"), label="screen: best constant picture")
axis.set(xlabel="update [1]", ylabel="loss [1]")
axis.legend(ncols=3, loc="lower left")
show(fig, alt="Both losses fall, the screen's below that of the best constant picture.")

# %% tags=["hide-input"]
x = torch.linspace(0, len(test["screen"]) - 1, 8).long()
show(
    strip(
        test["screen"], recon["screen"], times=x.tolist(), label="redrawn", unit="frame"
    ),
    alt="Frames that were never trained on, redrawn from 256 numbers, and the error.",
)
claim(
    "unseen screens: under 0.6 of the error of the best constant picture",
    tested["screen"] < 0.6 * constant,
)
found = symexp(recon["position"])[:, 0]
off = ((found - test["position"]).abs() / test["position"]).median()
claim("the position is off by less than 20 % in the median", off < 0.2)
print(f"drawing Mario saves {in_colour:.0f} of {round(constant, -1):.0f}")


# %% [markdown]
# So 256 numbers are enough for the scenery and for the position, which spans two orders
# of magnitude. Mario has to wait, because the large things come first. Notebook 06
# trains a whole world model, and measures how much of him it keeps.

# %% [markdown]
# ## Exercises
#
# ### Exercise 4.1: The fan-in of every layer
#
# *easy, about 8 minutes*
#
# Say which fan-in the initialisation of this notebook counts for its four kinds of
# layers. For three of them it is the number of inputs that one output sees. For the
# block layer, see the paragraph below its picture. The two kinds of convolution have
# stride 2. Read the sides of their kernel from the layer: they need not be 4.

# %% tags=["exercise-4.1"]
def fan_in(layer):
    """The fan-in that our initialisation counts; stride 2 where it convolves."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.ConvTranspose2d):
        height, width = layer.kernel_size
        raise NotImplementedError("exercise 4.1")
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        raise NotImplementedError("exercise 4.1")
    blocks, inputs, _ = layer.weight.shape  # a block layer
    raise NotImplementedError("exercise 4.1")


# %%
check("4.1", fan_in)
# solution("4.1")

# %% [markdown]
# ### Exercise 4.2: Worse when it acts
#
# *easy, about 5 minutes, one planted bug*
#
# The training reads the replay, where screens are bytes. When the agent acts, a wrapper
# hands it the same bytes as floats, 0. to 255. All losses look healthy, and the agent
# plays worse and worse. Find the bug.

# %% tags=["exercise-4.2"]
def prepare(screen):
    """Bytes 0..255, [..., H, W, C] of any dtype -> what an encoder sees: -0.5..0.5."""
    x = torch.as_tensor(screen)
    x = x / 255 if x.dtype == torch.uint8 else x
    return x - 0.5


# %%
check("4.2", prepare)
# solution("4.2")

# %% [markdown]
# ### Exercise 4.3: A block-diagonal layer
#
# *medium, about 10 minutes*
#
# `BlockLinear` multiplies all blocks at once. Write what it computes as a plain loop:
# one matrix product for each block, with the results side by side.

# %% tags=["exercise-4.3"]
def my_block_linear(x, weight, bias):
    """x [N, I], weight [blocks, I / blocks, O / blocks], bias [O] -> [N, O]."""
    raise NotImplementedError("exercise 4.3")


# %%
check("4.3", my_block_linear)
# solution("4.3")

# %% [markdown]
# ## What breaks
#
# * **Averaged pixels.** The image loss must read about a thousand at the start. If it
#   reads 0.1, it is averaged.
# * **Another preprocessing when acting.** `torch.Tensor(bytes)` makes floats from 0 to
#   255, and [code that divides only if it sees
#   bytes](https://github.com/jsikyoon/dreamer-torch/issues/11) then passes them on
#   undivided. Training looks fine, but the agent acts on other pictures than it was
#   trained on. That is why only one function scales pictures, `scale_picture`, and it
#   goes by the bounds of the space and not by the type of the data.
# * **[A norm with a shift](https://github.com/pytorch/rl/pull/4128)**, or LayerNorm
#   instead of RMSNorm. Nothing fails, and the curves just differ from the authors'.

# %% [markdown]
# ## What we built
#
# `RMSNorm`, `Linear`, `TwoHotHead`, `MLP` and `BlockLinear`, from which everything
# later is made, and `Encoder` and `Decoder`.
#
# What is missing between them is time: a single picture does not say where Mario is
# going. Next, in **05_rssm**, we put the memory in.

# %%
what_we_built("04_networks")
