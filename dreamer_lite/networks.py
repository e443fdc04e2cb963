# Generated from notebooks/04_networks.ipynb by tools/export.py.
# Edit the notebook, not this file.
"""Layers, and the way from observations to one embedding and back.

Built in notebook 04. Source: DreamerV3, Methods, "Model sizes" and "Networks".
"""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_lite.symlog import symlog


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


def split_spaces(spaces: gym.Space) -> tuple[list[str], list[str]]:
    """Sort the keys of a Dict space by kind: (image keys, vector keys).

    Images are uint8 [H, W, C], all of one height and width, both multiples of 16.
    Vectors are the remaining Box spaces, of up to two dimensions (bytes: one), and
    Discrete; each key names a module of the decoder, so PyTorch must take its name.
    Raises: TypeError or ValueError with the key that does not fit.
    Source: none; these rules are ours.
    """
    if not isinstance(spaces, gym.spaces.Dict):
        raise TypeError(
            f"Dreamer Lite expects a gymnasium.spaces.Dict of observations, but got "
            f"{spaces}; wrap a single space as Dict(name=space)."
        )
    images = {}
    for key, space in spaces.items():
        if not isinstance(space, (gym.spaces.Box, gym.spaces.Discrete)):
            raise TypeError(
                f"Observations may be Box or Discrete, but {key!r} is {space}; flatten "
                "or convert it with a Gymnasium wrapper."
            )
        pixels, sides = space.dtype == np.uint8, len(space.shape)
        if pixels and sides == 3:
            images[key] = space.shape
        elif sides > (1 if pixels else 2):
            raise ValueError(
                f"Images are uint8 [H, W, C], but {key!r} is {space.dtype} of shape "
                f"{space.shape}; convert it with a Gymnasium wrapper."
            )
    sizes = {shape[:2] for shape in images.values()}
    if len(sizes) > 1 or any(side % 16 for size in sizes for side in size):
        advice = "resize them with gymnasium.wrappers.ResizeObservation (needs opencv)"
        if any(s[0] in (1, 3, 4) and s[2] not in (1, 3, 4) for s in images.values()):
            advice = "move the channels last, the order is [H, W, C]"
        raise ValueError(
            "Images must share one height and width, both multiples of 16, but got "
            f"{images}; {advice}."
        )
    vectors, taken = sorted(set(spaces) - set(images)), nn.ModuleDict()
    if odd := [k for k in vectors if not k or "." in k or hasattr(taken, k)]:
        raise ValueError(
            f"Observations may not be named {odd}: PyTorch refuses modules of that "
            "name; rename the key in the observation space."
        )
    return sorted(images), vectors


def flatten_vector(space: gym.Space, value: Tensor) -> Tensor:
    """One key as [..., n]: one-hot for a choice, else symlog of its n numbers.

    Source: DreamerV3, Methods, "Networks".
    """
    if isinstance(space, gym.spaces.Discrete):
        choices = torch.arange(int(space.n), device=value.device) + int(space.start)
        return (value[..., None] == choices).float()  # one_hot would wait for a GPU
    lead = value.shape[: value.dim() - len(space.shape)]
    return symlog(value).reshape(*lead, -1)


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


