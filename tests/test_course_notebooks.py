"""What every notebook of the course owes its reader, beside what tools/nb.py checks."""

import itertools
import json
import re
from pathlib import Path

import pytest

from course import dreamer_map
from course.display import checked_alt

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
NAMED = r"color\s*=\s*[\"'](?!none)[#\w:]+[\"']|[\"']#[0-9a-fA-F]{6}[\"']"


def cells_of(path, kind=None):
    """Return tags, source and outputs of a notebook's cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        (c["metadata"].get("tags", []), "".join(c["source"]), c.get("outputs", []))
        for c in cells
        if kind in (None, c["cell_type"])
    ]


def pictures(path):
    """Return alt sentence and text of every stored picture, in order."""
    for _, _, outputs in cells_of(path, "code"):
        for output in outputs:
            if "image/png" in output.get("data", {}):
                alt = output["metadata"].get("image/png", {}).get("alt", "")
                yield alt, "".join(output["data"].get("text/plain", ""))


@EACH
def test_every_picture_has_its_sentence_twice(path):
    for alt, text in pictures(path):
        assert checked_alt(alt) == alt == text


@EACH
def test_the_map_is_the_first_picture_with_its_own_part_lit(path):
    shown = [alt for alt, _ in pictures(path)]
    mine = dreamer_map(path.stem[3:])[1]
    # 01 opens with the shipped agent and its dream; in 10 and 09 a goal may come first.
    assert mine in shown[:3]


@EACH
def test_predictions_are_asked_and_folded_answers_follow(path):
    cells = cells_of(path)
    asked = [i for i, (tags, _, _) in enumerate(cells) if "predict" in tags]
    assert len(asked) >= 2
    for i in asked:
        source = cells[i][1]
        assert "?" in source.partition("<details>")[0], "a prompt asks a question"
        assert re.search(r"<details>\s*<summary>.+?</summary>\n\n", source)
        assert source.count("<details>") == source.count("</details>") == 1
        # The answer may need a definition first, but it comes before the next prompt.
        later = itertools.takewhile(lambda c: "predict" not in c[0], cells[i + 1 :])
        printed = [outputs for _, _, outputs in itertools.islice(later, 6) if outputs]
        assert printed, "a cell soon after a prompt prints what was asked"


@EACH
def test_the_last_cell_says_what_was_built(path):
    _, source, outputs = cells_of(path, "code")[-1]
    text = "".join("".join(output.get("text", "")) for output in outputs)
    assert f'what_we_built("{path.stem}")' in source
    assert text.endswith("module and notebook agree\n")


@EACH
def test_figures_are_shown_with_their_sentence_and_the_colours_of_the_course(path):
    for _, source, _ in cells_of(path, "code"):
        assert "plt.show(" not in source, "use show(fig, alt=...)"
        found = re.search(NAMED, source)
        assert not found, f"{found and found.group()}: take it from COLORS"


@EACH
def test_animations_have_captions(path):
    for _, source, _ in cells_of(path, "code"):
        assert source.count("show_gif(") <= source.count("caption=")
