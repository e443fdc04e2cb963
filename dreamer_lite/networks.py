# Generated from notebooks/04_networks.ipynb by tools/export.py.
# Edit the notebook, not this file.
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
    mirrored bins with equal gradients change equally, to the last bit.
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


def padded(side: int) -> int:
    """The next multiple of 16. Source: none; the authors resize to 64 or 96."""
    return -side % 16 + side


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
