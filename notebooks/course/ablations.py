"""The tricks of DreamerV3, each taken out in a few lines, and the runs that tell.

`tools/ablations.py` makes the runs, `notebooks/beyond/ablations` reads them. A patch
gets an agent that has learnt nothing yet and changes it, or the module it comes from:
every run has a process of its own, so nothing has to be undone.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from course.tasks import Corridor, Follow, Lever, Sled
from dreamer_lite import networks
from dreamer_lite.actor_critic import ReturnNormalizer
from dreamer_lite.dreamer import AgentPolicy, Collector, Config, Dreamer
from dreamer_lite.envs import make_vector
from dreamer_lite.replay import Replay
from dreamer_lite.rssm import State
from dreamer_lite.runs import read_table


class PlainNumber(nn.Module):
    """Stands in for TwoHot: one output is the number, its loss a squared error."""

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0]

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (outputs[..., 0] - y.detach()) ** 2


def no_symlog(agent):
    networks.symlog = Tensor.float


def squared_error(agent):
    agent.world_model.two_hot = agent.actor_critic.two_hot = PlainNumber()


def no_return_scale(agent):
    ReturnNormalizer.scale = torch.ones(())


def no_slow_critic(agent):
    ac = agent.actor_critic
    ac._critic_loss = lambda logits, feature, ret: ac.two_hot.loss(logits, ret)


def detach_input(module, args):
    return args[0].detach()


def no_reconstruction(agent):
    agent.world_model.decoder.register_forward_pre_hook(detach_input)


def only_reconstruction(agent):
    model = agent.world_model
    for part in (model.reward, model.cont, agent.actor_critic.critic):
        part.register_forward_pre_hook(detach_input)


def h_alone(agent):
    State.feature = property(lambda s: torch.cat([s.h, 0 * s.z.flatten(-2)], -1))


def z_alone(agent):
    State.feature = property(lambda s: torch.cat([0 * s.h, s.z.flatten(-2)], -1))


def no_memory(agent):
    rssm, advance = agent.world_model.rssm, agent.world_model.rssm.advance
    rssm.advance = lambda state, action: advance(State(0 * state.h, state.z), action)


def always_continue(agent):
    discount = agent.config.discount
    agent.world_model.predict_continue = lambda f: torch.full(f.shape[:-1], discount)


def adam(agent):
    groups = agent.optimizer.param_groups
    rates = [{"params": group["params"], "lr": group["lr"]} for group in groups]
    agent.optimizer = torch.optim.Adam(rates)


@dataclass(frozen=True)
class Task:
    """A world and how long agents learn in it.

    Attributes: make, a callable that returns the environment; random, best, mean
    returns of a random and of a perfect player; seeds, how many runs of each agent;
    updates, of one run; settings, fields of Config other than `SETTINGS`.
    """

    make: Callable
    random: float
    best: float
    seeds: int = 5
    updates: int = 250
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """An agent without one trick.

    Attributes: tasks, where the trick should show; patch, a function of the agent;
    settings, fields of Config instead of it.
    """

    tasks: tuple[str, ...]
    patch: Callable | None = None
    settings: dict = field(default_factory=dict)


BOLD = {"actor_lr": 2e-3, "entropy": 3e-3}  # rewards are frequent: explore less
PIXELS = {"lr": 2e-3, "classes": 8, "batch": 8, "dream_share": 0.5}
TASKS = {
    "sled": Task(Sled, 2.1, 27.6, settings=BOLD),
    "units": Task(partial(Sled, 1000.0), 2100.0, 27600.0, settings=BOLD),
    "corridor": Task(Corridor, 0.26, 1.0),
    "lever": Task(Lever, 0.0, 3.0, updates=350),
    "follow": Task(Follow, 3.9, 12.6, seeds=3, updates=400, settings=BOLD | PIXELS),
}
VARIANTS = {
    "untouched": Variant(tuple(TASKS)),
    "no symlog": Variant(("units", "sled"), no_symlog),
    "squared error": Variant(("units", "corridor"), squared_error),
    "no return scale": Variant(("units", "sled"), no_return_scale),
    "Adam": Variant(("units", "follow"), adam),
    "no slow critic": Variant(("sled", "corridor"), no_slow_critic),
    "no replay critic": Variant(("sled", "corridor"), None, {"replay_scale": 0.0}),
    "horizon 5": Variant(("sled", "corridor"), None, {"horizon": 5}),
    "horizon 30": Variant(("sled", "corridor"), None, {"horizon": 30}),
    "always continue": Variant(("sled", "corridor"), always_continue),
    "no free nats": Variant(("lever", "follow"), None, {"free_nats": 0.0}),
    "no unimix": Variant(
        ("lever", "follow"), None, {"unimix": 0.0, "actor_unimix": 0.0}
    ),
    "one KL gradient": Variant(("lever", "follow"), None, {"rep_scale": 1.0}),
    "no reconstruction": Variant(("lever", "follow"), no_reconstruction),
    "only reconstruction": Variant(("lever", "follow"), only_reconstruction),
    "h alone": Variant(("lever", "follow"), h_alone),
    "z alone": Variant(("lever", "follow"), z_alone),
    "no memory": Variant(("lever",), no_memory),
}

POINTS, ENVS = 10, 8
SETTINGS = dict(
    deter=64, units=64, latents=8, classes=4, depth=8, blocks=1, batch=16, length=10,
    dream_share=0.25, lr=5e-3, critic_lr=5e-3, actor_lr=1e-3, warmup=20, entropy=1e-2,
    slow_rate=0.05, device="cpu", precision="fp32",
)  # fmt: skip
KEPT = {
    "obs_loss": "loss/obs",
    "reward_loss": "loss/reward",
    "kl": "loss/dyn",
    "entropy": "actor/entropy",
    "value": "value/mean",
    "imagined_return": "return/mean",
    "scale": "return/scale",
}
COLUMNS = ["variant", "seed", "updates", "steps", "episodes", "return", *KEPT]
COLUMNS += ["seconds"]


def run(task: str, variant: str, seed: int, updates: int | None = None) -> list[dict]:
    """Train one agent and return its curve: `POINTS` rows of `COLUMNS`.

    A row describes the updates since the one before it. Its return is the mean of the
    episodes that ended in them, played with sampled actions to collect experience; nan
    if none did. After each update every environment makes two steps.
    """
    torch.manual_seed(seed)
    world, chosen = TASKS[task], VARIANTS[variant]
    updates, start = updates or world.updates, time.perf_counter()
    envs = make_vector(world.make, ENVS, seed=seed)
    spaces = envs.single_observation_space, envs.single_action_space
    config = Config(**SETTINGS | {"seed": seed} | world.settings | chosen.settings)
    agent = Dreamer(*spaces, config)
    if chosen.patch:
        chosen.patch(agent)
    replay = Replay(32 * updates + 1000, *spaces, num_envs=ENVS, seed=seed)
    collector, policy = Collector(envs, replay), AgentPolicy(agent)
    for _ in range(40):
        collector.tick(policy)
    rows, every = [], updates // POINTS
    for end in range(every, updates + 1, every):
        returns, metrics = [], []
        for _ in range(every):
            metrics.append(agent.train_step(replay.sample(config.batch, config.length)))
            for _ in range(2):
                returns += [e["return"] for e in collector.tick(policy)]
        row = {"variant": variant, "seed": seed, "updates": end}
        row |= {"steps": ENVS * (40 + 2 * end), "episodes": len(returns)}
        row["return"] = float(np.mean(returns)) if returns else math.nan
        for name, key in KEPT.items():
            row[name] = float(torch.stack([m[key] for m in metrics]).mean())
        rows.append(row | {"seconds": time.perf_counter() - start})
    envs.close()
    return rows


def read_runs(path: Path) -> list[dict]:
    """The stored rows of one task, with numbers as numbers; none without a file."""
    whole = {"seed", "updates", "steps", "episodes"}
    kinds = {key: int if key in whole else float for key in COLUMNS[1:]}
    return [
        row | {key: kind(row[key]) for key, kind in kinds.items()}
        for row in read_table(path)
    ]


def curves(path: Path, column: str = "return") -> dict[str, np.ndarray]:
    """One column of a results file: {variant: [seeds, POINTS]}, seeds in order.

    Raises:
        ValueError: for a run that is not whole, or a missing seed.
    """
    found = {}
    for row in read_runs(path):
        runs = found.setdefault(row["variant"], {})
        runs.setdefault(row["seed"], []).append(row[column])
    seeds = set(found.get("untouched", ()))
    for name, runs in found.items():
        lengths = {len(curve) for curve in runs.values()}
        if set(runs) != set(range(len(runs))) or lengths != {POINTS}:
            raise ValueError(
                f"{path.name} expects {POINTS} rows of each seed from 0 on, but "
                f"{name!r} has seeds {sorted(runs)} with {sorted(lengths)} rows; "
                f"delete them and run python tools/ablations.py --tasks {path.stem}."
            )
        if not set(runs) <= seeds:
            raise ValueError(
                f"{path.name} expects the untouched agent with every seed, but "
                f"{name!r} has seed {max(set(runs) - seeds)} and it does not; run "
                f"python tools/ablations.py --tasks {path.stem}."
            )
    return {
        name: np.array([runs[s] for s in sorted(runs)]) for name, runs in found.items()
    }


def scores(curve: np.ndarray) -> np.ndarray:
    """What a run is judged by: its mean return in the last fifth of its updates."""
    return np.nanmean(curve[:, -POINTS // 5 :], 1)


@dataclass(frozen=True)
class Comparison:
    """One agent beside the untouched one, on the seeds that both have.

    Attributes: task, variant; without, untouched: scores [seeds] of both.
    """

    task: str
    variant: str
    without: np.ndarray
    untouched: np.ndarray

    @property
    def loss(self) -> float:
        """The mean score lost, as a share of what there is to gain in the task."""
        random, best = TASKS[self.task].random, TASKS[self.task].best
        return (self.untouched.mean() - self.without.mean()) / (best - random)

    @property
    def verdict(self) -> str:
        """Worse or better: a tenth of what there is to gain, and in every seed."""
        if len(self.without) < 2:
            return "one seed, no verdict"
        if self.loss > 0.1 and self.without.max() < self.untouched.min():
            return "worse"
        if self.loss < -0.1 and self.without.min() > self.untouched.max():
            return "better"
        return "no difference that these seeds can show"


def comparisons(folder: Path) -> list[Comparison]:
    """Every trick on each of its tasks, as far as there are runs."""
    found = []
    for task in TASKS:
        runs = curves(folder / f"{task}.csv")
        for name, variant in VARIANTS.items():
            if name != "untouched" and task in variant.tasks and name in runs:
                without = scores(runs[name])
                beside = scores(runs["untouched"])[: len(without)]
                found.append(Comparison(task, name, without, beside))
    return sorted(found, key=lambda c: list(VARIANTS).index(c.variant))
