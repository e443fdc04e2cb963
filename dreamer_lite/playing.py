"""Mario played, filmed, dreamed beside, evaluated and trained: what the commands do.

Hand-written plumbing for notebook 10, whose module is the environment. Nothing here is
needed to act or to learn.
"""

import functools
import hashlib
import json
import os
import platform
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dreamer_lite import runs
from dreamer_lite.config import Config
from dreamer_lite.dreamer import Dreamer, evaluate, train
from dreamer_lite.envs import check_fit
from dreamer_lite.mario import PROFILES, make_mario
from dreamer_lite.recording import Scripted, follow, random_actions, right_and_jump
from dreamer_lite.video import compare_frames

TRACK = ("x_pos", "flag_get", "dead", "stuck", "time")
# What makes an agent's weights fit, and the rates that belong to its size.
OF_THE_AGENT = ("deter", "units", "latents", "classes", "depth", "blocks")
OF_THE_AGENT += ("lr", "critic_lr", "actor_lr", "warmup")


def load_agent(path):
    """The agent in a file, or one sentence on what is wrong with it."""
    return Dreamer.load(path).eval()


def about_agent(path):
    """What is known of an agent file: its name, sha256, and the notes beside it.

    Args: path, a file or a run folder. The notes are a JSON file of the same name:
    steps, minutes, seed, commit of the training.
    """
    path = Path(path)
    digest = hashlib.sha256(runs.agent_bytes(path)).hexdigest()
    notes = path.with_suffix(".json")
    known = json.loads(notes.read_text()) if notes.is_file() else {}
    return {"file": path.name, "sha256": digest, **known}


# Playing


@dataclass
class Played:
    """One episode: T+1 rows as the replay has them, screens, and how it ended."""

    rows: dict  # {"obs": [T+1, 64, 64, 3], "action": [T+1, A], "reward": [T+1], ...}
    screens: np.ndarray  # [T+1, 240, 256, 3]
    info: dict

    @property
    def total(self):
        """The sum of its rewards."""
        return float(self.rows["reward"].sum())


def play_episode(agent, seed=0, max_steps=3000, show=False, **options):
    """The agent plays one episode on the game, with sampled actions.

    Args: show, in a window, at the game's own pace; options, for `make_mario`.
    Raises: ValueError for an agent that learnt in another environment.
    """
    mode = "human" if show else "rgb_array"
    rows, screens, game = [], [], make_mario(render_mode=mode, **options)
    with closing(game) as env, torch.random.fork_rng():
        check_fit(agent, env)
        torch.manual_seed(seed)
        obs, info = env.reset(seed=seed)
        reward, ended, state, begin = 0.0, False, None, time.perf_counter()
        for step in range(max_steps + 1):
            row = {"obs": obs, "reward": np.float32(reward), "is_first": step == 0}
            row |= {"is_last": ended or step == max_steps, "is_terminal": ended}
            row["action"] = np.zeros(env.action_space.n, np.float32)
            rows.append(row)
            screens += [] if show else [env.render()]
            if row["is_last"]:
                break
            action, state = agent.act({"obs": obs[None]}, state)
            row["action"][action[0]] = 1
            obs, reward, ended, _, info = env.step(int(action[0]))
            if show:  # wait until this step's frames would have been shown
                due = begin + (step + 1) / env.metadata["render_fps"]
                time.sleep(max(0.0, due - time.perf_counter()))
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return Played(columns, np.array(screens), info)


@torch.no_grad()
def dream_beside(agent, rows, context=5, horizon=30):
    """What the agent would have dreamed: [T+1, H, W, C] uint8, beside `rows["obs"]`.

    The model watches the first `context` rows. From then on it dreams `horizon` steps
    at a time from the actions alone, each time from a state that has watched all rows
    before.
    """
    batch = {key: torch.as_tensor(column)[None] for key, column in rows.items()}
    batch = agent._on_device(batch)
    model, end = agent.world_model, len(rows["reward"]) - 1
    with torch.random.fork_rng(), agent._autocast():
        torch.manual_seed(0)
        states, _, _ = model.observe(batch)
        features = [states.feature[:, :context]]
        for start in range(context - 1, end, horizon):
            now = states.map(lambda x, t=start: x[:, t])
            actions = batch["action"][:, start : min(start + horizon, end)]
            future, _ = model.rssm.imagine(now, actions, actions.shape[1])
            features.append(future.feature[:, 1:])
        frames = model.decoder(torch.cat([f.float() for f in features], 1))["obs"][0]
    return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


