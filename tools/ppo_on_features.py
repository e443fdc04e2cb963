"""The runs of notebooks/beyond/ppo_on_features: PPO with and without a world model.

    python tools/ppo_on_features.py              all that are missing, seed by seed
    python tools/ppo_on_features.py frozen 0     one run

Each finished run is stored at once: its episodes in data/ppo_on_features/KIND_SEED.csv,
and a row in runs.csv beside it. It is not made again. A run takes a quarter of a minute
to four minutes on one core.
"""

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import torch
from stable_baselines3 import PPO

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from course.ppo_on_features import (
    PPO_SETTINGS,
    RANDOM,
    ROLLOUT,
    SETTINGS,
    STEPS,
    FeatureEnv,
    ModelTrainer,
    Record,
    make_env,
    play_randomly,
    tenth,
)
from dreamer_lite.dreamer import Config, train
from dreamer_lite.runs import add_row, read_checkpoint

DATA = ROOT / "data" / "ppo_on_features"
MODEL_UPDATES = 625  # of a frozen model
COLUMNS = "kind seed steps updates minutes cpu_minutes".split()


def ppo(env, seed):
    """Return a new PPO for an environment."""
    return PPO("MlpPolicy", env, seed=seed, **PPO_SETTINGS)


def plain(seed):
    """PPO on place and angle."""
    record = Record(make_env())
    ppo(tenth(record), seed).learn(STEPS)
    return record, 0


def stacked(seed):
    """PPO on the last four places and angles."""
    record = Record(make_env())
    env = gym.wrappers.FrameStackObservation(tenth(record), 4, padding_type="reset")
    ppo(gym.wrappers.FlattenObservation(env), seed).learn(STEPS)
    return record, 0


def velocities(seed):
    """PPO on the whole CartPole, velocities included."""
    record = Record(gym.make("CartPole-v1"))
    ppo(record, seed).learn(STEPS)
    return record, 0


def frozen(seed):
    """PPO on the features of a model that has only seen random play."""
    trainer = ModelTrainer(seed)
    record = Record(make_env(), trainer.replay)
    play_randomly(record, RANDOM, seed)
    trainer.train(MODEL_UPDATES)
    ppo(FeatureEnv(record, trainer.agent), seed).learn(STEPS - record.steps)
    return record, trainer.updates


def hybrid(seed):
    """PPO and model in turns, each rollout of PPO followed by updates of the model."""
    trainer = ModelTrainer(seed)
    record = Record(make_env(), trainer.replay)
    play_randomly(record, trainer.agent.config.prefill, seed)
    agent = ppo(FeatureEnv(record, trainer.agent), seed)
    while record.steps < STEPS:
        trainer.train(trainer.due(record.steps) - trainer.updates)
        agent.learn(ROLLOUT, reset_num_timesteps=False)
    return record, trainer.updates


def dreamer(seed):
    """Dreamer, with the same model and about as many updates as the hybrid."""
    record, config = Record(make_env()), Config.preset("1m", seed=seed, **SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        train(lambda: record, config, folder, progress=False)
        state, _ = read_checkpoint(folder)
    return record, state["updates"]


KINDS = dict(plain=plain, stacked=stacked, velocities=velocities, frozen=frozen)
KINDS |= dict(hybrid=hybrid, dreamer=dreamer)


def make(kind, seed):
    """Make one run and store it, unless it is there."""
    path, table = DATA / f"{kind}_{seed}.csv", DATA / "runs.csv"
    if path.exists():
        return
    torch.manual_seed(seed)
    begin, cpu = time.monotonic(), time.process_time()
    record, updates = KINDS[kind](seed)
    times = time.monotonic() - begin, time.process_time() - cpu
    minutes = [round(seconds / 60, 2) for seconds in times]
    row = zip(COLUMNS, (kind, seed, record.steps, updates, *minutes))
    add_row(table, dict(row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = ("step", "return"), *record.episodes
        csv.writer(file, lineterminator="\n").writerows(rows)
    print(kind, seed, *minutes, record.episodes[-10:], flush=True)


def main():
    """Make the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("seed", nargs="?", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    for seed in range(3) if options.seed is None else [options.seed]:
        for kind in KINDS if options.kind is None else [options.kind]:
            make(kind, seed)


if __name__ == "__main__":
    main()
