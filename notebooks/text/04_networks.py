# %% [markdown]
# # 04 Networks: pixels and vectors in, one embedding out, and back
#
# **How do pixels and vectors become one embedding, and back?**
#
# Notebook 03 left us with rows: a picture of 64 x 64 x 3 bytes, perhaps a few numbers
# and a choice beside it. The world model cannot remember pictures of 12,288 numbers. It
# needs an **encoder**, which turns every observation into one short vector (the
# *embedding*), and a **decoder**, which draws the observation again from what the model
# remembers. The drawing is how the model is taught: what it cannot draw, it has not
# understood.
#
# At the end of this notebook both work on real frames of Super Mario Bros., together
# with a number, Mario's position, that comes with every frame.
#
# *You need:* notebooks 01 (symlog) and 03 (rows, spaces); linear layers and convolutions
# in PyTorch.
#
# *Measured: 0.7 minutes on two CPU cores, 0.9 GB memory, no GPU.*

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

from course import COLORS, check, claim, compare, data_path
from course import dreamer_map, frames_grid, line, progress, show, solution, strip
from course import use_style, what_we_built
from course.train_world_model import load_world_model
from dreamer_lite.replay import Replay
from dreamer_lite.symlog import symexp

use_style()
show(*dreamer_map("networks"))

# %% [markdown]
# The first cell of the module holds its docstring and its imports.

# %%
#| default_exp networks

# %%
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
# This is where we are going. The frames of the upper row come from the recording of
# notebook 03 (who played is written in `data/README.md`). Below them is how a decoder
# redraws them from a vector of 768 numbers: 512 are its memory, 256 say what was just seen.
# It belongs to a trained world model that ships with this course (a smaller one than that
# of notebook 10), and was not trained on these frames. (The third row is the error:
# white where the drawing is right, dark red where it is wrong.)

# %%
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
# Stack twenty layers as PyTorch makes them, each a linear layer and then SiLU, the
# activation of all of Dreamer's networks: $\mathrm{SiLU}(x) = x\,\sigma(x)$ with the
# sigmoid $\sigma$, almost 0 for large negative numbers and almost $x$ for large
# positive ones. Feed in 512 different inputs with numbers of size 1, and measure after
# each layer how much the outputs still differ.

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
# Twenty layers later all 512 inputs look the same: only the biases are left. A gradient
# that comes back the same way shrinks as well. Dreamer's networks are not
# twenty layers deep, but a recurrent model applies its layers at every time step: sixty
# steps are sixty times the depth. So every layer has to keep the size of its signal.
# Two things do that: a normalisation, and an initialisation that suits it.
#
# ## RMSNorm
#
# > **The paper says** ([DreamerV3](https://arxiv.org/abs/2301.04104), Methods, what is new
# > since the previous generations, and the table of hyperparameters): the networks use root
# > mean square normalisation and the SiLU activation. (The $\varepsilon$ below is that of the
# > authors' code.)
#
# We say: divide a vector by its typical size. Nothing is subtracted.
#
# $$\mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\tfrac1n \sum_i x_i^2 + \varepsilon}} \cdot
# s, \qquad \varepsilon = 10^{-4}$$
#
# The scale $s$ is learnt, one number for each entry, and starts at 1. In code:

