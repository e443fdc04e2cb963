"""The five probes: ours passes each, and a planted fault fails the one it should."""

import pytest
import torch

from course import probes


@pytest.mark.parametrize("name", probes.PROBES)
def test_dreamer_finds_the_exact_value(name):
    assert probes.probe(name)


def test_values_follow_from_the_environments():
    """Play each probe with every action and compare the best return with `values`."""
    for case in probes.PROBES.values():
        env, seen = case.make(), {}
        for seed in range(8):
            for action in (0, 1):
                obs, _ = env.reset(seed=seed)
                start, total, discount, done = float(obs[0]), 0.0, 1.0, False
                while not done:
                    _, reward, done, _, _ = env.step(action)
                    total, discount = total + discount * reward, discount * probes.GAMMA
                seen[start] = max(seen.get(start, -9.0), total)
        assert seen == pytest.approx(case.values)


def blind(agent):
    """An encoder that sees nothing."""
    encoder = agent.world_model.encoder
    forward = encoder.forward
    encoder.forward = lambda obs: 0 * forward(obs)


def careless(agent):
    """A continue head that never discounts."""
    agent.world_model.predict_continue = lambda feature: torch.ones(feature.shape[:-1])


def contrary(agent):
    """An actor that makes bad actions likelier."""
    actor, evaluate = agent.actor_critic.actor, agent.actor_critic.actor.evaluate

    def backwards(feature, action):
        log_prob, entropy = evaluate(feature, action)
        return -log_prob, entropy

    actor.evaluate = backwards


@pytest.mark.parametrize(
    "plant, name", [(blind, "seen"), (careless, "constant"), (contrary, "action")]
)
def test_a_planted_fault_is_found(plant, name, capsys):
    def make_agent(*spaces):
        agent = probes.tiny_agent(*spaces)
        plant(agent)
        return agent

    assert not probes.probe(name, make_agent=make_agent)
    assert probes.PROBES[name].points_to in capsys.readouterr().out
