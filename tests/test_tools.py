"""The tools: export, pairing, running, checks and drills, all on a tiny course."""

import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from gymnasium.spaces import Discrete
from small import agent_for

import critics
import nb
import nb_check
import times
from export import logic as export

ROOT = Path(__file__).resolve().parents[1]
PNG = base64.b64encode(b"\x89PNG not a real picture").decode()
SHOW = f'''"""A picture as the course shows it."""


def show(alt):
    """Show a picture."""
    from IPython.display import display

    about = {{"image/png": {{"alt": alt}}}} if alt else {{}}
    display({{"image/png": "{PNG}", "text/plain": alt}}, metadata=about, raw=True)
'''
TEXT = '''# %% [markdown]
# # 01 · Tiny
#
# *Measured: not yet.*

# %%
#| default_exp tiny
import sys

# %%
#| export
"""A tiny module."""

# %%
#| export
import math

# %%
#| export
TWO = 2


def root(x):
    """Return the square root."""
    return math.sqrt(x)

# %% [markdown] tags=["predict"]
# ## What comes out?

# %%
print("one")
print("aside", file=sys.stderr)
print(root(4))

# %%
from course import show

with open("../data/seen.txt") as file:
    show("A picture of nothing at all.")
'''


def make_course(root, text=TEXT):
    """Write a checkout with one notebook, as text, below `root`."""
    for folder in ("dreamer_lite", "data", "notebooks/course", "notebooks/text"):
        (root / folder).mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "tiny"\n\n[tool.x]\n')
    (root / "data/seen.txt").write_text("seen")
    (root / "dreamer_lite/__init__.py").write_text("")
    (root / "notebooks/course/__init__.py").write_text(SHOW)
    (root / "notebooks/text/01_tiny.py").write_text(text, encoding="utf-8")
    assert nb.main(["from-text", "--root", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A tiny course that has been run once."""
    root = make_course(tmp_path_factory.mktemp("executed") / "course")
    assert nb.main(["run", "--root", str(root)]) == 0
    return root


@pytest.fixture
def course(executed, tmp_path):
    """A copy of the executed course, to break."""
    return Path(shutil.copytree(executed, tmp_path / "course"))


def problems(root):
    """Return what the check says about the tiny course."""
    paths = nb.select(root, [])
    return nb.check(root, paths, whole=True)


def edit(path, old, new, count=1):
    """Replace text in a file; it must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")


def edit_cells(root, change):
    """Apply `change` to the stored notebook's code cells, without any other tool."""
    path = root / "notebooks/01_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    change([cell for cell in notebook.cells if cell.cell_type == "code"])
    nbformat.write(notebook, path)


# Export


def write_notebook(folder, stem, *cells):
    """Write a notebook with the given code cells."""
    made = [nbformat.v4.new_code_cell(cell) for cell in cells]
    (folder / "notebooks").mkdir(exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=made)
    path = folder / "notebooks" / f"{stem}.ipynb"
    nbformat.write(notebook, path)
    return path


def test_module_is_the_marked_cells_and_nothing_else(course):
    assert (course / "dreamer_lite/tiny.py").read_text() == (
        "# Generated from notebooks/01_tiny.ipynb by tools/export.py.\n"
        "# Edit the notebook, not this file.\n"
        '"""A tiny module."""\n\nimport math\n\n\nTWO = 2\n\n\n'
        'def root(x):\n    """Return the square root."""\n    return math.sqrt(x)\n'
    )
    assert export.build(course / "notebooks/01_tiny.ipynb").names == ("TWO", "root")


NAMED = "#| default_exp a"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([NAMED, "#| export\n%matplotlib inline"], "syntax error"),
        ([NAMED, "x = 1\n#| export"], "must be exactly the cell's first line"),
        ([NAMED, "#|export\nx = 1"], "must be exactly the cell's first line"),
        ([NAMED, "x = 1"], "no code cell starts with '#| export'"),
        (["#| export\nx = 1"], "needs exactly one '#| default_exp NAME', has none"),
        ([NAMED, "#| default_exp b", "#| export\nx = 1"], "has a, b"),
        (["#| default_exp a-b", "#| export\nx = 1"], "'a-b' is no module name"),
    ],
)
def test_export_refuses_in_one_line(tmp_path, capsys, cells, message):
    write_notebook(tmp_path, "01_a", *cells)
    (tmp_path / "dreamer_lite").mkdir()
    with pytest.raises(export.ExportError, match=re.escape(message)) as caught:
        export.write(tmp_path)
    assert "\n" not in str(caught.value) and "01_a" in str(caught.value)
    assert list((tmp_path / "dreamer_lite").iterdir()) == []
    assert message in "\n".join(export.problems(tmp_path))


