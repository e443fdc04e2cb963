"""The networks compute what notebook 04 says: by hand, not by shape."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dreamer_lite.networks import (
    MLP,
    BlockLinear,
    ChannelNorm,
    Decoder,
    Encoder,
    Linear,
    RMSNorm,
    conv_stack,
    flatten_vector,
    init_,
)
from dreamer_lite.replay import read_spaces
from dreamer_lite.symlog import symlog

Box, Dict, Discrete = gym.spaces.Box, gym.spaces.Dict, gym.spaces.Discrete
PIXELS = Box(0, 255, (32, 48, 3), np.uint8)
MIXED = Dict(
    near=PIXELS,
    far=Box(0, 255, (32, 48, 1), np.uint8),
    arm=Box(-10, 10, (2, 3)),
    height=Box(-np.inf, np.inf, ()),
    door=Discrete(4, start=2),
)


def rows(spaces, *lead, seed=0):
    """Random observations {key: [*lead, ...]} as tensors."""
    rng = np.random.default_rng(seed)
    out = {}
    for key, space in spaces.items():
        shape = (*lead, *space.shape)
        if isinstance(space, Discrete):
            value = space.start + rng.integers(space.n, size=shape)
        elif space.dtype == np.uint8:
            value = rng.integers(256, size=shape).astype(np.uint8)
        else:
            value = rng.normal(size=shape).astype(np.float32)
        out[key] = torch.as_tensor(value)
    return out


def small_encoder(spaces, **sizes):
    return Encoder(spaces, **{"depth": 2, "units": 16} | sizes)


def small_decoder(spaces, **sizes):
    sizes = {"deter": 16, "stoch": 8, "depth": 2, "units": 16, "blocks": 8} | sizes
    return Decoder(spaces, **sizes)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Norm


def test_rms_norm_by_hand():
    norm = RMSNorm(2)
    x = torch.tensor([[3.0, 4.0], [300.0, 400.0]])
    root = 12.5**0.5
    expected = torch.tensor([[3 / root, 4 / root]] * 2)
    assert torch.allclose(norm(x), expected, atol=1e-4)
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([2.0, -1.0]))
    assert torch.allclose(norm(x), expected * norm.scale, atol=1e-4)


def test_rms_norm_keeps_zero_and_uses_its_eps():
    assert RMSNorm(4)(torch.zeros(2, 4)).abs().max() == 0
    tiny = torch.full((1, 4), 0.01)  # mean square 1e-4, as large as eps
    assert torch.allclose(RMSNorm(4)(tiny), torch.full((1, 4), 0.5**0.5), atol=1e-5)


def test_rms_norm_computes_in_float32():
    x = torch.full((1, 4), 3e4, dtype=torch.float16)  # the square overflows float16
    out = RMSNorm(4)(x)
    assert out.dtype == torch.float16
    assert torch.allclose(out.float(), torch.ones(1, 4))


def test_channel_norm_works_at_every_position_alone():
    x = torch.randn(2, 8, 3, 5)
    norm = ChannelNorm(8)
    with torch.no_grad():
        norm.scale.uniform_(0.5, 2)
    size = (x**2).mean(1, keepdim=True).add(1e-4).sqrt()
    assert torch.allclose(norm(x), x / size * norm.scale[:, None, None], atol=1e-5)


# Initialisation


def variance(layer):
    return layer.weight.detach().var().item()


@pytest.mark.parametrize(
    "layer, fan_in",
    [
        (Linear(512, 600), 512),
        (BlockLinear(1024, 2048, 8), 1024),  # the full width, not one block's
        (conv_stack(nn.Conv2d, [32, 64], 16)[0], 16 * 32),
        (conv_stack(nn.ConvTranspose2d, [64, 32], 4)[0], 4 * 64),
    ],
    ids=["dense", "blocks", "convolution", "transposed"],
)
def test_weights_have_variance_one_over_fan_in(layer, fan_in):
    assert abs(variance(layer) * fan_in - 1) < 0.03
    assert layer.bias.abs().max() == 0
    limit = 2 * 1.1368 / fan_in**0.5
    assert 0.98 * limit < layer.weight.abs().max() <= limit * 1.0001


def test_outscale_scales_the_weights_and_zero_gives_exactly_zero():
    assert abs(variance(Linear(512, 600, outscale=0.01)) * 512 - 1e-4) < 3e-6
    layer = init_(nn.Linear(8, 8), 8, outscale=0.0)
    assert layer.weight.abs().max() == 0 and layer.bias.abs().max() == 0
    assert MLP(8, 16, 2, outputs=3, outscale=0.0)(torch.randn(5, 8)).abs().max() == 0


def test_layers_keep_the_size_of_a_signal():
    x = torch.randn(256, 400)
    assert abs(Linear(400, 500)(x).var() - 1) < 0.05
    up = conv_stack(nn.ConvTranspose2d, [64, 16], 4)[0]
    assert abs(up(torch.randn(8, 64, 8, 8))[..., 2:-2, 2:-2].var() - 1) < 0.1


# Layers


def test_mlp_is_linear_norm_silu_and_a_plain_end():
    mlp = MLP(4, 8, layers=2, outputs=3)
    assert [type(m) for m in mlp] == [Linear, RMSNorm, nn.SiLU] * 2 + [Linear]
    assert sum(p.numel() for p in mlp.parameters()) == 155
    assert isinstance(MLP(4, 8, layers=1)[-1], nn.SiLU)


def test_block_linear_with_one_block_is_dense():
    layer = BlockLinear(12, 20, blocks=1)
    with torch.no_grad():  # whole numbers, so that every sum is exact
        layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape))
        layer.bias.copy_(torch.randint(-3, 4, layer.bias.shape))
    x = torch.randint(-5, 6, (3, 7, 12)).float()
    assert torch.equal(layer(x), x @ layer.weight[0] + layer.bias)


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_block_linear_is_the_block_diagonal_matrix(blocks):
    layer = BlockLinear(16, 24, blocks)
    with torch.no_grad():
        layer.bias.normal_()
    x = torch.randn(3, 5, 16)
    dense = torch.block_diag(*layer.weight)
    assert (dense != 0).sum() == 16 * 24 // blocks
    assert torch.allclose(layer(x), x @ dense + layer.bias, atol=1e-5)


def test_block_linear_refuses_widths_that_do_not_divide():
    with pytest.raises(ValueError, match="multiples of 8"):
        BlockLinear(20, 16, blocks=8)


# Numbers


def test_vectors_are_symlogged_and_choices_one_hot():
    fields = read_spaces(MIXED)
    arm = torch.tensor([[[1.0, -2.0, 3.0], [0.0, 100.0, -1e6]]])
    flat = flatten_vector(fields["arm"], arm)
    assert torch.equal(flat, symlog(arm).reshape(1, 6))
    assert flatten_vector(fields["height"], torch.ones(2, 3)).shape == (2, 3, 1)
    door = flatten_vector(fields["door"], torch.tensor([[2, 5]]))
    assert door.tolist() == [[[1.0, 0, 0, 0], [0, 0, 0, 1.0]]]


# Encoder


def test_encoder_sees_every_key_in_its_place():
    encoder = small_encoder(MIXED)
    obs = rows(MIXED, 2, 3)
    embed = encoder(obs)
    images = 16 * 2 * 3  # 8 x depth channels at 32 / 16 x 48 / 16 positions
    assert encoder.size == images + 16 and embed.shape == (2, 3, encoder.size)
    for key in MIXED:
        other = encoder(obs | {key: rows(MIXED, 2, 3, seed=1)[key]})
        changed = (other - embed).abs().amax((0, 1)) > 0
        part = slice(0, images) if key in ("near", "far") else slice(images, None)
        assert changed[part].any()
        changed[part] = False
        assert not changed.any()


def test_encoder_takes_batches_with_and_without_time():
    encoder = small_encoder(MIXED)
    obs = rows(MIXED, 2, 3)
    flat = {key: value.flatten(0, 1) for key, value in obs.items()}
    assert torch.allclose(encoder(obs).flatten(0, 1), encoder(flat), atol=1e-5)


def test_encoder_centres_pixels():
    encoder = small_encoder(Dict(near=PIXELS))
    seen = []
    encoder.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    obs = rows(Dict(near=PIXELS), 4)
    encoder(obs)
    assert torch.allclose(seen[0], obs["near"].permute(0, 3, 1, 2) / 255 - 0.5)


def test_encoder_mirrors_channels_and_sides():
    encoder = small_encoder(Dict(a=Box(0, 255, (64, 64, 3), np.uint8)), depth=16)
    widths = [(m.in_channels, m.out_channels) for m in encoder.conv[::3]]
    assert widths == [(3, 16), (16, 32), (32, 64), (64, 128)]
    assert encoder.size == 2048
    # Adaptive clipping counts in the norm of a weight, which no norm layer hides.
    for layer in encoder.conv[3::3]:
        assert abs(variance(layer) * 16 * layer.in_channels - 1) < 0.06


def test_decoder_starts_with_the_variance_of_four_taps():
    decoder = small_decoder(
        Dict(a=Box(0, 255, (64, 64, 3), np.uint8)), deter=64, depth=16
    )
    for layer in decoder.conv[:-1:3]:
        assert abs(variance(layer) * 4 * layer.in_channels - 1) < 0.06


def test_encoder_and_decoder_of_vectors_only_have_no_convolutions():
    spaces = Dict(height=MIXED["height"], door=MIXED["door"])
    encoder, decoder = small_encoder(spaces), small_decoder(spaces, deter=8, stoch=4)
    assert encoder.size == 16 and not hasattr(encoder, "conv")
    recon = decoder(torch.randn(2, 3, 12))
    assert {key: tuple(x.shape) for key, x in recon.items()} == {
        "door": (2, 3, 4),
        "height": (2, 3, 1),
    }


# Decoder


def test_decoder_mirrors_the_observation():
    decoder = small_decoder(MIXED)
    recon = decoder(torch.randn(2, 3, 24))
    assert recon["near"].shape == (2, 3, 32, 48, 3)
    assert recon["far"].shape == (2, 3, 32, 48, 1)
    assert recon["arm"].shape == (2, 3, 6)
    assert 0 < recon["near"].min() and recon["near"].max() < 1
    widths = [(m.in_channels, m.out_channels) for m in decoder.conv[::3]]
    assert widths == [(16, 8), (8, 4), (4, 2), (2, 4)]  # 3 + 1 image channels


def test_decoder_hands_each_image_its_own_channels():
    decoder = small_decoder(MIXED)
    with torch.no_grad():
        decoder.conv[-1].weight.zero_()
        decoder.conv[-1].bias.copy_(torch.tensor([-2.0, 0.0, 1.0, 2.0]))
    recon = decoder(torch.randn(1, 24))
    levels = torch.sigmoid(torch.tensor([-2.0, 0.0, 1.0, 2.0]))
    assert torch.allclose(recon["far"][0, 0, 0], levels[:1])  # sorted: far first
    assert torch.allclose(recon["near"][0, 0, 0], levels[1:])


def test_decoder_reads_memory_and_latent():
    decoder = small_decoder(MIXED)
    feature = torch.randn(1, 24)
    before = decoder(feature)
    for part in (slice(0, 16), slice(16, 24)):
        other = feature.clone()
        other[:, part] += 1
        after = decoder(other)
        assert all((after[key] != before[key]).any() for key in MIXED)


def test_losses_are_sums_not_averages():
    decoder = small_decoder(MIXED)
    obs = rows(MIXED, 2, 3)
    recon = {
        "near": torch.full((2, 3, 32, 48, 3), 0.25),
        "far": obs["far"] / 255,
        "arm": symlog(obs["arm"]).reshape(2, 3, 6) + 0.5,
        "height": symlog(obs["height"])[..., None] - 2.0,
        "door": torch.zeros(2, 3, 4),
    }
    losses = decoder.loss(recon, obs | {"near": torch.zeros_like(obs["near"])})
    expected = {"near": 0.0625 * 32 * 48 * 3, "far": 0, "arm": 6 * 0.25, "height": 4}
    expected["door"] = float(np.log(4))
    assert set(losses) == set(MIXED)
    for key, value in expected.items():
        assert torch.allclose(losses[key], torch.full((2, 3), float(value))), key


def test_choice_loss_is_the_cross_entropy_of_the_right_choice():
    decoder = small_decoder(Dict(door=MIXED["door"]))
    logits = torch.randn(5, 4)
    door = torch.tensor([2, 3, 4, 5, 2])
    mine = decoder.loss({"door": logits}, {"door": door})["door"]
    assert torch.allclose(mine, F.cross_entropy(logits, door - 2, reduction="none"))


def test_image_loss_at_the_start_is_as_predicted():
    spaces = Dict(a=Box(0, 255, (64, 64, 3), np.uint8))
    decoder = small_decoder(spaces, deter=256, stoch=64, depth=8, units=128)
    obs = rows(spaces, 16)
    loss = decoder.loss(decoder(torch.randn(16, 320)), obs)["a"].mean()
    pixels = (obs["a"] / 255 - 0.5).square().sum((1, 2, 3)).mean()
    assert abs(loss / (pixels + 12288 * 0.0191) - 1) < 0.08
    assert 900 < loss < 1500  # noise frames read about a thousand and a bit


def test_one_observation_can_be_learnt_by_heart():
    spaces = Dict(a=Box(0, 255, (16, 16, 3), np.uint8), v=Box(-9, 9, (2,)))
    encoder = small_encoder(spaces, depth=4, units=32)
    decoder = small_decoder(spaces, deter=32, stoch=16, depth=4, units=32)
    middle = Linear(encoder.size, 48)
    parts = nn.ModuleList([encoder, middle, decoder])
    optimizer = torch.optim.Adam(parts.parameters(), 3e-3)
    obs = rows(spaces, 2)
    obs["a"][0], obs["a"][1] = 20, 230
    for _ in range(150):
        losses = decoder.loss(decoder(middle(encoder(obs))), obs)
        loss = sum(value.mean() for value in losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 10  # from more than 100


def test_autocast_leaves_reconstructions_in_float32():
    encoder, decoder = small_encoder(MIXED), small_decoder(MIXED)
    with torch.autocast("cpu", torch.bfloat16):
        embed, recon = encoder(rows(MIXED, 2, 3)), decoder(torch.randn(2, 3, 24))
    assert embed.dtype == torch.bfloat16
    assert {x.dtype for x in recon.values()} == {torch.float32}


def test_decoder_of_images_layer_by_layer():
    """Two parts are added on the small grid, normed, activated, then unfolded."""
    spaces = Dict(obs=Box(0, 255, (32, 48, 3), np.uint8))
    decoder = small_decoder(spaces)
    for norm in (decoder.norm, decoder.from_z[1]):
        torch.nn.init.normal_(norm.scale)
    assert decoder.from_z[0].weight.shape == (32, 8)  # twice the units
    feature = torch.randn(5, 24)
    grid = (decoder.from_h(feature[:, :16]) + decoder.from_z(feature[:, 16:])).view(
        5, 16, 2, 3
    )
    size = (grid.square().mean(1, keepdim=True) + 1e-4).sqrt()
    x = F.silu(grid / size * decoder.norm.scale[None, :, None, None])
    truth = torch.sigmoid(decoder.conv(x)).permute(0, 2, 3, 1)
    torch.testing.assert_close(decoder(feature)["obs"], truth)