# %%
def rms_norm_by_hand(x, scale=1.0, eps=1e-4):
    """Divide x by the root of the mean of its squares, along the last dimension."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * scale


# %% [markdown] tags=["predict"]
# **Predict.** What does it make of the vector $(3, 4)$? And of $(300, 400)$?
#
# <details><summary>Answer</summary>
#
# The mean square is $(9 + 16)/2 = 12.5$, its root $3.536$, so the result is
# $(0.849, 1.131)$. A vector that is a hundred times longer gives the same.
#
# </details>

# %%
pair = torch.tensor([[3.0, 4.0], [300.0, 400.0], [0.0, 0.0]])
for row, normed in zip(pair.tolist(), rms_norm_by_hand(pair).tolist()):
    print(row, "->", [round(value, 3) for value in normed])


# %% [markdown]
# The zero vector stays zero: $\varepsilon$ keeps the division alive, and no shift adds
# anything. The state of zeros from which every episode starts therefore passes a norm
# unharmed. (The first version of the paper, and code that follows it, uses LayerNorm,
# which subtracts the mean first: $(3, 4)$ becomes $(-1, 1)$, as would any rising pair.)
#
# The exported form computes in float32 whatever comes in, since squares overflow or
# lose digits in 16 bits.

# %%
#| export
class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, then scale (no shift).

    Computed in float32 whatever comes in; returns the dtype that came in.
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
# An output $y = \sum_{i=1}^{n} w_i x_i$ of independent inputs with variance 1 has
# variance $n \cdot \mathrm{var}(w)$. To keep it at 1, the weights need the variance
# $1/n$, where $n$ is the number of inputs of one output, the *fan-in*.
#
# Dreamer draws weights from a normal distribution that is cut at two standard
# deviations, so that no weight starts far out. The cut takes variance away.

# %% [markdown] tags=["predict"]
# **Predict.** About 5 % of a normal distribution lie beyond two standard deviations.
# They are drawn again, inside. Is the standard deviation of what remains nearer to 0.98,
# 0.88 or 0.78?
#
# <details><summary>Answer</summary>
#
# 0.88: there are few of them, but their squares are the largest. With the density
# $\varphi$ and the distribution function $\Phi$ of a normal, the variance is
# $1 - \frac{2 \cdot 2\,\varphi(2)}{2\Phi(2) - 1} = 0.774$. The weights are stretched by
# $1/\sqrt{0.774} = 1.1368$ to make up for it.
#
# </details>

# %%
normal = torch.distributions.Normal(0.0, 1.0)
two = torch.tensor(2.0)
density, inside = normal.log_prob(two).exp(), 2 * normal.cdf(two) - 1
variance = 1 - 4 * density / inside
print(f"standard deviation after the cut: {variance.sqrt().item():.4f}")
print(f"the factor that makes up for it:  {1 / variance.sqrt().item():.4f}")


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
# Does it keep its promise? On the left are the weights of one layer, in units of
# $1/\sqrt n$, beside a normal distribution of variance 1. On the right are the twenty
# layers from the beginning once more: as PyTorch makes them, with our initialisation, and
# with our initialisation and RMSNorm.

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
# PyTorch's weights have a third of this variance, $1/(3n)$, so ours alone lose less. But
# that is not enough: SiLU swallows most of what is negative, in every layer. The norm sets
# the size of the signal anew each time. (The blue line still falls, slowly: it shows how
# much the outputs *differ*, and SiLU, whose outputs above 0 are larger than those below,
# makes them a little more alike in every layer.)
#
# The last argument, `outscale`, makes a layer start small. The reward head and the
# critic use 0, so that their first predictions are exactly 0 (notebook 02 showed what
# happens otherwise); the actor uses 0.01.
#
# ## A last layer that treats mirrored bins alike
#
# The reward head and the critic end in 255 outputs, one for each bin of notebook 02. No
# reward ever comes near the outer bins, so the two of a mirrored pair get the same gradient
# in every update, keep the same probability and cancel. But 485 million times 1/255 is 1.9
# million: if the two probabilities differ in the last digit of float32, 0.2 is left over,
# and the agent sees a reward that is not there.
#
# And they do come to differ. The gradient of a bias is a sum over all rows of the batch, one
# sum for each output. PyTorch adds the last few of the 255 sums in another order than the
# rest, and so about 14 of the 127 pairs differ in the last bit. The optimizer of notebook 06
# does not shrink such a difference: it divides by the size of the gradient.
#
# The gradients of the *weights* come out of a matrix product, and it adds all outputs in the
# same order. So we let the product do the bias, too: as the weight of one more input, which
# is always 1.

# %%
#| export
class TwoHotHead(Linear):
    """The last layer of a two-hot prediction: its outputs are 0 before training.

    The bias is computed as the weight of one more input, which is always 1, so that
    mirrored bins with equal gradients are changed alike, to the last bit.
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
#
# ## The MLP
#
# Every fully connected network of Dreamer (an **MLP**, multi-layer perceptron) is built
# alike: linear layer, norm and SiLU, a few times over; then one plain linear layer if
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


