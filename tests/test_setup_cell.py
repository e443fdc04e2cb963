"""The setup cell, run as a notebook runs it: in a checkout, on Colab, lost."""

import subprocess
import sys
import types

import pytest
from IPython.core.inputtransformer2 import TransformerManager

import nb
from course import paths

ADDRESS = "https://github.com/someone/course"


def make_course(folder):
    """Write the least that counts as the course."""
    (folder / "course").mkdir(parents=True)
    (folder / "course" / "__init__.py").write_text("")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A working folder without Dreamer Lite; commands are recorded, not run."""
    work = tmp_path / "work" / "notebooks"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", list(sys.path))
    state = types.SimpleNamespace(work=work, commands=[], network=True)

    def system(command):
        state.commands.append(command)
        if state.network:
            make_course(work / "dreamer-lite" / "notebooks")

    state.shell = types.SimpleNamespace(system=system)
    return state


def start(machine, monkeypatch, url=ADDRESS, colab=False):
    """Run the cell."""
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("colab"))
    source = TransformerManager().transform_cell(nb.setup_cell(url))
    names = {"get_ipython": lambda: machine.shell}
    exec(compile(source, "setup cell", "exec"), names)


def test_cell_is_short():
    lines = [line for line in nb.setup_cell(ADDRESS).splitlines() if line.strip()]
    assert len(lines) <= 8 and lines[0].startswith("# @title ")
    assert max(map(len, lines)) <= 88


@pytest.fixture
def imported(monkeypatch):
    """Forget the course, so that the cell's last line imports it anew."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "course"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("where", [".", ".."])
def test_checkout_is_found(machine, monkeypatch, imported, where):
    make_course(machine.work / where)
    start(machine, monkeypatch)
    assert sys.modules["course"].__file__.startswith(str(machine.work.parent))
    assert machine.commands == []


def test_colab_clones_once(machine, monkeypatch, imported):
    for _ in range(2):
        start(machine, monkeypatch, colab=True)
    assert machine.commands == [f"git clone -q --depth 1 {ADDRESS} dreamer-lite"]
    assert "dreamer-lite" in sys.modules["course"].__file__


@pytest.mark.parametrize(("url", "colab"), [(ADDRESS, True), ("", True), ("", False)])
def test_one_sentence_where_nothing_is_found(machine, monkeypatch, url, colab):
    machine.network = False
    with pytest.raises(SystemExit, match="^Open this notebook inside its repository.$"):
        start(machine, monkeypatch, url, colab)


def test_colab_gets_the_packages_and_nobody_else(monkeypatch):
    commands, status = [], 0

    def run(command, **_):
        commands.append(command)
        return types.SimpleNamespace(returncode=status)

    monkeypatch.setattr(subprocess, "run", run)
    paths.install("mario")
    assert commands == []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("colab"))
    paths.install("mario")
    pip = "-m pip install -q -e".split()
    assert commands[0][1:] == [*pip, f"{paths.ROOT}[mario]"]
    status = 1
    with pytest.raises(SystemExit, match="This command failed, see above: .*pip"):
        paths.install()