GAP = 2  # white columns between two pictures, or sky and ground run through all three


def beside(real, dreamed, scale=3):
    """Frames real | dreamed | error, enlarged: uint8 [T, H, 3 W + 2 GAP, 3] x scale."""
    parts = np.split(compare_frames(real, dreamed, axis=2), 3, axis=2)
    white = np.full_like(parts[0][:, :, :GAP], 255)
    frames = np.concatenate([parts[0], white, parts[1], white, parts[2]], axis=2)
    return frames.repeat(scale, 1).repeat(scale, 2)


# Evaluating


def wilson(successes, trials, z=1.96):
    """The 95 % interval of a rate, after Wilson: (low, high), inside 0 to 1.

    Unlike rate +- 1.96 standard errors it is right for few trials and at 0 and 1.
    """
    rate, share = successes / trials, z * z / trials
    middle = (rate + share / 2) / (1 + share)
    half = z * np.sqrt(rate * (1 - rate) / trials + share / (4 * trials)) / (1 + share)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def summarise(episodes):
    """Episodes as `evaluate` gives them, in figures: flags, return, x, deaths."""
    column = {key: np.array([e[key] for e in episodes]) for key in episodes[0]}
    flags, count = int(column["flag_get"].sum()), len(episodes)
    x, lost = column["x_pos"], column["dead"] > 0
    bins, deaths = np.unique(x[lost] // 100 * 100, return_counts=True)
    return {
        "episodes": count,
        "flags": flags,
        "flag_rate": flags / count,
        "interval_95": wilson(flags, count),
        "return_mean": float(column["return"].mean()),
        "return_std": float(column["return"].std()),
        "x_mean": float(x.mean()),
        "x_quartiles": np.quantile(x, [0, 0.25, 0.5, 0.75, 1]).tolist(),
        "deaths_by_x": {f"{int(b)}": int(n) for b, n in zip(bins, deaths)},
        "deaths": int(lost.sum()),
        "stuck": int(column["stuck"].sum()),
        "each": episodes,
    }


def evaluate_mario(player, episodes=100, seed=0, sticky=0.0, envs=4, parallel=True):
    """Whole episodes, each begun after 0 to 30 idle frames; summarised.

    Args: player, an agent (its actions are sampled) or a `Scripted` policy; sticky,
    the probability with which the game repeats the action of the step before.
    """
    make_env = functools.partial(make_mario, noops=30, sticky=sticky)
    envs = min(envs, episodes)
    played = evaluate(player, make_env, episodes, envs, seed, TRACK, parallel)
    return summarise(played)


def known_run(path):
    """The stored list of [action, steps] that reaches the flag of 1-1."""
    return json.loads(Path(path).read_text())["runs"]


def baselines(seed=0, run=None):
    """Three players that learn nothing, by name; the third replays a fixed list."""
    players = {"random": random_actions, "right and jump": right_and_jump}
    if run is not None:
        players["fixed list"] = functools.partial(follow, run, leave=False)
    return {name: Scripted(play, seed) for name, play in players.items()}


def hardware(agent=None):
    """The machine and versions that a result was made with."""
    system = Path("/proc/cpuinfo")
    lines = system.read_text().splitlines() if system.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    found = {"cpu": names[0] if names else platform.processor() or platform.machine()}
    found |= {"cores": os.cpu_count(), "python": platform.python_version()}
    found["torch"] = torch.__version__
    if agent is not None:
        found |= {"device": str(agent.device), "precision": str(agent.dtype)[6:]}
        found["speed"] = agent.config.speed
        if agent.device.type == "cuda":
            found["gpu"] = torch.cuda.get_device_name()
    return found


def commit(root=Path(__file__).parents[1]):
    """The commit of the code, "-dirty" if the code was changed since; None without git.

    Only the package and the tools count: what a run writes into data/ is no code.
    """

    def git(*words):
        command = ["git", "-C", str(root), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        found = git("describe", "--always")
        changed = git("status", "--porcelain", "--", "dreamer_lite", "tools")
    except OSError:
        return None
    return found + "-dirty" * bool(changed) if found else None


# Training


def mario_config(profile, start=None, **changes):
    """The Config of a profile, and its budget in minutes (None: until its steps).

    Args: profile, a name in `PROFILES` or such a dict; start, an agent file whose sizes
    and learning rates are taken over.
    Raises: ValueError for another name, or for both a start and a preset.
    """
    if not isinstance(profile, dict) and profile not in PROFILES:
        names = ", ".join(PROFILES)
        raise ValueError(
            f"A profile is one of {names}, but got {profile!r}; choose one of these."
        )
    if not isinstance(profile, dict):
        profile = dict(PROFILES[profile])
        if start or changes.get("preset", profile["preset"]) != profile["preset"]:
            for key in OF_THE_AGENT:  # rates that it names are for its own size
                profile.pop(key, None)
    values = {**profile, **changes}
    preset, minutes = values.pop("preset"), values.pop("minutes", None)
    if start:
        if changes.get("preset"):
            raise ValueError(
                f"A run that starts from {start} has the size of that agent, but "
                f"preset {preset!r} was asked for, too; leave one of them out."
            )
        stored = vars(Config.from_dict(runs.load_agent(start)[2]))
        values = {key: stored[key] for key in OF_THE_AGENT} | values
    return Config.preset(preset, **values), minutes


def film(agent, run):
    """A callback of `train`: one episode on the real game, kept as a video."""
    length = min(600, run.config.steps // 8)
    played = play_episode(agent, seed=run.step, max_steps=length)
    run.video("episode", played.screens, fps=15)


def train_mario(
    logdir,
    profile,
    minutes=None,
    start=None,
    progress=True,
    noops=0,
    sticky=0.0,
    **changes,
):
    """Train in the folder `logdir`, or go on there. Returns the agent.

    Args: profile, as in `mario_config`; minutes, a budget in place of the profile's;
    start, an agent file to begin a new run with; noops, idle frames at most before an
    episode (the evaluation has 30); sticky, the probability with which the game repeats
    an action; changes, fields of `Config`.
    """
    config, budget = mario_config(profile, start, **changes)
    budget = budget if minutes is None else minutes
    make_env = functools.partial(make_mario, noops=noops, sticky=sticky)
    return train(
        make_env, config, logdir, budget, TRACK, start, film, progress=progress
    )


def hours_to_finish(logdir):
    """Hours until the steps of a run are done, at the speed of its last updates.

    None before two lines of metrics were written.
    """
    folder = Path(logdir)
    rows = runs.read_table(folder / "metrics.csv")
    if len(rows) < 2:
        return None
    steps, minutes = ([float(r[key]) for r in rows[-9:]] for key in ("step", "minutes"))
    total = Config.from_yaml(folder / "config.yaml").steps
    speed = (steps[-1] - steps[0]) / max(minutes[-1] - minutes[0], 1e-9)
    return (total - steps[-1]) / max(speed, 1e-9) / 60


def default_logdir(profile, base="runs"):
    """Where a run of this profile lives: in Drive on Colab, once mounted, or in `base`.

    The short profile has a fresh folder, so that it always begins at step 0.
    """
    if profile == "short":
        import tempfile

        return tempfile.mkdtemp(prefix="mario_short_")
    drive = Path("/content/drive/MyDrive")
    base = drive / "dreamer_lite" if drive.is_dir() else Path(base)
    return str(base / f"mario_{profile}")