# %% [markdown] tags=["predict"]
# **Predict.** How many parameters does `MLP(4, 8, layers=2, outputs=3)` have?
#
# <details><summary>Answer</summary>
#
# First layer $4 \cdot 8 + 8 = 40$, its norm $8$; second layer $8 \cdot 8 + 8 = 72$, its
# norm $8$; last layer $8 \cdot 3 + 3 = 27$. Together 155.
#
# </details>

# %%
def count(module):
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


print("parameters:", count(MLP(4, 8, layers=2, outputs=3)))
silent = MLP(4, 8, outputs=3, outscale=0.0)(torch.randn(5, 4))
compare("a head that starts at 0", silent, torch.zeros(5, 3), tolerance=0)


# %% [markdown]
# ## Block-diagonal layers
#
# The memory of notebook 05 will be a vector $h$ of 1,024 numbers, and one of its layers
# maps 1,024 numbers onto 3,072. Dense, that is a matrix of three million weights,
# nearly as many as the whole world model that plays Mario ends up with.
#
# > **The paper says** (Methods, "Networks"): the sequence model is a GRU with
# > block-diagonal recurrent weights of eight blocks, which allows many memory units
# > without the quadratic growth of parameters and arithmetic.
#
# We say (the GRU, a memory cell with gates, is the subject of notebook 05): cut the
# input into 8 pieces and the output into 8 pieces, and let piece $k$ of the input reach
# only piece $k$ of the output. The weight matrix keeps 8 squares on its diagonal and is
# 0 elsewhere.

# %%
def block_matrix(weight):
    """The dense matrix [inputs, outputs] of block weights [blocks, in, out]."""
    return torch.block_diag(*weight)


toy = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])  # 2 blocks
print(block_matrix(toy))
print(torch.tensor([1.0, 1.0, 1.0, 0.0]) @ block_matrix(toy))


# %% [markdown]
# By hand: the first piece $(1, 1)$ gives $(1 + 3, 2 + 4) = (4, 6)$, the second piece
# $(1, 0)$ gives $(5, 6)$. The exported layer never builds the zeros. It multiplies all
# blocks at once, as a batch of small matrices.

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

# %% [markdown]
# With one block nothing is left out. Weights and inputs that are small whole numbers make
# every sum exact, so here "the same" means every bit.

# %%
one = BlockLinear(6, 4, blocks=1)
whole = torch.randint(-3, 4, (6, 4)).float()
with torch.no_grad():
    one.weight[0] = whole
numbers = torch.randint(-5, 6, (10, 6)).float()
compare("one block and a dense layer", one(numbers), numbers @ whole, tolerance=0)

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
# The initialisation counts the full input width as fan-in (1,024 here, not 128), as the
# [authors' code](https://github.com/danijar/dreamerv3) does. So the outputs start
# $\sqrt 8$ times smaller than usual. Where a norm follows, it makes up for that; where
# none follows, at the gates of notebook 05, they just start closer to 0. It is an easy
# detail to miss: at least one well-known re-implementation
# [counted the width of one block](https://github.com/pytorch/rl/pull/4128) for a
# while.
#
# ## From stored values to numbers
#
# Notebook 03 decided what an observation may be: a dictionary of pictures, vectors,
# choices and texts. Each key has a *field*, which says how its values are stored. Here the
# stored values become numbers that a network can read.
#
# A picture goes to the range from 0 to 1, by the bounds that its space names. For a frame
# the highest value is 255. For a mask it is 1, and a mask that was divided by 255 would be
# black for the model: its loss would be small, and it would never be learnt.

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
# Our example: the screen, Mario's position along the level in pixels (40 at the start,
# 3,161 at the flag, which is why it goes through symlog), and the button that is
# pressed.

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

