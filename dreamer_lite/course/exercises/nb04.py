"""Exercises of notebook 04: networks."""

import torch
from torch import nn

from dreamer_lite.course.exercises import Edit, exercise, require
from dreamer_lite.networks import BlockLinear


def fan_in(layer):
    """How many inputs one output of the layer sees; stride 2 where it convolves."""
    if isinstance(layer, nn.ConvTranspose2d):
        height, width = layer.kernel_size
        return layer.in_channels * height * width // 4  # solution
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        return layer.in_channels * height * width  # solution
    if isinstance(layer, BlockLinear):
        blocks, inputs, _ = layer.weight.shape
        return blocks * inputs  # solution
    return layer.in_features


def check_fan_in(fan_in):
    """Check the four kinds of layers."""
    dense = fan_in(nn.Linear(10, 20))
    require(isinstance(dense, int), "return a whole number")
    require(dense != 20, "count inputs, not outputs")
    require(dense == 10, "an output of a dense layer sees all 10 inputs")
    conv = fan_in(nn.Conv2d(3, 16, 4, stride=2))
    require(conv != 3, "an output sees a window of the image: 4 x 4 pixels, 3 channels")
    require(conv != 256, "the window reaches over the channels that come in, not out")
    require(conv == 48, "4 x 4 pixels of 3 channels are 48 inputs")
    up = fan_in(nn.ConvTranspose2d(8, 4, 4, stride=2))
    require(
        up != 128,
        "a stride of 2 spreads the inputs: only a quarter of the kernel meets one",
    )
    require(up == 32, "2 x 2 pixels of 8 channels are 32 inputs")
    block = fan_in(BlockLinear(64, 128, 8))
    require(
        block != 8, "Dreamer counts the full width for a block layer, not one block's"
    )
    require(block == 64, "the full width of this block layer is 64")


exercise(
    "4.1",
    "The fan-in of every layer",
    difficulty="easy",
    minutes=8,
    solution=[fan_in],
    check=check_fan_in,
    example=lambda fn: [
        fn(nn.Linear(10, 20)),
        fn(nn.Conv2d(3, 16, 4, stride=2)),
        fn(nn.ConvTranspose2d(8, 4, 4, stride=2)),
        fn(BlockLinear(64, 128, 8)),
    ],
    wrongs=[
        Edit("width // 4", "width", "only a quarter of the kernel"),
        Edit("return blocks * inputs", "return inputs", "not one block's"),
        Edit("layer.in_features", "layer.out_features", "not outputs"),
        Edit(
            "return layer.in_channels * height * width\n",
            "return layer.in_channels\n",
            "a window of the image",
        ),
        Edit(
            "return layer.in_channels * height * width\n",
            "return layer.out_channels * height * width\n",
            "come in, not out",
        ),
    ],
)


def image_loss(recon, image):
    """Loss [B, T] of drawings recon [B, T, H, W, C] in 0..1 of uint8 images."""
    error = recon - image / 255
    return error.square().sum((-1, -2, -3))


def check_image_loss(image_loss):
    """Check the loss on black, white and gray pictures."""
    image = torch.zeros(2, 3, 16, 16, 3, dtype=torch.uint8)
    image[0] = 255
    gray = torch.full(image.shape, 0.5)
    loss = image_loss(gray, image)
    require(loss.shape == (2, 3), "one loss for each picture: [B, T]")
    require(
        not torch.allclose(loss, torch.full((2, 3), 0.25)),
        "0.25 is the error of one number: the 768 numbers of a picture are summed",
    )
    require(
        loss.max() < 1e6, "errors of millions: bring the bytes into 0..1, divide by 255"
    )
    require(
        not torch.allclose(loss, torch.full((2, 3), 96.0)),
        "half of 192: this loss has no factor 1/2",
    )
    require(
        abs(loss[0, 0] - loss[1, 0]) < 1e-3,
        "white and black are equally far from gray: targets lie in 0..1, not -0.5..0.5",
    )
    require(
        not torch.allclose(loss, torch.full((2, 3), 384.0)),
        "the error is squared, not just made positive",
    )
    require(abs(loss[0, 0] - 192) < 1e-2, "a gray drawing of white costs 768 / 4 = 192")


exercise(
    "4.2",
    "Mario has disappeared",
    difficulty="easy",
    minutes=5,
    kind="bug",
    solution=[image_loss],
    bug=Edit(".sum((-1, -2, -3))", ".mean((-1, -2, -3))"),
    check=check_image_loss,
    example=lambda loss: loss(
        torch.zeros(2, 3, 16, 16, 3), torch.zeros(2, 3, 16, 16, 3, dtype=torch.uint8)
    ),
    wrongs=[
        Edit("image / 255", "image.float()", "divide by 255"),
        Edit("image / 255", "(image / 255 - 0.5)", "not -0.5..0.5"),
        Edit(".square()", ".abs()", "squared, not just made positive"),
        Edit("error.square()", "0.5 * error.square()", "no factor 1/2"),
        Edit(".square().sum((-1, -2, -3))", ".square().mean((2, 3, 4))", "are summed"),
    ],
)


def my_block_linear(x, weight, bias):
    """x [N, I], weight [blocks, I / blocks, O / blocks], bias [O] -> [N, O]."""
    # solution
    pieces = x.chunk(len(weight), -1)
    results = [piece @ block for piece, block in zip(pieces, weight)]
    return torch.cat(results, -1) + bias
    # end of solution


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
        "outputs are interleaved: the pieces stand one after the other",
    )
    require(out == [4.0, 6.0, 5.0, 6.0], "(1, 1) gives (4, 6) and (1, 0) gives (5, 6)")
    out = my_block_linear(torch.zeros(1, 4), weight, torch.arange(4.0))
    require(out[0].tolist() == [0.0, 1.0, 2.0, 3.0], "add the bias, once")
    wide = torch.randn(3, 4, 2)
    x = torch.randn(5, 12)
    require(
        torch.allclose(
            my_block_linear(x, wide, torch.zeros(6)), x @ torch.block_diag(*wide), 1e-4
        ),
        "with three blocks it must equal x @ block_diag(*weight)",
    )


exercise(
    "4.3",
    "A block-diagonal layer",
    difficulty="medium",
    minutes=10,
    solution=[my_block_linear],
    check=check_block_linear,
    example=lambda layer: layer(
        torch.randn(5, 4), torch.randn(2, 2, 2), torch.zeros(4)
    ),
    wrongs=[
        Edit("piece @ block for", "piece @ block.T for", "weight is [in, out]"),
        Edit("torch.cat(results", "torch.cat(results[::-1]", "keep the blocks' order"),
        Edit(
            "torch.cat(results, -1)",
            "torch.stack(results, -1).flatten(1)",
            "interleaved",
        ),
        Edit(" + bias", " + 0 * bias", "add the bias"),
    ],
)
