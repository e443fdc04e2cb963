"""The diagrams and the colours: legible, apart for every eye, true to the numbers."""

import itertools

import numpy as np
import pytest

import course as course
from course import diagrams
from course.drawing import Sheet

NUMBERS = ([0, 0.0, 1.0, 0.5], [1, 1.5, 1.0, 2.0], [1, 0.997, 0.0, 0.997])
PICTURES = {
    **{f"map-{part}": (course.dreamer_map, (part,)) for part in diagrams.PARTS},
    "world-model": (course.world_model_phase, ()),
    "large-world-model": (course.world_model_phase, ((16, 64, 8192), (16, 64, 32, 64))),
    "behaviour": (course.behaviour_phase, ()),
    "large-behaviour": (course.behaviour_phase, ((1024, 16, 10240),)),
    "phases": (course.two_phases, ()),
    "alignment": (course.alignment, ()),
    "cell": (course.rssm_cell, ()),
    "unrolled": (course.rssm_unrolled, ()),
    "straight-through": (course.straight_through, ([2, 1, 0], [0.6, 0.3, 0.1], 1)),
    "large-cell": (course.rssm_cell, (12288, 17, 8192, 1024, 32, 64)),
    "lambda": (course.lambda_recursion, NUMBERS),
}


@pytest.fixture(autouse=True)
def closed():
    """Close the figures of a test."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def extents(fig):
    """Return text, left, right, top and bottom of every label in pixels."""
    renderer = fig.canvas.get_renderer()
    height = fig.bbox.height
    for label in fig.axes[0].texts:
        box = label.get_window_extent(renderer)
        yield label, box.x0, box.x1, height - box.y1, height - box.y0


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_overlaps_or_leaves_the_sheet(name):
    draw, arguments = PICTURES[name]
    fig, alt = draw(*arguments)
    labels = list(extents(fig))
    assert fig.bbox.width <= 800 and len(alt.split()) > 12 and alt.endswith(".")
    for label, left, right, top, bottom in labels:
        inside = left >= 0 and top >= 0
        inside = inside and right <= fig.bbox.width and bottom <= fig.bbox.height
        assert inside, f"{label.get_text()!r} leaves the sheet"
        assert label.get_fontsize() >= 7.5, f"{label.get_text()!r} is too small"
    for one, two in itertools.combinations(labels, 2):
        wide = min(one[2], two[2]) - max(one[1], two[1])
        high = min(one[4], two[4]) - max(one[3], two[3])
        said = f"{one[0].get_text()!r} overlaps {two[0].get_text()!r}"
        assert wide <= 0 or high <= 1.5, said


@pytest.mark.parametrize("name", PICTURES)
def test_text_fits_its_box(name, monkeypatch):
    sheets = []
    plain = Sheet.__init__

    def remember(self, *args, **more):
        plain(self, *args, **more)
        sheets.append(self)

    monkeypatch.setattr(Sheet, "__init__", remember)
    draw, arguments = PICTURES[name]
    fig, _ = draw(*arguments)
    places = {label: (left, right) for label, left, right, *_ in extents(fig)}
    for label, x, width in sheets[0].boxes:
        left, right = places[label]
        fits = left >= x + 1 and right <= x + width - 1
        assert fits, f"{label.get_text()!r} is wider than its box"


def test_the_map_lights_one_part_and_says_which():
    alts = {course.dreamer_map(part)[1] for part in diagrams.PARTS}
    assert len(alts) == 10
    _, alt = course.dreamer_map("rssm")
    assert "lit is part 5, the recurrent state-space model" in alt


def test_the_drawn_returns_are_those_of_the_package():
    import torch

    from dreamer_lite.lambda_returns import lambda_return

    fig, alt = course.lambda_recursion(*NUMBERS, lam=0.9)
    bold = [t for t in fig.axes[0].texts if t.get_weight() == "bold"]
    drawn = [t for t in bold if t.get_text()[0].isdigit()]
    drawn = sorted(drawn, key=lambda t: t.get_position()[0])
    tensors = [torch.tensor([row], dtype=torch.float32) for row in NUMBERS]
    truth = lambda_return(*tensors, lam=0.9)[0].tolist() + [NUMBERS[1][-1]]
    assert [t.get_text() for t in drawn] == [f"{r:.2f}" for r in truth]
    assert f"ends as {truth[0]:.2f}" in alt


# Colours

SEEN_TOGETHER = [
    ("real", "dreamed", "error"),
    ("prior", "posterior", "kl"),
    ("reward", "continue", "value", "return"),
    ("actor", "critic"),
    ("memory", "latent", "action", "embedding"),
    ("is_first", "is_last", "is_terminal"),
    ("naive", "ours", "target"),
    ("random", "ours", "threshold"),
]


# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB.
EYES = {
    "usual": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def linear(hexadecimal):
    """Return linear RGB of a colour like #0072B2."""
    rgb = np.array([int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """Return CIE Lab of linear RGB."""
    to_xyz = [
        [0.4124, 0.3576, 0.1805],
        [0.2126, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9505],
    ]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    bright, red, blue = root[1], root[0] - root[1], root[1] - root[2]
    return np.array([116 * bright - 16, 500 * red, 200 * blue])


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("group", SEEN_TOGETHER, ids="-".join)
def test_colours_seen_together_differ_for_every_eye(group, eye):
    for one, two in itertools.combinations(group, 2):
        seen = [lab(np.array(EYES[eye]) @ linear(course.COLORS[q])) for q in (one, two)]
        assert np.linalg.norm(seen[0] - seen[1]) > 15, f"{one} looks like {two}"


def test_every_quantity_has_a_colour_of_its_own_and_every_line_a_style():
    assert len(set(course.COLORS.values())) == len(course.COLORS)
    assert set(course.LINESTYLES) <= set(course.COLORS)
    for group in SEEN_TOGETHER:
        looks = [str(course.LINESTYLES[q]) for q in group if q in course.LINESTYLES]
        assert len(set(looks)) == len(looks), f"{group} differ by colour alone"


@pytest.mark.parametrize("quantity", course.LINESTYLES)
def test_lines_stand_out_from_paper(quantity):
    bright = linear(course.COLORS[quantity]) @ [0.2126, 0.7152, 0.0722]
    assert 1.05 / (bright + 0.05) > 2.5
