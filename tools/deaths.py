"""Play episodes of the shipped agent and keep the last steps before each death.

    python tools/deaths.py [--episodes 100] [--seed 1]

Writes data/mario_deaths.json, which notebook 10 looks at: for every episode without a
flag the probability of each of the last actions and the critic's value. The episodes
are like those of the evaluation, but of another seed. They are played twice: with a
uniform share of one percent in the policy, and without.
"""

import argparse
import functools
import hashlib
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dreamer_lite import dreamer
from dreamer_lite.mario import TRACK, make_mario
from machine import machine

AGENT = ROOT / "data" / "mario_agent.safetensors"
ENVS, LAST = 4, 40  # games side by side; steps that are kept
SHARES = {"with": 0.01, "without": 0.0}  # of the uniform distribution in the policy


class Watching(dreamer.AgentPolicy):
    """An agent's policy that notes (probability, value) of every step.

    Attributes:
        seen: for each environment a list of episodes.
    """

    def __init__(self, agent, envs):
        super().__init__(agent)
        self.seen = [[] for _ in range(envs)]

    @torch.no_grad()
    def __call__(self, obs, is_first):
        action = super().__call__(obs, is_first)
        parts, feature = self.agent.actor_critic, self.state.model.feature
        log_prob, _ = parts.actor.evaluate(feature, self.state.action)
        value = parts.value(parts.critic(feature))
        for i, step in enumerate(zip(log_prob.exp().tolist(), value.tolist())):
            if is_first[i]:
                self.seen[i].append([])
            self.seen[i][-1].append(step)
        return action


def watch(agent, share, episodes, seed, make_env=None, parallel=True, track=TRACK):
    """Play episodes and keep the last `LAST` steps of those without a flag.

    Args:
        agent: a Dreamer.
        share: of the uniform distribution in its policy, from now on.
        episodes, seed, make_env, parallel, track: as for `dreamer.evaluate`.

    Returns:
        `episodes` and `flags`, how many there were, and `deaths`: for each the place
        `x`, and the `probability` and `value` of every step that was kept.
    """
    make_env = make_env or functools.partial(make_mario, noops=30)
    envs = min(ENVS, episodes)
    policy, agent.actor_critic.actor.unimix = Watching(agent, envs), share
    played = dreamer.evaluate(policy, make_env, episodes, envs, seed, track, parallel)
    seen, deaths = [iter(of_env) for of_env in policy.seen], []
    for episode in played:  # in the order of their ends, so in order for each game
        steps = next(seen[episode["env"]])[: episode["length"]]
        if not episode["flag_get"]:
            chances, values = zip(*steps[-LAST:])
            deaths.append(
                {
                    "x": int(episode["x_pos"]),
                    "probability": [float(f"{p:.3g}") for p in chances],
                    "value": [round(v, 1) for v in values],
                }
            )
    return {"episodes": episodes, "flags": episodes - len(deaths), "deaths": deaths}


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of games and actions")
    options = parser.parse_args()
    agent = dreamer.Dreamer.load(AGENT).eval()
    digest = hashlib.sha256(AGENT.read_bytes()).hexdigest()
    found = {"sha256": digest, "seed": options.seed, "machine": machine()}
    for name, share in SHARES.items():
        found[name] = watch(agent, share, options.episodes, options.seed)
        print(f"{name}: {found[name]['flags']} flags in {options.episodes} episodes")
    path = AGENT.with_name("mario_deaths.json")
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