# %% [markdown]
# Pictures never go through symlog: their values are bounded already. A mask of zeros and
# ones and a frame of bytes both end up between 0 and 1. Two choices, of three and of two,
# are two one-hots side by side.

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
# (Whole numbers in a `Box` count as a vector here: symlog and squared error. The authors'
# code takes them for choices, with one-hots and a cross entropy. If yours are names and
# not amounts, declare them as `MultiDiscrete`.)
#
# ## The encoder
#
# Four convolutions halve the sides, 64, 32, 16, 8, 4. The first one makes `depth`
# channels, and each of the others doubles their number. Kernel 4, stride 2 and padding
# 1 halve any even side exactly and symmetrically.
#
# > **The paper says** (Methods, "Networks"): images are encoded by convolutions with
# > stride 2 down to a resolution of 6 x 6 or 4 x 4, and decoded by transposed convolutions
# > with stride 2 and a sigmoid at the end; vectors go through MLPs of three layers, after
# > symlog.
#
# (Ours always divides the sides by 16: 4 x 4 for 64 x 64. The authors'
# [newest code](https://github.com/danijar/dreamerv3) pools instead of striding and lets the
# channels grow more slowly. Stride 2 costs several times less arithmetic and is what the
# text describes.)

# %% [markdown] tags=["predict"]
# **Predict.** A kernel of 4 x 4 ones with stride 2 and padding 1 slides over an image of
# 8 x 8 ones. It gives 4 x 4 numbers. What is in the corner, at an edge, inside?
#
# <details><summary>Answer</summary>
#
# 9, 12 and 16: the padding hides one row or column of the window at an edge ($4 \cdot 3$),
# and one of each in a corner ($3 \cdot 3$).
#
# </details>

# %%
ones = torch.ones(1, 1, 8, 8)
print(F.conv2d(ones, torch.ones(1, 1, 4, 4), stride=2, padding=1)[0, 0])
print(
    F.conv_transpose2d(ones[..., :4, :4], torch.ones(1, 1, 4, 4), stride=2, padding=1)
)


# %% [markdown]
# The second table is the way back, the transposed convolution: 4 x 4 ones become 8 x 8,
# and each pixel inside sees just $2 \times 2$ inputs. So the fan-in of a convolution is
# $16 \cdot C_\mathrm{in}$, that of its mirror image $4 \cdot C_\mathrm{in}$. Whoever
# reads the fan-in off the kernel's shape, as the authors' code does, counts 16 there, too:
# that halves the signal's size in every such layer, and after the last one no norm sets it
# right. (Their decoder enlarges the picture and then convolves in the usual way, so it
# meets this only with an option that is off.)
#
# The norm of a convolution works over the channels, at every position by itself.

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


# %% [markdown]
# Sides of 64 can be halved four times, sides of 84 cannot. We pad such a picture with grey,
# at the right and at the bottom, to the next multiple of 16: 84 becomes 96. Nothing is
# resized, so no pixel is lost. The price is arithmetic: 96 x 96 is a third more than
# 84 x 84.

# %%
#| export
def padded(side: int) -> int:
    """The next multiple of 16. Source: none; the authors resize to 64 or 96."""
    return -side % 16 + side


# %%
print({side: padded(side) for side in (64, 84, 210, 160, 72, 96)})


