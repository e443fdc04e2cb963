"""The setup cell, run as a notebook runs it: locally, installed, on Colab, lost."""

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CELL = (ROOT / "tools" / "setup_cell.py").read_text(encoding="utf-8")
NOTEBOOK = json.loads((ROOT / "notebooks" / "10_mario.ipynb").read_text("utf-8"))
ADDRESS = "https://github.com/someone/course"


def checkout(folder):
    """Make the least that counts as Dreamer Lite: the package and its data."""
    (folder / "dreamer_lite").mkdir(parents=True)
    (folder / "data").mkdir()
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A working folder without Dreamer Lite; commands are recorded, not run."""
    work = tmp_path / "work" / "notebooks"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", list(sys.path))
    state = types.SimpleNamespace(work=work, commands=[], status=0, spec=None)

    def run(command, **_):
        state.commands.append([str(part) for part in command])
        if "clone" in command and not state.status:
            checkout(work / "dreamer-lite")
        return types.SimpleNamespace(returncode=state.status)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: state.spec)
    return state


def start(monkeypatch, colab=False, repo=ADDRESS, stale=()):
    """Run the cell; return the folder that it put first on the path."""
    export = types.SimpleNamespace(problems=lambda root: list(stale))
    monkeypatch.setitem(sys.modules, "course.export", export)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("colab"))
    text, _, rest = CELL.partition("REPO = ")
    cell = f'{text}REPO = "{repo}"\n{rest.partition(chr(10))[2]}'
    exec(compile(cell, "setup cell", "exec"), {"__name__": "__main__"})
    return Path(sys.path[0])


@pytest.mark.parametrize("where", [".", ".."])
def test_local_checkout_comes_first(machine, monkeypatch, where):
    root = checkout(machine.work / where)
    other = checkout(machine.work.parent / "other")
    machine.spec = types.SimpleNamespace(origin=f"{other}/dreamer_lite/__init__.py")
    assert start(monkeypatch, colab=True) == root.resolve()
    assert machine.commands == []


def test_installed_package_with_data(machine, monkeypatch):
    other = checkout(machine.work.parent / "other")
    machine.spec = types.SimpleNamespace(origin=f"{other}/dreamer_lite/__init__.py")
    assert start(monkeypatch) == other and machine.commands == []


def test_installed_package_without_data_is_not_enough(machine, monkeypatch):
    other = checkout(machine.work.parent / "other")
    (other / "data").rmdir()
    machine.spec = types.SimpleNamespace(origin=f"{other}/dreamer_lite/__init__.py")
    with pytest.raises(SystemExit, match="open this notebook inside its repository"):
        start(monkeypatch)


def test_colab_clones_and_installs_editable(machine, monkeypatch):
    assert start(monkeypatch, colab=True) == machine.work / "dreamer-lite"
    clone, install = machine.commands
    assert clone == "git clone -q --depth 1".split() + [ADDRESS, "dreamer-lite"]
    assert install[1:] == "-m pip install -q -e dreamer-lite".split()


def test_colab_twice_clones_once(machine, monkeypatch):
    start(monkeypatch, colab=True)
    path = list(sys.path)
    start(monkeypatch, colab=True)
    assert sum("clone" in command for command in machine.commands) == 1
    assert sys.path == path


def test_colab_without_address_or_network_says_so(machine, monkeypatch):
    with pytest.raises(SystemExit, match="does not know its repository's address"):
        start(monkeypatch, colab=True, repo="")
    assert machine.commands == []
    machine.status = 128
    with pytest.raises(SystemExit, match="This command failed, see above: git clone"):
        start(monkeypatch, colab=True)


def test_nothing_there_and_no_colab(machine, monkeypatch):
    with pytest.raises(SystemExit, match="Dreamer Lite was not found"):
        start(monkeypatch)


def test_one_line_about_a_stale_module(machine, monkeypatch, capsys):
    checkout(machine.work.parent)
    start(monkeypatch)
    assert capsys.readouterr().out == ""
    start(monkeypatch, stale=["05_rssm: stale", "06_world_model: stale"])
    assert capsys.readouterr().out == "05_rssm: stale\n"


def fetch_emulator(root):
    """Run the cell of notebook 10 that follows the setup cell."""
    code = [c for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]
    assert "setup" in code[0]["metadata"]["tags"]
    names = dict(importlib=importlib, subprocess=subprocess, sys=sys, root=str(root))
    exec(compile("".join(code[1]["source"]), "emulator cell", "exec"), names)


def test_notebook_10_fetches_the_emulator_on_colab(machine, monkeypatch):
    root = start(monkeypatch, colab=True)
    machine.commands.clear()
    fetch_emulator(root)
    (install,) = machine.commands
    assert install[0] == sys.executable
    assert install[1:] == f"-m pip install -q -e {root}[mario]".split()


def test_notebook_10_fetches_no_emulator_twice_and_none_elsewhere(machine, monkeypatch):
    fetch_emulator(machine.work)  # not on Colab
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("colab"))
    machine.spec = types.SimpleNamespace(origin="gym_super_mario_bros/__init__.py")
    fetch_emulator(machine.work)  # already there
    assert machine.commands == []


def test_notebook_10_says_when_the_emulator_cannot_be_fetched(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("colab"))
    machine.status = 1
    with pytest.raises(SystemExit, match="This command failed, see above: .*mario"):
        fetch_emulator(machine.work)
