"""Watch the agent that ships die: what it did last, and what it hoped for.

    python tools/deaths.py [--episodes 160] [--seed 1]

Writes data/mario_deaths.json: of every episode without a flag the last steps, with the
probability of the action that was drawn and the critic's value. The episodes are like
those of the evaluation, but others (of another seed). Then the first 100 of them begin
again without the percent of uniform probability in the policy: only their flags are
kept. Notebook 10 looks at all of it.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from command import run  # noqa: E402
from dreamer_lite import dreamer, playing  # noqa: E402
from dreamer_lite.mario import make_mario  # noqa: E402
from dreamer_lite.replay import write_whole  # noqa: E402
from machine import machine  # noqa: E402

ENVS, LAST = 4, 40  # games side by side; steps that are kept
UNMIXED = 100  # episodes without unimix: of each game the first ones again


class Watching(dreamer.AgentPolicy):
    """An agent's policy that writes down (probability, value) of every step it takes.

    Attribute: `seen`, for each environment a list of episodes.
    """

    def __init__(self, agent, envs):
        super().__init__(agent)
        self.seen = [[] for _ in range(envs)]

    @torch.no_grad()
    def __call__(self, obs, is_first):
        action = super().__call__(obs, is_first)
        parts, feature = self.agent.actor_critic, self.state.model.feature
        log_prob, _ = parts.actor.evaluate(feature, self.state.action)
        value = parts.two_hot.mean(parts.critic(feature))
        for i, step in enumerate(zip(log_prob.exp().tolist(), value.tolist())):
            if is_first[i]:
                self.seen[i].append([])
            self.seen[i][-1].append(step)
        return action


def watch(agent, episodes, seed, make_env=None, parallel=True, track=playing.TRACK):
    """Play episodes; returns how many there were, the flags, and the deaths."""
    make_env = make_env or functools.partial(make_mario, noops=30)
    envs = min(ENVS, episodes)
    policy = Watching(agent, envs)
    played = dreamer.evaluate(policy, make_env, episodes, envs, seed, track, parallel)
    seen, deaths = [iter(of_env) for of_env in policy.seen], []
    for episode in played:  # in the order of their ends, hence in order for each game
        steps = next(seen[episode["env"]])[: episode["length"]]  # not at its last frame
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


def unmixed(agent, episodes, seed, *how):
    """How often the agent takes the flag if nothing is mixed into its policy.

    Args: as of `watch`. The agent is as before afterwards.
    """
    actor = agent.actor_critic.actor
    before, actor.unimix = actor.unimix, 0.0
    try:
        found = watch(agent, episodes, seed, *how)
    finally:
        actor.unimix = before
    return {key: found[key] for key in ("episodes", "flags")}


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1, help="of games and actions")
    options = parser.parse_args()
    path = ROOT / "data" / "mario_agent.safetensors"
    agent = playing.load_agent(path)
    about = playing.about_agent(path)
    found = {key: about[key] for key in ("file", "sha256", "steps")}
    found |= {"seed": options.seed, "machine": machine()}
    found |= watch(agent, options.episodes, options.seed)
    found["without_unimix"] = unmixed(agent, UNMIXED, options.seed)
    text = json.dumps(found) + "\n"
    path = ROOT / "data" / "mario_deaths.json"
    write_whole(path, lambda file: file.write(text.encode()))
    print(f"{found['flags']} flags in {found['episodes']} episodes")


if __name__ == "__main__":
    run(main)