def test_export_refuses_two_notebooks_for_one_module(tmp_path):
    for stem in ("01_a", "02_a"):
        write_notebook(tmp_path, stem, NAMED, "#| export\nx = 1")
    with pytest.raises(export.ExportError, match="02_a: module 'a' is already 01_a's"):
        export.write(tmp_path)


def test_export_does_not_overwrite_a_handwritten_module(tmp_path):
    write_notebook(tmp_path, "01_a", NAMED, "#| export\nx = 1")
    (tmp_path / "dreamer_lite").mkdir()
    (tmp_path / "dreamer_lite/a.py").write_text("mine = 1\n")
    with pytest.raises(export.ExportError, match="a.py is not a generated file"):
        export.write(tmp_path)
    assert (tmp_path / "dreamer_lite/a.py").read_text() == "mine = 1\n"


def test_export_reports_a_module_without_its_notebook(course):
    (course / "notebooks/01_tiny.ipynb").unlink()
    assert export.problems(course) == [
        "dreamer_lite/tiny.py has no notebook any more: delete it"
    ]


# Pairing


def test_setup_comes_after_the_title_and_is_folded(course):
    setup = nb.read(course / "notebooks/01_tiny.ipynb").cells[1]
    assert setup.source == nb.setup_cell("")
    folded = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    assert setup.metadata == {"tags": ["setup"], **folded}


def test_a_tag_folds_a_cell(course):
    edit(
        course / "notebooks/text/01_tiny.py",
        "# %%\nfrom",
        '# %% tags=["hide-input"]\nfrom',
    )
    assert nb.main(["from-text", "--root", str(course)]) == 0
    last = nb.read(course / "notebooks/01_tiny.ipynb").cells[-1]
    assert last.metadata.jupyter == {"source_hidden": True} and last.outputs
    assert problems(course) == []


def test_an_aside_is_a_folded_section(course):
    path = course / "notebooks/text/01_tiny.py"
    edit(path, "## What comes out?", "## Aside: what comes out?")
    assert nb.main(["from-text", "--root", str(course)]) == 0
    assert "has the tag aside" in "".join(problems(course))
    edit(path, 'tags=["predict"]', 'tags=["aside", "predict"]')
    assert nb.main(["from-text", "--root", str(course)]) == 0
    cells = nb.read(course / "notebooks/01_tiny.ipynb").cells
    folded = [c for c in cells if c.metadata.get("jp-MarkdownHeadingCollapsed")]
    assert [c.source for c in folded] == ["## Aside: what comes out?"]
    assert problems(course) == []


def test_text_is_formatted(course):
    edit(course / "notebooks/text/01_tiny.py", 'print("one")', "print('one')")
    assert nb.main(["from-text", "--root", str(course)]) == 0
    assert 'print("one")' in (course / "notebooks/text/01_tiny.py").read_text()
    assert problems(course) == []


def test_what_a_mere_save_adds_is_no_fault(course):
    path = course / "notebooks/01_tiny.ipynb"
    before = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata |= {"widgets": {}, "vscode": {"x": 1}}
    notebook.metadata.language_info.version = "3.12.1"
    for cell in notebook.cells:
        cell.metadata |= {"execution": {"x": "1"}, "collapsed": False, "id": "x"}
        cell.id = cell.id[::-1]
    nbformat.write(notebook, path)
    assert path.read_bytes() != before and problems(course) == []
    assert nb.main(["from-nb", "--root", str(course)]) == 0
    assert path.read_bytes() == before


def test_text_and_notebook_lead_to_each_other(course):
    names = ["notebooks/01_tiny.ipynb", "notebooks/text/01_tiny.py"]
    before = [(course / name).read_bytes() for name in names]
    for command in ("from-text", "from-nb", "from-text"):
        assert nb.main([command, "--root", str(course)]) == 0
        assert [(course / name).read_bytes() for name in names] == before
    assert nb.main(["run", "--root", str(course)]) == 0
    assert [(course / name).read_bytes() for name in names] == before