class Encoder(nn.Module):
    """Dictionary observations [B, T, ...] (or [B, ...]) -> one embedding [..., size].

    Images go through four convolutions that halve each side, vectors through symlog and
    an MLP; both results are concatenated.
    Args: spaces, a Dict; depth, channels of the first convolution (then x2, x4, x8);
    units of the MLP. Attribute: `size`, the width of the embedding.
    Source: DreamerV3, Methods, "Networks".
    """

    def __init__(self, spaces: gym.Space, *, depth: int, units: int):
        super().__init__()
        self.spaces, self.size = spaces, 0
        self.images, self.vectors = split_spaces(spaces)
        if self.images:
            height, width = spaces[self.images[0]].shape[:2]
            channels = sum(spaces[key].shape[2] for key in self.images)
            widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
            self.conv = conv_stack(nn.Conv2d, widths, 16)
            self.size += 8 * depth * (height // 16) * (width // 16)
        if self.vectors:
            inputs = sum(gym.spaces.flatdim(spaces[key]) for key in self.vectors)
            self.mlp = MLP(inputs, units, layers=3)
            self.size += units

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        parts = []
        if self.images:
            x = torch.cat([obs[key] for key in self.images], -1)
            lead = x.shape[:-3]
            x = x.flatten(0, -4) / 255 - 0.5  # the only place that centres pixels
            x = self.conv(x.permute(0, 3, 1, 2))
            parts.append(x.reshape(*lead, -1))
        if self.vectors:
            spaces = self.spaces
            flat = [flatten_vector(spaces[key], obs[key]) for key in self.vectors]
            parts.append(self.mlp(torch.cat(flat, -1)))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """Features [..., deter + stoch] -> a reconstruction of every observation key.

    Images: h through a BlockLinear and z through an MLP are added at a sixteenth of the
    sides, then four transposed convolutions mirror the encoder; a sigmoid ends them.
    Vectors: one MLP, one Linear for each key (symlog space, or logits of a choice).
    Args: spaces, deter and stoch (widths of h and flat z), depth and units as in the
    encoder, blocks of the BlockLinear.
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
        self.spaces, self.deter = spaces, deter
        self.images, self.vectors = split_spaces(spaces)
        if self.images:
            height, width = spaces[self.images[0]].shape[:2]
            self.grid = (8 * depth, height // 16, width // 16)
            start = int(np.prod(self.grid))
            self.from_h = BlockLinear(deter, start, blocks)
            self.from_z = MLP(stoch, 2 * units, 1, start)
            self.norm = ChannelNorm(8 * depth)
            self.channels = [spaces[key].shape[2] for key in self.images]
            widths = [8 * depth, 4 * depth, 2 * depth, depth, sum(self.channels)]
            self.conv = conv_stack(nn.ConvTranspose2d, widths, 4)[:-2]  # plain end
        if self.vectors:
            self.mlp = MLP(deter + stoch, units, layers=3)
            sizes = {key: gym.spaces.flatdim(spaces[key]) for key in self.vectors}
            heads = {key: Linear(units, size) for key, size in sizes.items()}
            self.heads = nn.ModuleDict(heads)

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """Return {key: [..., H, W, C] in [0, 1], or [..., n]: symlog or logits}."""
        recon = {}
        if self.images:
            flat = feature.flatten(0, -2)
            h, z = flat[:, : self.deter], flat[:, self.deter :]
            x = (self.from_h(h) + self.from_z(z)).unflatten(-1, self.grid)
            x = torch.sigmoid(self.conv(F.silu(self.norm(x))).float())
            x = x.permute(0, 2, 3, 1).unflatten(0, feature.shape[:-1])
            recon |= zip(self.images, x.split(self.channels, -1))
        if self.vectors:
            x = self.mlp(feature)
            recon |= {key: self.heads[key](x).float() for key in self.vectors}
        return recon

    def loss(
        self, recon: dict[str, Tensor], obs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Reconstruction losses {key: [B, T]}, summed over pixels or dimensions.

        Images: squared error in [0, 1]. Vectors: squared error in symlog space.
        Choices: cross entropy in nats. Summed, not averaged: an image of 12,288 numbers
        must outweigh the price in nats (the KL) of a latent of 32 categoricals.
        """
        losses = {}
        for key in self.images:
            error = recon[key] - obs[key] / 255
            losses[key] = error.square().sum((-1, -2, -3))
        for key in self.vectors:
            target = flatten_vector(self.spaces[key], obs[key])
            if isinstance(self.spaces[key], gym.spaces.Discrete):
                losses[key] = -(target * recon[key].log_softmax(-1)).sum(-1)
            else:
                losses[key] = (recon[key] - target).square().sum(-1)
        return losses
