"""Layers, and the way from observations to one embedding and back.

Built in notebook 04. Source: DreamerV3, Methods, "Model sizes" and "Networks".
"""

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dreamer_lite.symlog import symlog


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, then scale (no shift).

    Computed in float32 whatever comes in; returns the dtype that came in.
    Args: size, the last dimension; eps, added under the root.
    """

    def __init__(self, size, eps=1e-4):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        scaled = F.rms_norm(x.float(), self.scale.shape, self.scale, self.eps)
        return scaled.to(x.dtype)


def init_(weight, fan_in, outscale=1.0):
    """Fill `weight` from a normal cut at two sigma, so that its variance is 1 / fan_in.

    The cut takes away variance; the factor 1.1368 gives it back.
    """
    std = 1.1368 * outscale / fan_in**0.5
    with torch.no_grad():
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std) if std else (
            weight.zero_()
        )
    return weight


class Linear(nn.Linear):
    """A dense layer with Dreamer's initialisation; `outscale` 0 starts at exactly 0."""

    def __init__(self, inputs, outputs, outscale=1.0):
        super().__init__(inputs, outputs)
        init_(self.weight, inputs, outscale)
        nn.init.zeros_(self.bias)


class BlockLinear(nn.Module):
    """A dense layer whose weight is block-diagonal: [..., inputs] -> [..., outputs].

    Block k of the input reaches block k of the output only, which divides weights and
    arithmetic by `blocks`. With `blocks=1` it is `Linear`. The initialisation counts
    the full input width as fan-in, as the reference does.
    """

    def __init__(self, inputs, outputs, blocks=8):
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(
                f"BlockLinear expects widths that {blocks} blocks divide, but got "
                f"{inputs} inputs and {outputs} outputs; choose multiples of {blocks}."
            )
        self.blocks = blocks
        weight = torch.empty(blocks, inputs // blocks, outputs // blocks)
        self.weight = nn.Parameter(init_(weight, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        lead = x.shape[:-1]
        x = x.reshape(-1, self.blocks, x.shape[-1] // self.blocks).transpose(0, 1)
        y = torch.bmm(x, self.weight).transpose(0, 1)
        return y.reshape(*lead, -1) + self.bias.to(y.dtype)


class MLP(nn.Sequential):
    """`layers` times [Linear, RMSNorm, SiLU], then a Linear if `outputs` is given.

    Args: inputs, units, outputs: widths; outscale: of the last layer's initialisation
    (0 for reward and critic, 0.01 for the actor).
    """

    def __init__(self, inputs, units, layers=1, outputs=None, outscale=1.0):
        parts = []
        for i in range(layers):
            width = inputs if i == 0 else units
            parts += [Linear(width, units), RMSNorm(units), nn.SiLU()]
        if outputs is not None:
            parts.append(Linear(units, outputs, outscale))
        super().__init__(*parts)


class ChannelNorm(RMSNorm):
    """RMSNorm over the channels of [N, C, H, W], at every position."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def split_spaces(spaces):
    """Sort the keys of a Dict space by kind: (image keys, vector keys).

    Images are uint8 [H, W, C], all of one height and width, both multiples of 16.
    Vectors are the remaining Box spaces (any shape) and Discrete.
    Raises: TypeError or ValueError with the key that does not fit.
    """
    if not isinstance(spaces, gym.spaces.Dict):
        raise TypeError(
            f"Dreamer Lite expects a gymnasium.spaces.Dict of observations, but got "
            f"{spaces}; wrap a single space as Dict(name=space)."
        )
    images, vectors = [], []
    for key, space in spaces.items():
        if not isinstance(space, (gym.spaces.Box, gym.spaces.Discrete)):
            raise TypeError(
                f"Observations may be Box or Discrete, but {key!r} is {space}; flatten "
                "or convert it with a Gymnasium wrapper."
            )
        is_image = space.dtype == np.uint8 and len(space.shape) == 3
        (images if is_image else vectors).append(key)
    sizes = {spaces[key].shape[:2] for key in images}
    if len(sizes) > 1 or any(side % 16 for size in sizes for side in size):
        shapes = {key: spaces[key].shape for key in images}
        raise ValueError(
            "Images must share one height and width, both multiples of 16, but got "
            f"{shapes}; resize them with gymnasium.wrappers.ResizeObservation."
        )
    return sorted(images), sorted(vectors)


def vector_size(space):
    """Numbers that a vector or choice becomes: its elements, or its one-hot length."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    return int(np.prod(space.shape))


def flatten_vector(space, value):
    """One key as [..., vector_size]: one-hot for a choice, else symlog of the numbers."""
    if isinstance(space, gym.spaces.Discrete):
        return F.one_hot(value.long() - int(space.start), int(space.n)).float()
    lead = value.shape[: value.dim() - len(space.shape)]
    return symlog(value).reshape(*lead, vector_size(space))


class Encoder(nn.Module):
    """Dictionary observations [B, T, ...] (or [B, ...]) -> one embedding [..., size].

    Images go through four convolutions that halve each side, vectors through symlog and
    an MLP; both results are concatenated.
    Args: spaces, a Dict; depth, channels of the first convolution (then x2, x4, x8);
    units and layers of the MLP. Attribute: `size`, the width of the embedding.
    """

    def __init__(self, spaces, depth=16, units=128, layers=3):
        super().__init__()
        self.spaces = spaces
        self.images, self.vectors = split_spaces(spaces)
        self.size = 0
        if self.images:
            height, width = spaces[self.images[0]].shape[:2]
            channels = sum(spaces[key].shape[2] for key in self.images)
            self.conv = self._build(channels, [depth, 2 * depth, 4 * depth, 8 * depth])
            self.size += 8 * depth * (height // 16) * (width // 16)
        if self.vectors:
            inputs = sum(vector_size(spaces[key]) for key in self.vectors)
            self.mlp = MLP(inputs, units, layers)
            self.size += units

    @staticmethod
    def _build(channels, widths):
        parts = []
        for width in widths:
            conv = nn.Conv2d(channels, width, 4, stride=2, padding=1)
            init_(conv.weight, 16 * channels)
            nn.init.zeros_(conv.bias)
            parts += [conv, ChannelNorm(width), nn.SiLU()]
            channels = width
        return nn.Sequential(*parts)

    def forward(self, obs):
        parts = []
        if self.images:
            x = torch.cat([obs[key] for key in self.images], -1)
            lead = x.shape[:-3]
            x = (
                x.flatten(0, -4) / 255 - 0.5
            )  # zero mean, and the only place that does it
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
    Args: spaces, deter and stoch (widths of h and flat z), depth, units, layers as in
    the encoder, blocks of the BlockLinear.
    """

    def __init__(self, spaces, deter, stoch, depth=16, units=128, layers=3, blocks=8):
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
            self.conv = self._build(widths)
        if self.vectors:
            self.mlp = MLP(deter + stoch, units, layers)
            outputs = {
                key: Linear(units, vector_size(spaces[key])) for key in self.vectors
            }
            self.heads = nn.ModuleDict(outputs)

    @staticmethod
    def _build(widths):
        parts = []
        for inputs, outputs in zip(widths[:-1], widths[1:]):
            conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
            init_(conv.weight, 4 * inputs)  # each output pixel sees 2 x 2 inputs
            nn.init.zeros_(conv.bias)
            parts += [conv, ChannelNorm(outputs), nn.SiLU()]
        return nn.Sequential(*parts[:-2])

    def forward(self, feature):
        """Return {key: [..., *shape]}: images in [0, 1], vectors in symlog space."""
        lead = feature.shape[:-1]
        recon = {}
        if self.images:
            flat = feature.reshape(-1, feature.shape[-1])
            h, z = flat[:, : self.deter], flat[:, self.deter :]
            x = (self.from_h(h) + self.from_z(z)).reshape(-1, *self.grid)
            x = torch.sigmoid(self.conv(F.silu(self.norm(x))).float())
            x = x.permute(0, 2, 3, 1)
            pieces = x.reshape(*lead, *x.shape[1:]).split(self.channels, -1)
            recon |= dict(zip(self.images, pieces))
        if self.vectors:
            x = self.mlp(feature)
            recon |= {key: self.heads[key](x).float() for key in self.vectors}
        return recon

    def loss(self, recon, obs):
        """Reconstruction losses {key: [B, T]}, summed over pixels or dimensions.

        Images: squared error in [0, 1]. Vectors: squared error in symlog space.
        Choices: cross entropy in nats. Summed, not averaged: an image of 12,288 numbers
        must outweigh the KL of a latent of 32.
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