def test_text_alone_gives_the_same_cell_ids(course):
    ids = [cell.id for cell in nb.read(course / "notebooks/01_tiny.ipynb").cells]
    (course / "notebooks/01_tiny.ipynb").unlink()
    assert nb.main(["from-text", "1", "--root", str(course)]) == 0
    new = [cell.id for cell in nb.read(course / "notebooks/01_tiny.ipynb").cells]
    assert new == ids and len(set(ids)) == len(ids)


def test_only_a_changed_cell_loses_its_output(course):
    edit(course / "notebooks/text/01_tiny.py", 'print("one")', 'print("two")')
    nb.main(["from-text", "--root", str(course)])
    cells = [c for _, c in nb_check.code_cells(nb.read(nb.select(course, [])[0]))]
    assert [bool(cell.execution_count) for cell in cells] == [True] * 5 + [False, True]
    assert cells[-1].outputs and not cells[-2].outputs


def test_direction_is_never_guessed(course):
    edit(course / "notebooks/text/01_tiny.py", 'print("one")', 'print("two")')
    text = (course / "notebooks/text/01_tiny.py").read_bytes()
    assert nb.main(["run", "--root", str(course)]) == 1
    assert (course / "notebooks/text/01_tiny.py").read_bytes() == text


def test_a_changed_data_file_makes_the_outputs_stale(course):
    assert problems(course) == []
    (course / "data/seen.txt").write_text("another")
    assert problems(course) == ["01_tiny: data/seen.txt has changed since: run it"]


def test_a_notebook_of_beyond_is_paired_and_exports_nothing(course):
    (course / "notebooks/text/beyond").mkdir()
    text = TEXT.replace("#| default_exp tiny\n", "").replace("#| export\n", "")
    (course / "notebooks/text/beyond/more.py").write_text(text, encoding="utf-8")
    assert nb.main(["from-text", "more", "--root", str(course)]) == 0
    assert (course / "notebooks/beyond/more.ipynb").is_file()
    assert [line for line in problems(course) if "not run" not in line][1:] == []


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/someone/course",
        "https://user:token@github.com/someone/course.git",
        "git@github.com:someone/course.git",
    ],
)
def test_stamp_writes_badge_and_address_and_keeps_outputs(course, url):
    for _ in range(2):
        assert nb.main(["stamp", url, "--root", str(course)]) == 0
    assert nb.address(course).startswith("https://github.com/someone/course")
    cells = nb.read(course / "notebooks/01_tiny.ipynb").cells
    page = "github/someone/course/blob/main/notebooks/01_tiny.ipynb"
    assert page in cells[1].source and "token" not in str(cells)
    assert f"git clone -q --depth 1 {nb.address(course)} " in cells[2].source
    assert problems(course) == []


def test_stamp_takes_the_git_remote(course):
    git = ["git", "-C", str(course)]
    subprocess.run([*git, "init", "-q"], check=True)
    with pytest.raises(ValueError, match="no git remote 'origin'"):
        nb.stamp(course)
    remote = ["remote", "add", "origin", "git@github.com:someone/course.git"]
    subprocess.run([*git, *remote], check=True)
    assert nb.stamp(course) == "https://github.com/someone/course.git"


# Running


def test_run_stores_a_clean_notebook(course):
    notebook = nb.read(course / "notebooks/01_tiny.ipynb")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, 8))
    assert notebook.metadata.language_info == {"name": "python"}
    assert set(notebook.metadata.data_files) == {"seen.txt"}
    streams = {"stdout": "", "stderr": ""}  # each may come in several pieces
    for output in code[5].outputs:
        streams[output["name"]] += output["text"]
    assert streams == {"stdout": "one\n2.0\n", "stderr": "aside\n"}
    assert code[6].outputs[0].metadata["image/png"]["alt"].startswith("A picture")


