"""The reference pages and README: what they say is imported, computed, counted, run."""

import csv
import importlib
import inspect
import json
import math
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

import nb_check
import reference_figures
import tables
from course import mario as results
from dreamer_lite import dreamer, mario
from dreamer_lite.lambda_returns import lambda_return
from dreamer_lite.mario import make_mario
from dreamer_lite.replay import Replay, encode_action, read_action
from dreamer_lite.rssm import kl_divergence
from dreamer_lite.symlog import symexp, symlog
from dreamer_lite.world_model import previous_actions

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "notebooks" / "reference"
NAMES = ["glossary", "metrics", "notation", "parity", "troubleshooting"]
SIZES = dict(B=16, T=32, H=15, A=5, D=1024, L=32, C=8, S=256, F=1280, E=2048, K=255)
SMALL = SIZES | {"B": 2, "T": 8, "BT": 16}  # for speed, where only letters are compared


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


@pytest.fixture(scope="module")
def agent():
    """The 3m-size agent on spaces like Mario's."""
    torch.manual_seed(0)
    screen = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    config = dreamer.Config.preset("3m", precision="fp32", device="cpu")
    return dreamer.Dreamer(screen, gym.spaces.Discrete(5), config)


@pytest.fixture(scope="module")
def batch(agent):
    """A batch as the replay gives it."""
    rng = np.random.default_rng(0)
    replay = Replay(200, agent.obs_space, agent.action_space)
    for i in range(80):
        obs = {"obs": rng.integers(256, size=(64, 64, 3), dtype=np.uint8)}
        replay.add(0, obs, i % 5, 0.1, i == 0, False, False)
    return replay.sample(SMALL["B"], SMALL["T"])


def test_sizes(agent):
    model = agent.world_model
    measured = {
        "$B$": agent.config.batch,
        "$T$": agent.config.length,
        "$H$": agent.config.horizon,
        "$A$": model.rssm.action_size,
        "$D$": agent.config.deter,
        "$L$": agent.config.latents,
        "$C$": agent.config.classes,
        "$S$": model.rssm.latents * model.rssm.classes,
        "$F$": model.rssm.feature_size,
        "$E$": model.encoder.size,
        "$d$": agent.config.units,
        "$K$": len(model.two_hot.bins),
    }
    written = {row[0]: int(row[3]) for row in table("Sizes")}
    assert written == measured
    assert {name: measured[f"${name}$"] for name in SIZES} == SIZES


def test_fixed_numbers(agent):
    for _, _, code, value, _ in table("Fixed numbers"):
        field = code.strip("`").split(".")[-1]
        assert float(value) == pytest.approx(getattr(agent.config, field), rel=1e-6)


@torch.no_grad()
def world_model_values(agent, batch):
    """Return {symbol: tensor} for the tables of the replay and the world model."""
    model = agent.world_model
    rows = {key: torch.as_tensor(value) for key, value in batch.items()}
    states, posterior, prior = model.observe(rows)
    feature = states.feature
    recon = model.decoder(feature)
    dyn, rep = model.rssm.kl_loss(posterior, prior)
    return states, {
        "$x_t$": rows["obs"],
        "$a_t$": rows["action"],
        "$r_t$": rows["reward"],
        "first": rows["is_first"],
        "last": rows["is_last"],
        "terminal": rows["is_terminal"],
        "$c_t$ (of rows)": 1 - rows["is_terminal"].float(),
        "$a_{t-1}$": previous_actions(rows["action"]),
        "$e_t$": model.encoder(rows),
        "$h_t$": states.h,
        "$z_t$": states.z,
        "$s_t$": feature,
        r"$q_\phi(z_t \mid h_t, x_t)$": posterior,
        r"$p_\phi(z_t \mid h_t)$": model.rssm.prior(states.h),
        r"$\hat{x}_t$": recon["obs"],
        r"$\hat{r}_t$": model.predict_reward(feature),
        r"$\hat{c}_t$": model.predict_continue(feature),
        r"$\mathcal{L}_\text{pred}$": model.decoder.loss(recon, rows)["obs"],
        r"$\mathcal{L}_\text{dyn}$": dyn,
        r"$\mathcal{L}_\text{rep}$": rep,
        r"$\text{KL}$": kl_divergence(posterior, prior),
        r"$\mathcal{L}(\phi)$": model.loss(rows)[0],
    }