# %% [markdown]
# ### Reading text
#
# The fourth kind is text, a row of at most 200 bytes. A character means little by itself.
# It needs its neighbours, and neighbours at any distance, so we let every character look at
# all others: a small *transformer* with two layers.
#
# A transformer sees a set, in no order. So each place gets a pattern of its own, made of
# sines and cosines of different lengths, which is added to the character's embedding.
# Afterwards the mean over the characters is one vector for the whole text. The zeros that
# fill up a short text are left out of everything.

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
# Two short checks. What fills up a text must not change what is read, and the order of the
# characters must.

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
# Pictures of one size go through one stack of convolutions, side by side as channels.
# Pictures of another size have an encoder of their own. All results are laid end to end.

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
# **Predict.** How wide is the embedding of our example, with `depth=16` and `units=128`?
#
# <details><summary>Answer</summary>
#
# The image ends as 4 x 4 positions with $8 \cdot 16 = 128$ channels, 2,048 numbers; the
# two vectors together give 128. Sum: 2,176.
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
print("embedding:", list(encoder(example).shape), "size:", encoder.size)

# %% [markdown]
# Here is one frame on its way through an encoder that has learnt nothing yet: the mean
# size of the channels after each convolution with its norm and SiLU. Edges are already
# visible: where the picture changes, the answers of the kernels change.

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
# The decoder reads the state of the world model: the memory $h$ and the latent $z$, side
# by side. Both are built in notebook 05; here they are just two vectors. The memory is
# large, so it enters through a `BlockLinear`; the latent enters through an MLP; the sum
# is a picture of 4 x 4 positions, and four transposed convolutions blow it up. A sigmoid
# brings the result between 0 and 1.
#
# > **The paper says** (equation 3): the prediction loss is the negative log-likelihood
# > of what was observed. For images and vectors that is a squared error, in symlog
# > space for vectors.
#
# We say: the squared error of an image is **summed** over its 12,288 numbers, then
# averaged over batch and time. Why it is summed is the subject of the next section. A
# choice costs its cross entropy.
#
# (The paper puts a factor 1/2 before the squared error, equation 8; its
# [published code](https://github.com/danijar/dreamerv3) and ours do not. In the first
# version the decoder had no sigmoid: it added 0.5 to what it drew, and could leave the
# range from 0 to 1.)

# %% [markdown]
# A text is predicted as well, character by character. Its head gives every place 32
# numbers of its own, and one small layer, the same for all places, turns them into the
# logits of 256 characters. A character that is certain costs nothing, and one that is
# guessed among all costs $\ln 256 = 5.5$ nats.

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


# %% [markdown]
# What must the losses be before the first update? The last convolution receives
# $\mathrm{SiLU}(n)$ of a normed signal $n$. If $n$ is distributed like a normal, the
# mean square of $\mathrm{SiLU}(n)$ is $0.356$. The initialisation keeps that, so the
# sigmoid sees numbers of variance $0.356$ and returns $0.5$ with a variance of $0.0190$
# around it. The error of a pixel $x$ is therefore $(0.5 - x)^2 + 0.0190$ on average.
# The same reasoning gives the position, which is predicted near 0 and costs about the
# square of its target, and the button.

# %%
n = torch.linspace(-8, 8, 100_001).double()
weight = (-n.square() / 2).exp() / (-n.square() / 2).exp().sum()  # a normal signal
silu = (weight * F.silu(n).square()).sum()
spread = (weight * (torch.sigmoid(n * silu.sqrt()) - 0.5).square()).sum()
print(f"mean square after SiLU: {silu.item():.3f}")
print(f"variance after the sigmoid: {spread.item():.4f}")