def test_streams_and_widgets_are_tidied():
    stream = nbformat.v4.new_output("stream", name="stdout", text="a\n")
    path = "/tmp/ipykernel_12/345.py:1: Warning\n"
    more = nbformat.v4.new_output("stream", name="stdout", text=path)
    widget = "application/vnd.jupyter.widget-view+json"
    view = nbformat.v4.new_output("display_data", data={widget: {"model_id": "1"}})
    cell = nbformat.v4.new_code_cell("x", outputs=[stream, view, more])
    cell.metadata = nbformat.from_dict({"execution": {"x": "1"}, "tags": ["predict"]})
    metadata = {
        "widgets": {"state": {}},
        "kernelspec": {"name": "x", "display_name": "x"},
    }
    clean = nb.clean(nbformat.v4.new_notebook(cells=[cell], metadata=metadata))
    assert [o.text for o in clean.cells[0].outputs] == ["a\n<cell>:1: Warning\n"]
    assert clean.cells[0].metadata == {"tags": ["predict"]}
    assert (
        clean.metadata.kernelspec.name == "python3" and "widgets" not in clean.metadata
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "code cell 6 ('1 / 0') stopped"),
        ("import os; os._exit(1)", "code cell 6"),
        ("print('/home/me/course')", "shows a local path, /home/me/course"),
        ("import time; time.sleep(60)", "code cell 6"),
    ],
)
def test_a_failed_run_keeps_the_old_file(course, capsys, code, message):
    edit(course / "notebooks/text/01_tiny.py", 'print("one")', code)
    edit(course / "notebooks/text/01_tiny.py", 'print("aside", file=sys.stderr)\n', "")
    edit(course / "notebooks/text/01_tiny.py", "print(root(4))\n", "")
    nb.main(["from-text", "--root", str(course)])
    before = (course / "notebooks/01_tiny.ipynb").read_bytes()
    assert nb.main(["run", "--timeout", "5", "--root", str(course)]) == 1
    assert message in capsys.readouterr().err
    assert (course / "notebooks/01_tiny.ipynb").read_bytes() == before


# Drills: each fault is found, and said in one clear line


def test_a_good_course_passes(course, capsys):
    assert problems(course) == []
    assert nb.main(["check", "1", "--root", str(course)]) == 0


@pytest.mark.parametrize("half", ["text/01_tiny.py", "01_tiny.ipynb"])
def test_one_half_edited_alone(course, half):
    edit(course / "notebooks" / half, "What comes out?", "What comes?")
    said = "01_tiny: text and notebook differ: run from-text or from-nb"
    assert said in problems(course)


def test_module_edited_alone(course):
    edit(course / "dreamer_lite/tiny.py", "TWO = 2", "TWO = 3")
    assert problems(course) == [
        "01_tiny: dreamer_lite/tiny.py is stale: run make export"
    ]


def test_outputs_stripped(course):
    def strip(cells):
        for cell in cells:
            cell.outputs, cell.execution_count = [], None

    edit_cells(course, strip)
    found = problems(course)
    assert "01_tiny: 7 cell(s) not run: python tools/nb.py run 01" in found
    assert "01_tiny: code cell 7: 1 picture(s) shown, 0 stored: run it" in found


def change_output(field, value):
    """Return a change of the last cell's picture."""

    def change(cells):
        cells[-1].outputs[0][field] = nbformat.from_dict(value)

    return change


FAULTS = {
    "1 picture(s) shown, 0 stored": change_output("data", {"text/plain": "x"}),
    "image/png without alt text": change_output("metadata", {}),
    "HTML image without alt text": change_output(
        "data", {"text/html": '<img src="x.png"><p>'}
    ),
    "shows a local path, /home/me/x.py": change_output(
        "data", {"image/png": PNG, "text/html": "<p>/home/me/x.py</p>"}
    ),
    "stored a widget": change_output(
        "data", {"image/png": PNG, "application/vnd.jupyter.widget-view+json": {}}
    ),
    "cells run out of order": lambda cells: cells[0].update(execution_count=9),
    "1 cell(s) not run": lambda cells: cells[0].update(execution_count=None),
    "not compared, and no comment why": lambda cells: cells[-1].metadata.update(
        tags=["nbval-skip"]
    ),
    "1 of 7 code cells are not compared by nbval": lambda cells: cells[
        -1
    ].metadata.update(tags=["nbval-ignore-output"]),
    "stored an error, ZeroDivisionError": lambda cells: cells[-1].outputs.append(
        nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="")
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_fault_in_a_stored_notebook(course, message):
    edit_cells(course, FAULTS[message])
    matching = [line for line in problems(course) if message in line]
    assert len(matching) == 1 and "\n" not in matching[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## What comes", "### What comes", "heading 'What comes out?' skips a level"),
        ("## What comes", "# What comes", "second title 'What comes out?'"),
        ("# # 01 · Tiny", "# ## Tiny", "the first cell is not the title"),
    ],
)
def test_fault_in_the_text(course, old, new, message):
    edit(course / "notebooks/text/01_tiny.py", old, new)
    nb.main(["from-text", "--root", str(course)])
    assert any(message in line for line in problems(course))