@torch.no_grad()
def behaviour_values(agent, states):
    """Return {symbol: tensor} for the table of behaviour."""
    model, behaviour = agent.world_model, agent.actor_critic
    start = states.map(lambda x: x.flatten(0, 1))
    policy, horizon = behaviour.policy, agent.config.horizon
    dream, actions = model.rssm.imagine(start, policy, horizon)
    feature = dream.feature
    log_prob, entropy = behaviour.actor.evaluate(feature[:, :-1], actions)
    logits = behaviour.critic(feature)
    value = model.two_hot.mean(logits)
    reward, cont = model.predict_reward(feature), model.predict_continue(feature)
    number = torch.full((SMALL["B"], SMALL["T"]), 0.605)
    returns = lambda_return(reward, value, cont, agent.config.lam)
    scale = behaviour.normalizer.scale
    return {
        r"$s_\tau$": feature,
        r"$a_\tau$": actions,
        r"$r_\tau$": reward,
        r"$c_\tau$ (dreamed)": cont,
        r"$w_\tau$": cont.cumprod(1)[:, :-1],
        r"$\pi_\theta(a \mid s)$": behaviour.actor.sample(feature[:, 0]),
        r"$\ln \pi_\theta(a_\tau \mid s_\tau)$": log_prob,
        r"$\text{H}[\pi_\theta]$": entropy,
        r"$v_\psi(s)$": logits,
        r"$v_\tau$": value,
        r"$R^\lambda_\tau$": returns,
        r"$\max(1, S)$": scale,
        "advantage": (returns - value[:, :-1]) / scale,
        "$b$": model.two_hot.bins,
        r"$\text{twohot}(y)$": model.two_hot.encode(number),
        r"$\text{symlog}(x)$": symlog(number),
        r"$\text{symexp}(x)$": symexp(number),
    }


def test_every_shape(agent, batch):
    states, values = world_model_values(agent, batch)
    values |= behaviour_values(agent, states)
    rows = [row for section in SECTIONS[1:4] for row in table(section)]
    assert {row[0] for row in rows} == set(values)
    for symbol, _, _, shape, *_ in rows:
        names = re.findall(r"[^\[\], `]+", shape)
        sizes = [eval(name, {}, SMALL) for name in names]
        assert list(values[symbol].shape) == sizes, symbol


@pytest.fixture
def game():
    """The game, in its first frame."""
    env = make_mario().unwrapped
    env.reset()
    yield env
    env.close()


def reward_examples(game):
    """The numbers of the two examples of a reward: 10 pixels, and a full run."""
    game._progress = lambda: 10
    ten = game.step(0)[1]
    game._progress = lambda: 0
    still = game.step(0)[1]
    divisor = 10 / (ten - still)
    stored = Replay.load(ROOT / "data/mario_episodes.npz").data["reward"]
    full = float(stored[stored < 1].max())  # above 1 is the flag
    rule = [f"{divisor:.4g}", f"{-still:.4g}"]
    most = f"{(full - still) * divisor:.4g}"
    return ["10", "10", *rule, f"{ten:.4g}"], [f"{full:.4g}", most, *rule]


def behaviour_examples(agent):
    """{symbol: numbers of its Mario example} of the table of behaviour, computed."""
    choices, two_hot = agent.world_model.rssm.action_size, agent.world_model.two_hot
    percentiles = agent.actor_critic.normalizer.quantiles.tolist()
    squashed = f"{float(symlog(0.605)):.3f}"
    assert two_hot.bins[127] == 0 and two_hot.encode(0.605).max() > 0.99
    return {
        r"$c_\tau$ (dreamed)": ["0"],
        r"$w_\tau$": ["0"],
        r"$\ln \pi_\theta(a_\tau \mid s_\tau)$": [f"{1 / choices:g}", f"{choices}"],
        r"$\text{H}[\pi_\theta]$": [f"{choices}", f"{math.log(choices):.3f}"],
        r"$\max(1, S)$": [f"{100 * share:.0f}" for share in reversed(percentiles)],
        "advantage": ["0"],
        "$b$": ["0", *(f"{float(b):.3f}" for b in two_hot.bins[128:130])],
        r"$\text{twohot}(y)$": ["0.605"],
        r"$\text{symlog}(x)$": ["0.605", squashed],
        r"$\text{symexp}(x)$": [squashed, f"{float(symexp(float(squashed))):.3f}"],
    }


def model_examples(agent, game):
    """The same of the three tables before it."""
    c, model = agent.config, agent.world_model
    latents, size = model.rssm.latents, model.rssm.latents * model.rssm.classes
    grid = model.encoder.conv(torch.zeros(1, 3, 64, 64)).shape[1:]
    jump = game.action_names.index(["right", "A"])
    ten, full = reward_examples(game)
    numbers = {
        "$B$": [c.batch],
        "$T$": [c.length],
        "$L$": [latents],
        "$C$": [model.rssm.classes],
        "$S$": [latents, size - latents],
        "$E$": grid,
        "$K$": [round(float(model.two_hot.bins[-1]) / 1e6)],
        "$a_t$": [int(x) for x in encode_action(read_action(game.action_space), jump)],
        "$r_t$": ten,
        "$c_t$ (of rows)": [0],
        r"$q_\phi(z_t \mid h_t, x_t)$": [f"{100 * c.unimix:g}"],
        r"$\hat{r}_t$": full,
        r"$r_\tau$": full,
        r"$\hat{c}_t$": [0, f"{c.discount:.3f}"],
        r"$\mathcal{L}_\text{pred}$": [f"{game.observation_space.shape[0] ** 2 * 3:,}"],
        r"$\mathcal{L}_\text{dyn}$": [f"{c.free_nats:g}"],
        r"$\mathcal{L}(\phi)$": [c.dyn_scale, c.rep_scale],
    }
    return {symbol: [str(x) for x in found] for symbol, found in numbers.items()}


