"""The reference pages and README: what they say is imported, computed, counted, run."""

import csv
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nb_check
import reference_figures
import tables
from dreamer_lite import dreamer, mario
from dreamer_lite.replay import RESERVED

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "notebooks" / "reference"
NAMES = ["glossary", "metrics", "notation", "parity", "troubleshooting"]


def read(name):
    """Return the text of a reference page."""
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def table(section):
    """Return the rows of the table of a section of the notation page, as lists."""
    text = read("notation").split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line[1:-1].split("|")] for line in lines]
    head, rows = cells[0], cells[2:]
    assert all(len(row) == len(head) for row in rows), rows
    return rows


def resolve(name):
    """Import a name like `rssm.State.h` from the package, or one of the course."""
    module, *path = name.removeprefix("course.").split(".")
    package = "course" if name.startswith("course.") else "dreamer_lite"
    value = importlib.import_module(f"{package}.{module}")
    for part in path:
        value = getattr(value, part)
    return value


SECTIONS = [
    "Sizes",
    "What is stored: the rows of the replay",
    "The world model",
    "Behaviour",
    "Fixed numbers",
    "Symbols of single notebooks",
]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_code_name_can_be_imported(section):
    names = [row[2].strip("`") for row in table(section)]
    assert len(names) >= 7
    for name in names:
        resolve(name)


def test_fixed_numbers_are_those_of_the_configuration():
    for _, _, code, value, _ in table("Fixed numbers"):
        field = code.strip("`").split(".")[-1]
        known = getattr(dreamer.Config(), field)
        assert float(value) == pytest.approx(known, rel=1e-6)


# Metrics


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The column names of both tables that a real, tiny run writes."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = dreamer.Config(
        **dict(units=16, deter=32, classes=2, latents=4, batch=2, length=8, prefill=40),
        **dict(steps=60, ratio=1.0, log_every=1, device="cpu", precision="fp32"),
    )
    dreamer.train("CartPole-v1", config, folder, progress=False)
    names = set()
    for file in ("metrics.csv", "episodes.csv"):
        with open(folder / file, encoding="utf-8", newline="") as rows:
            names |= set(next(csv.reader(rows)))
    return names


def explained():
    """Return the metric names that head a section of the page."""
    heads = re.findall(r"^### (.+)$", read("metrics"), re.MULTILINE)
    return {name for head in heads for name in re.findall(r"`([^`]+)`", head)}


MARIO_ONLY = {"x_pos", "flag_get", "dead", "stuck", "sticky", "time"}


def test_every_logged_metric_is_explained_and_no_other(logged):
    assert len(logged) > 20
    assert explained() - MARIO_ONLY == logged
    assert MARIO_ONLY <= explained()


def test_no_observation_can_have_the_name_of_a_loss(logged):
    losses = {name.removeprefix("loss/") for name in logged if "loss/" in name}
    assert losses - RESERVED == {"obs"}  # the observation of this run


def test_what_mario_adds_to_the_episodes_is_explained():
    assert set(mario.TRACK) == MARIO_ONLY


def test_stored_runs_hold_explained_metrics_only():
    for path in sorted((ROOT / "data" / "curves").glob("*_*.csv")):
        if path.stem.endswith(("_metrics", "_episodes")):
            with open(path, encoding="utf-8", newline="") as rows:
                assert set(next(csv.reader(rows))) <= explained(), path.name


# All pages


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)", read(name)):
        path = (PAGES / target).resolve()
        if path.suffix == ".ipynb" and path.parent.name == "notebooks":
            assert path.stem in nb_check.COURSE, target
        elif not target.startswith("https://"):
            assert path.is_file(), target


def test_figures_are_small_and_described():
    text = read("metrics")
    shown = re.findall(r"!\[([^\]]*)\]\((figures/[^)]+)\)", text)
    assert {path for _, path in shown} == {
        path.relative_to(PAGES).as_posix() for path in PAGES.glob("figures/*")
    }
    for alt, path in shown:
        assert (PAGES / path).stat().st_size < 60_000, path
        assert len(alt.split()) >= 8 and alt.endswith("."), path


@pytest.mark.parametrize("name", reference_figures.PICTURES)
def test_figures_show_the_tables_as_they_are(name):
    with Image.open(reference_figures.FIGURES / f"{name}.png") as drawn:
        shown = drawn.info.get("Source")
    assert shown == reference_figures.source(name), "run reference_figures.py draw"


def test_the_readmes_picture_shows_the_tables_as_they_are():
    with Image.open(ROOT / "data" / "learning.png") as drawn:
        shown = drawn.info.get("Source")
    tables = reference_figures.in_the_readme()
    assert len(tables) == 7
    assert shown == reference_figures.digest(tables), "run reference_figures.py draw"


def test_troubleshooting_points_to_tests_that_exist():
    text = read("troubleshooting")
    named = re.findall(r"(tests/test_\w+\.py)(?:::(\w+))?", text)
    assert len(named) > 10
    for path, name in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in source, f"{path}::{name}"


# README and data


def test_readme_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    space = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), space)
    assert space["agent"].config.units == 64