def test_setup_cell_edited_in_one_notebook(course):
    for path in ("notebooks/01_tiny.ipynb", "notebooks/text/01_tiny.py"):
        edit(course / path, "inside its repository", "in its repository")
    assert "01_tiny: badge or setup cell differs: run from-nb" in problems(course)


def test_notebook_over_one_megabyte(course):
    big = {"image/png": "A" * 1_200_000}
    edit_cells(course, change_output("data", big))
    assert any("1.20 MB, at most 1 MB" in line for line in problems(course))


def test_missing_and_broken_files(course):
    (course / "notebooks/text/02_more.py").write_text("# %%\n")
    assert "02_more: text without a notebook" in problems(course)
    (course / "notebooks/text/01_tiny.py").unlink()
    said = "01_tiny: text and notebook differ: run from-text or from-nb"
    assert said in problems(course)
    (course / "notebooks/01_tiny.ipynb").write_text('{"cells": [')
    assert any("not a readable notebook" in line for line in problems(course))


def test_pictures_due_are_counted_outside_definitions():
    source = (
        "def draw():\n    plt.show()\n\nexplore(draw, x=1)\nfor i in x:\n    show(i)"
    )
    assert nb_check.calls(source, nb_check.SHOWING) == 2
    assert nb_check.calls("%time plt.show()", nb_check.SHOWING) == 0


def test_nbval_catches_a_changed_number(course):
    def nbval():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["--nbval", "--nbval-current-env", "--nbval-sanitize-with"]
        command += [str(ROOT / "tools/nbval.cfg"), "-c", os.devnull, "notebooks"]
        env = {**os.environ, "DREAMER_LITE_STATIC": "1"}
        done = subprocess.run(
            command, cwd=course, env=env, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    assert nbval()[0] == 0
    edit(course / "notebooks/01_tiny.ipynb", "2.0\\n", "2.1\\n")
    status, printed = nbval()
    assert status == 1 and "1 failed" in printed


# Measured lines


def test_times_writes_what_its_check_wants(course, monkeypatch):
    if hasattr(os, "sched_setaffinity"):
        monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    root = ["--root", str(course)]
    assert times.main(["--check", *root]) == 0  # not measured yet
    assert times.main(root) == 0
    assert times.main(["--check", *root]) == 0
    assert problems(course) == []
    figures = times.load(course)["01_tiny"]
    assert figures["minutes"] > 0 and figures["gigabytes"] > 0.02
    edit(course / "data/times.json", '"gigabytes": 0', '"gigabytes": 9')
    assert times.main(["--check", *root]) == 1
    edit(course / "data/times.json", '"minutes": 0', '"minutes": 20')
    found = times.problems(course, nb.select(course, []))
    assert len(found) == 3 and "01 to 09 take 20" in found[-1]


class Three(critics.PaidSled):
    """Pays its share at each of three steps, whatever is done."""

    def step(self, action):
        self.time += 1
        return self._look(), self.share, self.time == 3, False, {}


def test_the_truth_beside_a_value_is_what_the_rewards_were_worth(monkeypatch):
    monkeypatch.setattr(critics, "PaidSled", Three)
    space = Three(0.0, 0.0).observation_space
    agent = agent_for(space, Discrete(3), discount=0.5, critics=2)
    for critic, number in zip(agent.actor_critic.critic, (127, 130)):
        critic[-1].bias.data[number] = 1e4  # certain of one bin
    value, spread, truth = critics.value_and_truth(agent, share=2.0, seed=0)
    high = float(agent.actor_critic.two_hot.bins[130])
    assert truth == pytest.approx(2 * (1 + 0.5 + 0.25))
    assert (value, spread) == (pytest.approx(high / 2), pytest.approx(high / 2))