# %% [markdown] tags=["predict"]
# **Predict.** What is the loss of the *button* (5 choices) at the start: exactly 0, about
# 1.7, or about 5.5?
#
# <details><summary>Answer</summary>
#
# It would be $\ln 5 = 1.61$ nats if all logits were 0. They are random, with the variance
# 0.356, which adds about $\frac12 \cdot \frac45 \cdot 0.356 = 0.14$: about 1.75.
#
# </details>

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
# Many image models *average* the squared error over the pixels. It is the same loss up
# to a factor of 12,288, and an optimizer like Adam does not care about factors. So why
# does it matter?
#
# Because there is a second loss. Notebook 05 adds a price on information: beyond a first
# nat, which is free, every nat that the latent carries about the picture and that could not
# be foreseen costs about one unit of loss. (A nat is the unit of information that belongs
# to the natural logarithm: to name one of $n$ equally likely things takes $\ln n$ nats. The
# price has two parts, and only the smaller one, a tenth of a unit for each nat, changes the
# latent itself, see notebook 05. So for the latent a nat costs between a tenth of a unit
# and one unit.) The model will only describe what saves more error than it costs to tell.
# Let us compute that for Mario himself. To say in which of the 64 columns he stands takes
# up to $\ln 64 = 4.16$ nats. What does it save to draw him? We need a frame without Mario:
# eight steps after the start he has moved on, and in three of four episodes the camera has
# not, so the median of such frames is the empty scene.

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

# %%
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
# This little calculation fits what happened to a prototype of this course. It used
# grey frames, learnt to dream clouds and hills within minutes, and never Mario or a
# Goomba: in grey both are nearly as bright as what is behind them. The agent did not
# get past the first screens, and nothing in the loss curve looked wrong. (Notebook 06
# tells the rest of the story.)
#
# Now the same with real training. A small autoencoder, an encoder and a decoder that
# are trained to give back what goes in, squeezes a frame into 64 numbers and adds noise
# of size 1 to them. The price of the information that gets through is $\frac12 m^2$
# nats for each number $m$ (the divergence between $m$ with noise and noise alone;
# notebook 05 explains this measure). Once the pixels are summed, once averaged;
# everything else is equal.

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


# %%
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

# %%
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
    alt="With summed pixels the drawings begin to differ, averaged ones are all alike.",
)
claim("summed, the code pays for more than 2 nats", drawn["summed"][1] > 2)
claim("averaged, it pays for less than a tenth of a nat", drawn["averaged"][1] < 0.1)
unlike = {name: image.std(0).mean().item() for name, (image, _) in drawn.items()}
claim(
    "averaged pictures differ five times less from each other",
    unlike["averaged"] < unlike["summed"] / 5,
)


# %% [markdown]
# So this is how averaged pixels look in a training log: the image loss is small and soon
# flat, the price on information (in notebook 05 the *KL divergence*, KL for short) sits on
# its floor, and every reconstruction is the mean picture.
#
# ## The real experiment: a picture and a number
#
# Now an autoencoder for a dictionary with the screen and the position, without noise
# and price. The position follows from the rewards, which are progress in blocks of 16
# pixels minus 0.02 per step; Mario starts at pixel 40. The last fifth of every stream
# is kept for the test.

# %%
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
print("numbers in: 12,289 | in the code: 256 | parameters:", count(model))

# %% [markdown] tags=["predict"]
# **Predict.** The model has learnt nothing yet. What does the position cost, if half of the
# test rows lie beyond 720 pixels, and a third before 500? And does the screen cost about
# 100, 1,000 or 10,000?
#
# <details><summary>Answer</summary>
#
# The position's prediction is near 0 in symlog space, so a row costs the square of its
# target: $\mathrm{symlog}(720)^2 = 43$ in the middle, 47.7 at 1,000 pixels, 14 at the
# start, and about 40 on average. The screen costs the error of a grey picture and
# $12{,}288 \cdot 0.019 = 233$ for the scatter around it: about 1,000.
#
# </details>

# %%
with torch.no_grad():
    first, _ = model.loss(test)
expected = {
    "screen": ((0.5 - test["screen"] / 255) ** 2 + spread).sum((1, 2, 3)).mean(),
    "position": test["position"].log1p().square().mean(),
}
for key, digits in {"screen": -2, "position": -1}.items():
    pair = [f"{round(x[key].item(), digits):.0f}" for x in (expected, first)]
    print(f"{key:8} by hand about {pair[0]}, measured about {pair[1]}")
