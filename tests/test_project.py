"""The project's own files: versions, conda, make, CI, mutations and the site."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

import mutations

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MADE = ["mario", "lab", "test", "site"]  # installed by make and conda


def key(name):
    """Return a package name in its one normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(python):
    """Return {package: version} of constraints.txt for one Python version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and not marker.evaluate({"python_version": python}):
            continue
        (exact,) = requirement.specifier
        assert exact.operator == "==" and key(requirement.name) not in found
        found[key(requirement.name)] = exact.version
    return found


def wanted(python):
    """Return what the package and the extras of make ask for on one Python version."""
    lines = PROJECT["dependencies"] + [line for e in MADE for line in EXTRAS[e]]
    environment = default_environment() | {"python_version": python}
    found = [Requirement(line) for line in lines]
    return [r for r in found if not r.marker or r.marker.evaluate(environment)]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_constraints_pin_all_that_is_asked_for(python):
    versions = pinned(python)
    for requirement in wanted(python):
        assert versions[key(requirement.name)] in requirement.specifier


def test_constraints_hold_on_any_machine():
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if re.search(r"/|@|\+|file:", line)]
    assert pinned("3.11")["torch"] == pinned("3.13")["torch"]


def test_conda_installs_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in conda["dependencies"] if isinstance(d, dict)]
    python = [d for d in conda["dependencies"] if str(d).startswith("python=")]
    assert python == ["python=3.13"]
    assert pip == ["-c constraints.txt", "-e .[mario,lab]"]
    make = (ROOT / "Makefile").read_text()
    assert '-e ".[mario,lab]"' in make and f'-e ".[{",".join(MADE)}]"' in make


def test_every_package_folder_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "dreamer_lite").rglob("__init__.py")
    }
    assert set(listed["tool"]["setuptools"]["packages"]) == found


def test_make_works_in_a_folder_with_a_space(tmp_path):
    """Each path that names the folder is quoted."""
    folder = tmp_path / "my clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).write_text((ROOT / name).read_text())
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in set(targets) - {"help"}:
        # Below another make it would announce the folder, in make's own quotes.
        command = ["make", "--no-print-directory", "-n", "--always-make", target]
        planned = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert planned.returncode == 0, planned.stderr
        for before in planned.stdout.split(str(folder))[:-1]:
            assert before.count('"') % 2, f"{target} does not quote the folder"


@pytest.mark.parametrize("mutation", mutations.read(), ids=lambda m: m["why"])
def test_every_mutation_still_fits_the_code(mutation):
    """Whether its test notices is what `make mutations` finds out."""
    mutations.mutate((ROOT / f"dreamer_lite/{mutation['of']}.py").read_text(), mutation)
    file, _, name = mutation["test"].partition("::")
    assert not name or f"def {name}(" in (ROOT / "tests" / file).read_text()


# The site


def load_site():
    """Load the command that builds the site."""
    spec = importlib.util.spec_from_file_location("site", ROOT / "tools/site/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pages(tmp_path):
    """The sources of a tiny site."""
    picture = nbformat.v4.new_output(
        "display_data",
        data={"image/png": "iVBORw0KGgo="},
        metadata={"image/png": {"alt": "A curve that rises."}},
    )
    cells = [
        nbformat.v4.new_markdown_cell("# Tiny\n\nSee $x^2$, [home](../README.md)."),
        nbformat.v4.new_code_cell("%time 1", outputs=[picture], execution_count=1),
    ]
    (tmp_path / "notebooks/reference").mkdir(parents=True)
    python = {"language_info": {"name": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=python)
    nbformat.write(notebook, tmp_path / "notebooks/01_tiny.ipynb")
    cells = [nbformat.v4.new_markdown_cell("# More\n\n[tiny](../01_tiny.ipynb)")]
    (tmp_path / "notebooks/beyond").mkdir()
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=python)
    nbformat.write(notebook, tmp_path / "notebooks/beyond/more.ipynb")
    notes = "# Notation\n\nSee [tiny](../01_tiny.ipynb).\n"
    (tmp_path / "notebooks/reference/notation.md").write_text(notes)
    home = "# Home\n\n[notes](notebooks/reference/notation.md), [law](LICENSE)\n"
    (tmp_path / "README.md").write_text(home)
    (tmp_path / "LICENSE").write_text("MIT\n")
    return tmp_path


def test_site_shows_pages_links_and_alt_text(pages):
    assert load_site().build(pages) == 0
    html = pages / "build/site/html"
    tiny = (html / "notebooks/01_tiny.html").read_text()
    assert 'alt="A curve that rises."' in tiny and 'href="../index.html"' in tiny
    home = (html / "index.html").read_text()
    for page in ("01_tiny", "beyond/more", "reference/notation"):
        assert f"notebooks/{page}.html" in home
    assert (html / "searchindex.js").is_file()


@pytest.mark.parametrize(
    ("old", "new"),
    [("](LICENSE)", "](LICENCE)"), ("[law]", "![](LICENSE)[law]")],
)
def test_site_refuses_a_dead_link_or_a_silent_picture(pages, old, new):
    text = (pages / "README.md").read_text()
    (pages / "README.md").write_text(text.replace(old, new))
    assert load_site().build(pages) == 1


def test_ci_accepts_no_skips_but_for_cuda(tmp_path):
    text = "import pytest\n\n\ndef test_a():\n    pytest.skip({!r})\n"
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    for reason, ci, status in [("why", "1", 1), ("no CUDA", "1", 0), ("why", "", 0)]:
        (tmp_path / "test_a.py").write_text(text.format(reason))
        command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "."]
        env = {**os.environ, "CI": ci}
        done = subprocess.run(command, cwd=tmp_path, env=env, check=False)
        assert done.returncode == status
