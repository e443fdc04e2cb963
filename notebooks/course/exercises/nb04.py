"""Exercises of notebook 04: networks."""

import torch
from torch import nn

from course.exercises import Edit, exercise, require
from dreamer_lite.networks import BlockLinear


def fan_in(layer):
    """The fan-in that our initialisation counts; stride 2 where it convolves."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.ConvTranspose2d):
        height, width = layer.kernel_size
        return layer.in_channels * height * width // 4  # solution
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        return layer.in_channels * height * width  # solution
    blocks, inputs, _ = layer.weight.shape  # a block layer
    return blocks * inputs  # solution


def draw_layer(rng):
    """One of the four kinds of layers, of a random size."""
    inputs, outputs, size = (int(n) for n in rng.integers(1, 9, 3))
    layers = (
        nn.Linear(inputs, outputs),
        nn.Conv2d(inputs, outputs, (size, 4), stride=2),
        nn.ConvTranspose2d(inputs, outputs, (2 * size, 4), stride=2),
        BlockLinear(size * inputs, size * outputs, size),
    )
    return ((layers[rng.integers(4)],),)


@exercise("4.1", "The fan-in of every layer", "easy", 8, [fan_in], draw_layer)
def check_fan_in(fan_in):
    """Check the four kinds of layers."""
    dense = fan_in(nn.Linear(10, 20))
    require(isinstance(dense, int), "return a whole number")
    require(dense != 20, "count inputs, not outputs")
    conv = fan_in(nn.Conv2d(3, 16, 4, stride=2))
    require(conv != 3, "an output sees a window of the image: 4 x 4 pixels, 3 channels")
    require(conv != 256, "the window reaches over the channels that come in, not out")
    up = fan_in(nn.ConvTranspose2d(8, 6, 4, stride=2))
    require(
        up != 128,
        "a stride of 2 spreads the inputs: only a quarter of the kernel meets one",
    )
    require(up == 32, "2 x 2 pixels of 8 channels are 32 inputs")
    flat = nn.Conv2d(3, 16, (2, 6), 2), nn.ConvTranspose2d(3, 6, (2, 6), 2)
    require(
        [fan_in(layer) for layer in flat] == [36, 9],
        "a kernel of 2 x 6 has 12 pixels: read both of its sides from the layer",
    )
    block = fan_in(BlockLinear(96, 160, 4))
    require(
        block != 24,
        "Dreamer counts the full width of a block layer, not that of one block",
    )
    require(block == 96, "the full width of this block layer is 96: all its inputs")


def prepare(screen):
    """Bytes 0..255, [..., H, W, C] of any dtype -> what an encoder sees: -0.5..0.5."""
    x = torch.as_tensor(screen)
    x = x / 255
    return x - 0.5


def draw_screen(rng):
    """Bytes of a random shape and dtype, bright and dark."""
    pixels = torch.randint(0, int(rng.integers(2, 257)), (2, *rng.integers(1, 6, 3)))
    kinds = (torch.uint8, torch.float32, torch.float64, torch.int32)
    return ((pixels.to(kinds[rng.integers(4)]),),)


@exercise(
    "4.2",
    "Worse when it acts",
    "easy",
    5,
    [prepare],
    draw_screen,
    bug=Edit("x = x / 255", "x = x / 255 if x.dtype == torch.uint8 else x"),
)
def check_prepare(prepare):
    """Check the same pictures as bytes, as floats and as an array."""
    pixels = torch.tensor([0, 51, 102, 204], dtype=torch.uint8)
    screen = pixels.repeat(48).reshape(1, 8, 8, 3)
    out = prepare(screen)
    require(out.shape == screen.shape, "the shape stays: [..., H, W, C]")
    require(out.min() < -0.25, "black must become -0.5: pixels are centred as well")
    require(out.min() > -0.51, "black must become -0.5, and not less")
    require(
        out.max() < 0.49,
        "204 is not white: divide by 255, not by the brightest pixel of a picture",
    )
    require(
        abs(out.max() - 0.3) < 1e-4,
        "204 must become 204 / 255 - 0.5 = 0.3: bytes end at 255",
    )
    hint = "the same bytes as a NumPy array must give the same: keep torch.as_tensor"
    try:
        array = torch.as_tensor(prepare(screen.numpy()))
    except (AttributeError, TypeError):
        array = torch.zeros(())
    require(torch.allclose(array.to(out.dtype), out), hint)
    dark = torch.eye(8, dtype=torch.uint8)[None, ..., None]
    require(
        prepare(dark).max() < 0, "bytes of 0 and 1 are a black picture with faint dots"
    )
    require(
        torch.allclose(prepare(screen.float()).to(out.dtype), out),
        "the same bytes as floats, 0. to 255., must give the same: else the agent sees "
        "other pictures when it acts than when it is trained",
    )
    require(
        torch.allclose(prepare(dark.float()), prepare(dark)),
        "a dark picture as floats, 0. and 1., still holds bytes: always divide",
    )
    for kind in (torch.float64, torch.int32):
        require(
            torch.allclose(prepare(screen.to(kind)).to(out.dtype), out),
            f"bytes of any dtype: as {kind} they must give the same, so always divide",
        )


def my_block_linear(x, weight, bias):
    """x [N, I], weight [blocks, I / blocks, O / blocks], bias [O] -> [N, O]."""
    # solution
    pieces = x.chunk(len(weight), -1)
    results = [piece @ block for piece, block in zip(pieces, weight)]
    return torch.cat(results, -1) + bias
    # end of solution


def draw_blocks(rng):
    """A layer of random sizes, all of whose inputs need a gradient."""
    rows, blocks, inputs, outputs = (int(n) for n in rng.integers(1, 6, 4))
    sizes = (rows, blocks * inputs), (blocks, inputs, outputs), (blocks * outputs,)
    return (tuple(torch.randn(size, requires_grad=True) for size in sizes),)


@exercise("4.3", "A block-diagonal layer", "medium", 10, [my_block_linear], draw_blocks)
def check_block_linear(my_block_linear):
    """Check the layer on two blocks by hand, then on the dense matrix."""
    weight = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    zero = torch.zeros(4)
    out = my_block_linear(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), weight, zero)
    require(out.shape == (1, 4), "two blocks of two outputs make [N, 4]")
    out = out[0].tolist()
    require(
        out != [3.0, 7.0, 5.0, 7.0], "weight is [in, out] in each block: piece @ block"
    )
    require(out != [5.0, 6.0, 4.0, 6.0], "block 0 comes first: keep the blocks' order")
    require(
        out != [4.0, 5.0, 6.0, 6.0],
        "outputs are interleaved: put the results of the blocks one after the other",
    )
    out = my_block_linear(torch.zeros(1, 4), weight, torch.arange(4.0))
    require(out[0].tolist() == [0.0, 1.0, 2.0, 3.0], "add the bias, once")