def test_mario_examples_are_right(agent, game):
    rows = [row for section in SECTIONS[:4] for row in table(section)]
    found = {row[0]: re.findall(r"\d[\d,.]*\d|\d", row[-1]) for row in rows}
    assert len(found) == len(rows)
    written = {symbol: numbers for symbol, numbers in found.items() if numbers}
    assert written == model_examples(agent, game) | behaviour_examples(agent)


WORDS = {"NOOP": "nothing", "A": "jump", "B": "run"}


def test_words_of_the_mario_examples_are_right(agent, game):
    text, c = read("notation"), agent.config
    (shown,) = (row[-1] for row in table("Sizes") if row[0] == "$A$")
    names = [{WORDS.get(name, name) for name in names} for names in game.action_names]
    assert [set(name.split(" + ")) for name in shown.split(", ")] == names
    assert f"{c.batch * c.length} dreams of {c.horizon} steps" in text
    rate = game.metadata["render_fps"]
    assert round(c.length / rate) == 2 and "about two seconds of play" in text
    assert c.horizon / rate == 1 and "one second ahead" in text
    assert "right + jump is " in text and f"$1 - 1/{1 / (1 - c.discount):.0f}$" in text
    for i, beta in enumerate(agent.optimizer.defaults["betas"], 1):
        assert rf"$\beta_{i} = {beta}$" in text
    z = inspect.signature(results.wilson).parameters["z"].default
    assert f"and {z} |" in text and f"| {z} in Wilson's interval" in text


# Metrics


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The column names of both tables that a real, tiny run writes."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = dreamer.Config.from_dict(
        dict(units=16, deter=32, classes=2, latents=4, batch=2, length=8, prefill=40)
        | dict(steps=60, ratio=1.0, log_every=1, device="cpu", precision="fp32")
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


MARIO_ONLY = {"x_pos", "flag_get", "dead", "stuck", "time"}


def test_every_logged_metric_is_explained_and_no_other(logged):
    assert len(logged) > 20
    assert explained() - MARIO_ONLY == logged
    assert MARIO_ONLY <= explained()


def test_what_mario_adds_to_the_episodes_is_explained():
    assert set(mario.TRACK) == MARIO_ONLY


def test_stored_runs_hold_explained_metrics_only():
    for path in sorted((ROOT / "data" / "curves").glob("*_*.csv")):
        if path.stem.endswith(("_metrics", "_episodes")):
            with open(path, encoding="utf-8", newline="") as rows:
                assert set(next(csv.reader(rows))) <= explained(), path.name


def test_each_metric_says_what_it_is_and_how_it_looks():
    sections = re.split(r"^##+ ", read("metrics"), flags=re.MULTILINE)
    metrics = [text for text in sections if text.startswith("`")]
    for text in metrics:
        assert "**Healthy.**" in text and "**Sick.**" in text, text.splitlines()[0]


# All pages


@pytest.mark.parametrize("name", NAMES)
def test_page_has_headings_without_gaps_and_short_lines(name):
    text = re.sub(r"^```.*?^```", "", read(name), flags=re.DOTALL | re.MULTILINE)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:]))
    assert not nb_check.LOCAL_PATH.search(text)
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert not [line for line in prose if len(line) > 100 and "](" not in line]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)", read(name)):
        path = (PAGES / target).resolve()
        if path.suffix == ".ipynb":
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


def test_troubleshooting_points_to_tests_that_exist():
    text = read("troubleshooting")
    named = re.findall(r"(tests/test_\w+\.py)(?:::(\w+))?", text)
    assert len(named) > 10
    for path, name in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in source, f"{path}::{name}"


def test_glossary_is_in_order():
    terms = re.findall(r"^\*\*(.+?)\.\*\*", read("glossary"), re.MULTILINE)
    assert len(terms) >= 40 and len(set(terms)) == len(terms)
    assert terms == sorted(terms, key=str.casefold)


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


def test_readme_commands_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)\b", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for tool in set(re.findall(r"\btools/[\w/]+\.py", text)):
        assert (ROOT / tool).is_file(), tool
    assert not nb_check.LOCAL_PATH.search(text)


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
    run["final"] = {"step": "20000", "return": "498.6"}
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
    row = "| evening, seed 3 | 119,000 | 9,876 | 119 | 60 | 1 | 50 | 94 |"
    assert row in text
    assert "| CartPole-v1, seed 7 | 22 | 475 | 9,000 | 12 | 499 |" in text
    assert "| CartPole-v1, seed 8 | 22 | 475 | never |  | 499 |" in text
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