@pytest.mark.parametrize("file", ["README.md", "data/README.md", "CONTRIBUTING.md"])
def test_documented_commands_exist(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = (
        r"\bmake ([a-z]+)\b" if file == "README.md" else r"(?:`|^    )make ([a-z]+)"
    )
    for target in re.findall(command, text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for tool in re.findall(r"(?<!:)\btools/[\w/]+\.py", text):
        assert (ROOT / tool).is_file(), tool
    assert not nb_check.LOCAL_PATH.search(text)


def test_readme_results_are_those_of_the_data():
    def flags(name, player="agent"):
        path = ROOT / "data" / f"mario_evaluation{name}.json"
        found = json.loads(path.read_text(encoding="utf-8"))["players"][player]
        return f"{found['flags']} of {found['episodes']}", found["interval_95"]

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shipped, (low, high) = flags("")
    assert f"reaches the flag in {shipped} episodes" in text
    assert f"{shipped} episodes (95 % interval {low:.2f} to {high:.2f})" in text
    assert f"probability 1/4 | {flags('_sticky')[0]} |" in text
    others = [flags("", name)[0] for name in ("random", "fixed list")]
    assert f"| {'; '.join(others)} |" in text


def test_readme_links_lead_somewhere():
    for file in ("README.md", "data/README.md", "CONTRIBUTING.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)", text):
            if not target.startswith(("https://", "../../actions/")):
                path = (ROOT / file).parent / target
                known = path.suffix == ".ipynb" and path.stem in nb_check.COURSE
                assert known or path.exists(), f"{file}: {target}"


def test_tables_and_checksums_of_the_data_are_up_to_date():
    assert tables.main(["--check"]) == 0


def test_data_is_small_and_needs_no_pickle():
    files = tables.stored(ROOT / "data")
    assert sum(path.stat().st_size for path in files) < 40e6
    kinds = {path.suffix for path in files}
    assert kinds <= {".npz", ".safetensors", ".json", ".csv", ".yaml", ".gif", ".png"}
    for path in files:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                assert all(file[key].dtype != object for key in file.files)


@pytest.fixture
def data(tmp_path):
    """A data folder with made-up results."""
    (tmp_path / "curves").mkdir()
    lines = ["step,minutes,x_pos,flag_get"]
    lines += [f"{1000 * i},{i},{i},{int(i > 59)}" for i in range(120)]
    (tmp_path / "curves/mario_seed3_episodes.csv").write_text("\n".join(lines) + "\n")
    about = json.dumps({"steps": 119_000, "updates": 9_876, "minutes": 119.4})
    (tmp_path / "curves/mario_seed3.json").write_text(about)
    run = dict(environment="CartPole-v1", seed=7, goal=475, random_return=22.4)
    run["first_at_goal"] = dict(step="9000", cpu_minutes="12.3")
    run |= dict(final={"step": "20000", "return": "498.6"}, config={"ratio": 32.0})
    (tmp_path / "curves/cartpole_seed7.json").write_text(json.dumps(run))
    run |= dict(seed=8, first_at_goal=None)
    (tmp_path / "curves/cartpole_seed8.json").write_text(json.dumps(run))
    found = dict(flags=3, episodes=4, interval_95=[0.3, 0.95], x_mean=2500.0)
    found |= dict(return_mean=100.0, return_std=9.5)
    report = {"protocol": {"sticky": 0.25}, "players": {"agent": found}}
    (tmp_path / "mario_evaluation.json").write_text(json.dumps(report))
    case = dict(case="3m", precision="bf16", speed="eager", parameters=3_456_000)
    case |= {"step": {"median": 0.5}, "frames_per_second": 1024.4, "peak_mb": 1999.6}
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/cpu.json").write_text(json.dumps({"cases": [case]}))
    (tmp_path / "README.md").write_text(
        "# Data\n\n## `mario_evaluation.json`\n\n## `curves/*` and `bench/*`\n\n"
        + "".join(f"<!-- begin:{n} -->\nold\n<!-- end:{n} -->\n" for n in NAMED)
    )
    return tmp_path


NAMED = ["evaluation", "mario", "learning", "bench", "files"]


def test_tables_say_what_the_files_say(data):
    assert tables.main(["--data", str(data), "--check"]) == 1
    assert tables.main(["--data", str(data)]) == 0
    text = (data / "README.md").read_text()
    assert "old" not in text
    assert "| agent | 0.25 | 3 of 4 | 0.30 to 0.95 | 2,500 | 100.0 ± 9.5 |" in text
    # The first flag is at minute 60; the last 50 episodes end at x = 70 to 119.
    row = "| first, seed 3 | 119,000 | 9,876 | 119 | 60 | 1 | 50 | 94 |"
    assert row in text
    assert "| CartPole-v1, ratio 32, seed 7 | 22 | 475 | 9,000 | 12 | 499 |" in text
    assert "| CartPole-v1, ratio 32, seed 8 | 22 | 475 | never |  | 499 |" in text
    assert "| 3m, bf16, eager | 3.5 | 0.500 | 1,024 | 2,000 |" in text
    assert "| `curves/*` | 4 |" in text


def test_a_changed_or_new_data_file_is_noticed(data, capsys):
    command = ["--data", str(data)]
    assert tables.main(command) == 0 == tables.main([*command, "--check"])
    (data / "bench/cpu.json").write_text('{"cases":  []}')
    assert tables.main([*command, "--check"]) == 1
    (data / "two.json").write_text("[]")
    assert tables.main(command) == 1
    assert "two.json is not described" in capsys.readouterr().out