ratio = {key: (first[key] / value).item() for key, value in expected.items()}
claim("the screen's is within 15 % of it", abs(ratio["screen"] - 1) < 0.15)
claim("the position's is within 25 % of it", abs(ratio["position"] - 1) < 0.25)

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

# %%
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

# %%
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
# Sky, ground, pipes and hills are there after 300 updates, and so is the position, a number
# that spans two orders of magnitude. Mario is not there yet. That is the order of the
# prices: what costs most is learnt first, and he is worth about 7 of some 250. Notebook 06
# trains a whole world model, and measures how much of him it keeps.

# %% [markdown]
# ## Exercises
#
# ### Exercise 4.1: The fan-in of every layer
#
# *easy, about 8 minutes*
#
# Say which fan-in the initialisation of this notebook counts for its four kinds of layers.
# For three of them it is the number of inputs that one output sees; for the block
# layer see the paragraph below its picture. The two kinds of convolution have a kernel of
# 4 x 4 and stride 2.

# %% tags=["exercise-4.1"]
def fan_in(layer):
    """The fan-in that our initialisation counts; stride 2 where it convolves."""
    if isinstance(layer, nn.ConvTranspose2d):
        height, width = layer.kernel_size
        raise NotImplementedError("exercise 4.1")
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        raise NotImplementedError("exercise 4.1")
    if isinstance(layer, BlockLinear):
        blocks, inputs, _ = layer.weight.shape
        raise NotImplementedError("exercise 4.1")
    return layer.in_features


# %%
check("4.1", fan_in)


# %%
# solution("4.1")

# %% [markdown]
# ### Exercise 4.2: Worse when it acts
#
# *easy, about 5 minutes, one planted bug*
#
# The training reads the replay, where screens are bytes. While the agent acts, a wrapper
# hands the same bytes over as floats, 0. to 255. All losses look healthy, and the agent
# plays worse and worse. Find the bug.

# %% tags=["exercise-4.2"]
def prepare(screen):
    """Bytes 0..255, [..., H, W, C] of any dtype -> what an encoder sees: -0.5..0.5."""
    x = torch.as_tensor(screen)
    x = x / 255 if x.dtype == torch.uint8 else x
    return x - 0.5


# %%
check("4.2", prepare)


# %%
# solution("4.2")

# %% [markdown]
# ### Exercise 4.3: A block-diagonal layer
#
# *medium, about 10 minutes*
#
# `BlockLinear` multiplies all blocks at once. Write what it computes as a plain loop:
# one matrix product for each block, results side by side.

# %% tags=["exercise-4.3"]
def my_block_linear(x, weight, bias):
    """x [N, I], weight [blocks, I / blocks, O / blocks], bias [O] -> [N, O]."""
    raise NotImplementedError("exercise 4.3")


# %%
check("4.3", my_block_linear)

# %%
# solution("4.3")

# %% [markdown]
# ## What breaks
#
# * **Averaged pixels**, see above. The image loss must read about a thousand at the
#   start. If it reads 0.1, it is averaged.
# * **Another preprocessing when acting.** `torch.Tensor(bytes)` makes floats from 0 to
#   255; [code that divides only if it sees
#   bytes](https://github.com/jsikyoon/dreamer-torch/issues/11) then passes them on
#   undivided. Training looks fine, and the agent, which sees other pictures when it acts
#   than it was trained on, gets worse. That is why the only `/ 255 - 0.5` stands inside
#   `Encoder.forward`.
# * **[A norm with a shift](https://github.com/pytorch/rl/pull/4128)**, or LayerNorm where
#   RMSNorm belongs: nothing fails, curves just differ from the authors'.
#
# ## What we built
#
# `RMSNorm`, `Linear`, `TwoHotHead`, `MLP` and `BlockLinear`, from which everything later is
# made, and `Encoder` and `Decoder`. What is missing between them is time: a picture alone does not
# say where Mario is going. Notebook 05 puts the memory in.

# %%
what_we_built("04_networks")
