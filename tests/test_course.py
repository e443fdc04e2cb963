"""The teaching helpers: pictures with alt text, sliders, claims, the last cell."""

import base64
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

import course as course
from course import display, export, modules, paths, sliders

ALT = "A straight line rises from left to right."


@pytest.fixture
def notebook(monkeypatch):
    """Pretend to be in a notebook; return the list of what is displayed."""
    import IPython.display

    shown = []

    class Handle:
        def __init__(self, place):
            self.place = place

        def update(self, data, metadata=None, raw=True):
            shown[self.place] = (data, metadata or {})

    def keep(data=None, *more, metadata=None, display_id=None, **_):
        shown.append((data, metadata or {}))
        return Handle(len(shown) - 1) if display_id else None

    monkeypatch.setattr(IPython.display, "display", keep)
    for module in (display, sliders):
        monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setenv("DREAMER_LITE_STATIC", "1")
    return shown


def line_figure(slope=1.0):
    """Return a small figure."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1], [0, slope])
    return fig


def picture(data) -> Image.Image:
    """Return the image of a displayed bundle."""
    return Image.open(io.BytesIO(base64.b64decode(data["image/png"])))


def clip(length=6):
    """Return a clip in which a white column moves right by one pixel per step."""
    frames = np.zeros((length, 16, 16, 3), np.uint8)
    for t in range(length):
        frames[t, :, t] = 255
    return frames


# Pictures


def test_show_stores_the_sentence_as_text_and_as_alt(notebook):
    import matplotlib.pyplot as plt

    fig = line_figure()
    course.show(fig, alt=ALT)
    (data, metadata), (spoken, _) = notebook
    assert data["text/plain"] == ALT and f">{ALT}</div>" in spoken["text/html"]
    assert metadata["image/png"]["alt"] == ALT
    assert picture(data).size == (200, 100)
    assert not plt.fignum_exists(fig.number), "a second copy would be shown"


def test_the_same_figure_gives_the_same_bytes():
    first, second = (display.figure_png(line_figure()) for _ in range(2))
    assert first == second
    assert b"matplotlib" not in first.lower(), "the version must not be stored"


@pytest.mark.parametrize("alt", ["", "A line.", "No full stop at all", None])
def test_a_picture_without_a_sentence_is_refused(notebook, alt):
    with pytest.raises(ValueError, match="alt= one full sentence"):
        course.show(line_figure(), alt=alt)
    assert not notebook


def test_show_gif_stores_an_animated_png_with_its_caption(notebook):
    course.show_gif(clip(), alt=ALT, caption="A column moves.", fps=5, scale=3)
    (data, metadata), _, (caption, _) = notebook
    image = picture(data)
    assert (image.format, image.n_frames, image.size) == ("PNG", 6, (48, 48))
    assert image.info["duration"] == 200 and image.info["loop"] == 0
    image.seek(4)
    shown = np.asarray(image.convert("RGB"))[::3, ::3]
    np.testing.assert_array_equal(shown, clip()[4])
    assert metadata["image/png"]["alt"] == ALT
    assert caption["text/markdown"] == "*A column moves.*"


def test_show_gif_reads_a_gif(notebook, tmp_path):
    pages = [Image.fromarray(f) for f in clip()]
    path = tmp_path / "a.gif"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=80)
    course.show_gif(path, alt=ALT)
    image = picture(notebook[0][0])
    assert (image.n_frames, image.size) == (6, (16, 16))
    assert image.info["duration"] == 80


# Strips


def test_strip_draws_three_rows_and_says_what_was_seen():
    fig = course.strip(clip(), clip(), columns=3, context=2)
    assert len(fig.axes) == 9
    rows = [axis.get_ylabel() for axis in fig.axes if axis.get_ylabel()]
    assert rows == ["real", "dreamed", "error"]
    times = [axis.get_xlabel() for axis in fig.axes[-3:]]
    assert times == ["t = 0 (seen)", "t = 2", "t = 5"]
    np.testing.assert_array_equal(fig.axes[1].images[0].get_array(), clip()[2])


def test_frames_grid_wants_as_many_labels_as_frames():
    fig = course.frames_grid(clip(), labels="abcdef", columns=4)
    assert [axis.get_xlabel() for axis in fig.axes[:6]] == list("abcdef")


def test_each_bar_of_loss_shares_is_whole_and_the_large_ones_are_named():
    bars = {"value": {"obs": 90.0, "dyn": 10.0}, "gradient": {"obs": 1.0, "dyn": 1.0}}
    fig, alt = course.loss_shares(bars)
    wide = [patch.get_width() for patch in fig.axes[0].patches]
    np.testing.assert_allclose(wide, [0.5, 0.5, 0.9, 0.1])
    assert alt.endswith("value: obs and dyn; gradient: obs and dyn.")


# Sliders


def test_static_explore_shows_one_figure_and_drives_every_control(notebook):
    drawn = []

    def draw(slope, kind):
        drawn.append((slope, kind))
        return line_figure(slope)

    course.explore(
        draw,
        alt=lambda slope, kind: f"A {kind} line with the slope {slope}.",
        slope=course.Slider(0.5, 4.0, 0.5, value=2.0),
        kind=course.Choice(["raw", "symlog"]),
    )
    data, metadata = notebook[0]
    assert data["text/plain"] == "A raw line with the slope 2.0."
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert drawn[0] == (2.0, "raw")
    assert set(drawn[1:]) == {(0.5, "raw"), (4.0, "raw"), (2.0, "raw"), (2.0, "symlog")}


def test_static_explore_finds_a_slider_that_breaks_at_its_end(notebook):
    def draw(n):
        return line_figure(1 / (n - 9))

    with pytest.raises(ZeroDivisionError):
        course.explore(draw, alt=ALT, n=course.Slider(1, 9, value=3))


def test_explore_leaves_the_random_numbers_alone(notebook):
    import torch

    def draw(n):
        return line_figure(float(torch.rand(()) + np.random.rand()))

    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    course.explore(draw, alt=ALT, n=course.Slider(1, 9))
    assert (torch.rand(1), np.random.rand()) == expected


def test_live_sliders_redraw_an_output_of_its_own(notebook, monkeypatch):
    monkeypatch.delenv("DREAMER_LITE_STATIC")
    alive = course.explore(
        lambda n, kind: line_figure(n),
        alt=lambda n, kind: f"The {kind} line has the slope {n}.",
        n=course.Slider(1, 9),
        kind=course.Choice(["raw", "bent"]),
    )
    before, _, (controls, _) = list(notebook)
    assert before[0]["text/plain"] == "The raw line has the slope 1."
    assert controls["text/plain"] == "(run this cell to move n, kind)"
    assert "application/vnd.jupyter.widget-view+json" in controls
    assert type(alive.widgets["n"]).__name__ == "IntSlider"
    alive.widgets["n"].value = 5
    (data, metadata), (spoken, _), _ = notebook
    assert data["image/png"] != before[0]["image/png"]
    assert data["text/plain"] == "The raw line has the slope 5."
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert data["text/plain"] in spoken["text/html"]


def test_a_slider_gives_the_number_that_it_shows(notebook, monkeypatch):
    monkeypatch.delenv("DREAMER_LITE_STATIC")
    given = []

    def draw(x):
        given.append(x)
        return line_figure(x)

    alive = course.explore(draw, alt=ALT, x=course.Slider(0.1, 2.0, 0.1, value=1.0))
    alive.widgets["x"].value = 1.4000000000000004
    assert set(given) == {1.0, 1.4}


def test_without_ipywidgets_the_figure_is_static(notebook, monkeypatch):
    monkeypatch.delenv("DREAMER_LITE_STATIC")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    course.explore(lambda n: line_figure(n), alt=ALT, n=course.Slider(1, 2))
    assert notebook[0][0]["text/plain"] == ALT


# Dreams


def test_scrub_moves_through_time_and_has_a_strip_as_twin(notebook):
    real, dreamed = clip(), np.roll(clip(), 1, axis=2)
    scrubber = course.scrub(real, dreamed, alt=ALT, context=2)
    assert notebook[0][0]["text/plain"] == ALT
    assert picture(notebook[0][0]).width == 800
    fig = scrubber.move(t=3)
    shown = [axis.images[0].get_array() for axis in fig.axes]
    np.testing.assert_array_equal(shown[0], real[3])
    np.testing.assert_array_equal(shown[1], dreamed[3])
    np.testing.assert_array_equal(shown[2], course.error_frames(real, dreamed)[3])
    assert [axis.get_xlabel() for axis in fig.axes] == ["real", "dreamed", "error"]
    assert "dreamed on its own" in fig.get_suptitle()
    assert "seen" in scrubber.move(t=1).get_suptitle()


class Corridor:
    """A dream of one number: where the white column is."""

    def reset(self):
        self.x = 0
        return clip()[0]

    def step(self, action):
        self.x += 1 if action == 1 else -1
        return clip()[self.x]


def test_static_action_pad_presses_its_script(notebook):
    dream = Corridor()
    actions = ["left", "right"]
    pad = course.action_pad(dream.step, dream.reset, actions, ALT, ["right"] * 3)
    assert dream.x == 3 and pad.history == ["right"] * 3
    assert {data["text/plain"] for data, _ in notebook} == {ALT}


def test_live_action_pad_presses_buttons(notebook, monkeypatch):
    monkeypatch.delenv("DREAMER_LITE_STATIC")
    dream = Corridor()
    actions = ["left", "right"]
    pad = course.action_pad(dream.step, dream.reset, actions, ALT, [])
    left, right, again = pad.buttons
    assert [b.description for b in pad.buttons] == ["left", "right", "start again"]
    assert notebook[0][0]["text/plain"] == "The dream after no action yet."
    right.click()
    right.click()
    left.click()
    assert dream.x == 1
    assert notebook[0][0]["text/plain"] == "The dream after right, right, left."
    again.click()
    assert dream.x == 0 and pad.history == []


# Claims


def test_claim_says_what_holds_and_stops_only_a_check(capsys, monkeypatch):
    import torch

    monkeypatch.delenv("DREAMER_LITE_STATIC", raising=False)
    course.claim("one is less than two", torch.tensor(1) < 2)
    assert capsys.readouterr().out == "claim: one is less than two | holds\n"
    course.claim("2 < 1", np.bool_(False))
    assert capsys.readouterr().out == "claim: 2 < 1 | does not hold\n"
    monkeypatch.setenv("DREAMER_LITE_STATIC", "1")
    with pytest.raises(AssertionError, match=r"2 < 1 \| does not hold"):
        course.claim("2 < 1", np.bool_(False))


@pytest.mark.parametrize(
    ("mine", "truth", "more", "said"),
    [
        (0.3, 0.3, {}, "close | max difference < 1e-06"),
        (0.3, 0.3, {"tolerance": 0}, "exact | max difference 0"),
        ([1, 2], [1, 2], {}, "exact | max difference 0"),
        (0.625, 0.0, {"expect": "different"}, "different | max difference > 0.1"),
        (np.nan, np.nan, {}, "close | max difference < 1e-06"),
        (1.01, 1.0, {"tolerance": 0.1}, "close | max difference < 0.1"),
    ],
)
def test_compare_prints_a_bound(capsys, mine, truth, more, said):
    course.compare("it", mine, truth, **more)
    assert capsys.readouterr().out == f"it | {said}\n"


@pytest.mark.parametrize(
    ("mine", "truth", "more"),
    [
        (0.1, 0.2, {}),
        (np.nan, 0.0, {}),
        ([1, 2], [1, 3], {"tolerance": 5}),
        (0.3, 0.3, {"expect": "different"}),
    ],
)
def test_compare_says_when_it_is_not_as_expected(mine, truth, more, monkeypatch):
    monkeypatch.setenv("DREAMER_LITE_STATIC", "1")
    with pytest.raises(AssertionError, match=r"^it \| .* \| expected: "):
        course.compare("it", mine, truth, **more)
    monkeypatch.setenv("DREAMER_LITE_STATIC", "0")
    course.compare("it", mine, truth, **more)


# Data and the last cell


def test_data_path_finds_the_checkout_or_says_what_to_do():
    assert course.data_path() == paths.ROOT / "data"
    with pytest.raises(
        FileNotFoundError, match="There is no data/no.npz in .*clone it"
    ):
        course.data_path("no.npz")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a small checkout with one notebook and its module."""
    cells = ["#| default_exp toy_part", "#| export\ndef double(x):\n    return 2 * x"]
    code = [{"cell_type": "code", "source": s, "metadata": {}} for s in cells]
    for folder in ("notebooks", "dreamer_lite"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "notebooks" / "05_toy_part.ipynb"
    path.write_text(json.dumps({"cells": code}))
    monkeypatch.setattr(modules, "ROOT", tmp_path)
    export.write(tmp_path, [path])
    return tmp_path


def test_what_we_built_says_that_module_and_notebook_agree(checkout, capsys):
    course.what_we_built("05_toy_part")
    out = capsys.readouterr().out
    assert out == "dreamer_lite.toy_part: double\nmodule and notebook agree\n"


def test_a_changed_cell_is_noticed_and_exported_again(checkout, capsys):
    path = checkout / "notebooks" / "05_toy_part.ipynb"
    path.write_text(path.read_text().replace("2 * x", "3 * x"))
    course.what_we_built("05_toy_part")
    assert 'is stale: run make export or reexport("05_toy_part")' in (
        capsys.readouterr().out
    )
    course.reexport("05_toy_part")
    course.reexport("05_toy_part")
    course.what_we_built("05_toy_part")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dreamer_lite/toy_part.py: written anew"
    assert lines[1] == "dreamer_lite/toy_part.py: already up to date"
    assert lines[3] == "module and notebook agree"
    assert "3 * x" in (checkout / "dreamer_lite" / "toy_part.py").read_text()
