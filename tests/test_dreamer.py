"""Notebook 09's module: configuration, agent, collector, evaluation, training."""

import dataclasses
import functools
import itertools
import json
import os
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import IMAGE, MIXED, SMALL, agent_for, batch_for, observations

from dreamer_lite import dreamer, runs
from dreamer_lite.dreamer import AgentPolicy, Collector, Config, Dreamer
from dreamer_lite.envs import UnitActions, build_env, make_vector, random_policy
from dreamer_lite.replay import Replay
from dreamer_lite.world_model import as_tensors

NUMBERS = Box(0, 99, (1,), np.float32)


class Steps(gym.Env):
    """An observation that counts, rewards that tell the step, four steps an episode."""

    def __init__(self, obs_space=NUMBERS, action_space=None, length=4, terminal=True):
        self.observation_space = obs_space
        self.action_space = action_space or Discrete(2)
        self.length, self.terminal, self.seen = length, terminal, []

    def _observation(self):
        def one(space):
            if isinstance(space, Discrete):
                return self.t % space.n
            return space.dtype.type(self.t) * np.ones(space.shape, space.dtype)

        if isinstance(self.observation_space, Dict):
            return {k: one(s) for k, s in self.observation_space.items()}
        return one(self.observation_space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.ticket = float(self.np_random.random())
        return self._observation(), {}

    def step(self, action):
        self.seen.append(action)
        self.t += 1
        over = self.t == self.length
        ends = over and self.terminal, over and not self.terminal
        told = {"passed": self.t, "pid": os.getpid(), "ticket": self.ticket}
        return self._observation(), float(self.t), *ends, told


def go(folder, env=Steps, track=(), start_from=None, agent=Dreamer, **changes):
    quick = dict(steps=60, prefill=20, ratio=2.0, log_every=1, seed=3)
    config = dataclasses.replace(SMALL, **(quick | changes))
    how = dict(track=track, start_from=start_from, progress=False, agent=agent)
    return dreamer.train(env, config, folder, **how)


# Size and parts


def test_parameter_count_equals_the_references():
    spaces = Dict(
        height=Box(-np.inf, np.inf, (), np.float32),
        orientations=Box(-np.inf, np.inf, (14,), np.float32),
        velocity=Box(-np.inf, np.inf, (9,), np.float32),
    )
    agent = Dreamer(spaces, Box(-1, 1, (6,), np.float32), Config.preset("1m"))
    slow = sum(p.numel() for p in agent.actor_critic.slow_critic.parameters())
    assert sum(p.numel() for p in agent.parameters()) - slow == 640_867


@pytest.mark.parametrize("critics", [1, 3])
def test_exactly_seven_modules_and_the_slow_critic_hold_parameters(critics):
    agent = agent_for(MIXED, critics=critics)
    parts = {".".join(name.split(".")[:2]) for name, _ in agent.named_parameters()}
    model = {"encoder", "rssm", "decoder", "reward", "cont"}
    behaviour = {"actor", "critic", "slow_critic"}
    assert parts == {f"world_model.{name}" for name in model} | {
        f"actor_critic.{name}" for name in behaviour
    }
    trained = [p for g in agent.optimizer.param_groups for p in g["params"]]
    slow = set(agent.actor_critic.slow_critic.parameters())
    assert set(trained) == set(agent.parameters()) - slow
    assert len(trained) == len(set(trained))


def test_every_setting_reaches_its_part():
    """Values that differ from each other and from every default."""
    kl = dict(free_nats=0.7, dyn_scale=0.8, rep_scale=0.2, vector_scale=3.0)
    more = dict(clip=0.6, warmup=11, unimix=0.05, lr=1e-3, critic_lr=2e-3)
    agent = agent_for(**kl, **more, actor_lr=3e-3, actor_unimix=0.06, entropy=0.5)
    assert agent.actor_critic.config is agent.world_model.config is agent.config
    assert agent.world_model.scales == {"obs": 3.0, "dyn": 0.8, "rep": 0.2}
    assert agent.world_model.rssm.unimix == 0.05
    assert agent.actor_critic.actor.unimix == 0.06
    assert agent.actor_critic.entropy == 0.5
    groups = agent.optimizer.param_groups
    assert [(g["clip"], g["warmup"]) for g in groups] == [(0.6, 11)] * 4
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert rates[agent.world_model.rssm.gates.weight] == 1e-3
    assert rates[agent.actor_critic.critic[0].weight] == 2e-3
    assert rates[agent.actor_critic.actor.mlp[0].weight] == 3e-3


@pytest.mark.parametrize(("space", "parts"), [(Discrete(3), 1), (Box(-1, 1, (2,)), 2)])
def test_mean_and_deviation_of_a_joystick_are_clipped_apart(space, parts):
    agent = agent_for(action_space=space)
    *others, last = agent.optimizer.param_groups
    layer = agent.actor_critic.actor.mlp[-1]
    assert last["params"] == [layer.weight, layer.bias] and last["parts"] == parts
    assert all(group["parts"] == 1 for group in others)


class OwnEncoder(torch.nn.Module):
    """An encoder that somebody wrote: as wide as ours, made otherwise."""

    def __init__(self, ours):
        super().__init__()
        self.size, self.layer = ours.size, torch.nn.Linear(1, ours.size)

    def forward(self, obs):
        return torch.tanh(self.layer(obs["obs"]))


class OwnDreamer(Dreamer):
    def __init__(self, *args):
        super().__init__(*args)
        self.world_model.encoder = OwnEncoder(self.world_model.encoder)


def test_a_part_of_ones_own_is_trained_saved_and_loaded(tmp_path):
    torch.manual_seed(3)
    before = OwnDreamer(NUMBERS, Discrete(2), SMALL).world_model.encoder.layer
    agent = go(tmp_path / "run", agent=OwnDreamer, warmup=0)
    after = agent.world_model.encoder.layer
    assert not torch.equal(after.weight, before.weight)
    agent.save(tmp_path / "own.safetensors")
    for path in (tmp_path / "own.safetensors", tmp_path / "run"):
        again = OwnDreamer.load(path, device="cpu").world_model.encoder.layer
        assert torch.equal(again.weight, after.weight)


@pytest.mark.parametrize("share, sequences", [(0.4, 2), (0.0, 1), (1.0, 5)])
def test_dreams_may_begin_in_a_share_of_the_sequences(share, sequences):
    agent = agent_for(dream_share=share)
    batch, starts = batch_for(agent, batch=5), []
    imagine = agent.actor_critic._imagine

    def counted(states, world_model):
        starts.append(states.h.shape[:2])
        return imagine(states, world_model)

    agent.actor_critic._imagine = counted
    metrics = agent.train_step(batch)
    assert starts == [(sequences, 6)] and "loss/replay_critic" in metrics


@pytest.mark.parametrize("step, share", [(0, 1.0), (60, 1.0), (80, 0.525), (100, 0.05)])
def test_rates_fall_to_a_twentieth_in_the_last_share_of_steps(step, share):
    agent = agent_for(steps=100, anneal=0.4, lr=0.3, critic_lr=0.2, actor_lr=0.1)
    agent.schedule(step)
    rates = [group["lr"] for group in agent.optimizer.param_groups]
    assert rates == pytest.approx([0.3 * share, 0.2 * share, 0.1 * share, 0.1 * share])


def test_the_weight_of_the_entropy_moves_by_equal_factors_in_that_share():
    agent = agent_for(steps=100, anneal=0.4, entropy=1e-2, entropy_end=1e-4)
    weights = []
    for step in (0, 60, 80, 100, 200):
        agent.schedule(step)
        weights.append(float(agent.actor_critic.entropy))
    assert weights == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-4])
    other, batch = agent_for(entropy=1e-4), batch_for(agent)
    torch.manual_seed(0)
    loss, _ = agent.loss(agent._on_device(batch))
    torch.manual_seed(0)
    assert loss == other.loss(other._on_device(batch))[0]
    assert "actor_critic.entropy" not in agent.state_dict()


def test_without_a_schedule_nothing_moves():
    agent = agent_for()
    for group in agent.optimizer.param_groups:
        group["lr"] = 0.5  # as a callback may do
    agent.schedule(10**9)
    assert {group["lr"] for group in agent.optimizer.param_groups} == {0.5}
    assert float(agent.actor_critic.entropy) == pytest.approx(agent.config.entropy)


@pytest.mark.parametrize("critics", [1, 2])
def test_slow_critic_follows_after_the_update(critics):
    agent = agent_for(warmup=0, slow_rate=0.5, critics=critics)
    fast, slow = agent.actor_critic.critic, agent.actor_critic.slow_critic
    if critics > 1:
        fast, slow = fast[-1], slow[-1]
    old = slow[-1].bias.clone()
    agent.train_step(batch_for(agent))
    assert torch.allclose(slow[-1].bias, 0.5 * old + 0.5 * fast[-1].bias, atol=1e-7)


# Acting


def test_acting_and_training_see_the_same_embedding():
    agent, seen = agent_for(MIXED), []
    batch = batch_for(agent)
    encoder = agent.world_model.encoder
    trained = encoder(agent._on_device(batch))[:, 2]
    encoder.register_forward_hook(lambda *given: seen.append(given[-1]))
    agent.act({key: batch[key][:, 2] for key in agent.obs_space})
    assert seen[0].shape == trained.shape
    assert torch.allclose(seen[0], trained, atol=1e-5)  # batches round differently


@pytest.mark.parametrize("space", [Discrete(3, start=2), Box(-1, 1, (2,), np.float32)])
def test_act_and_observe_follow_the_states_of_training(space):
    """Row by row with the actions that were taken, they filter as the RSSM does."""
    agent = agent_for(MIXED, space)
    state = filtered = model = action = None
    chosen = torch.zeros(2, agent.world_model.rssm.action_size)
    for seed in range(3):
        obs, before = observations(agent, seed=seed), filtered
        torch.manual_seed(seed)
        filtered = agent.observe(obs, action, before)
        torch.manual_seed(seed)
        embed = agent.world_model.encoder(as_tensors(obs))[:, None]
        first = torch.full((2, 1), seed == 0)
        states, _, _ = agent.world_model.rssm.observe(
            embed, chosen[:, None], first, model
        )
        model, taken = states.map(lambda x: x[:, 0]), action
        torch.manual_seed(seed)
        action, state = agent.act(obs, state)
        chosen = state.action
        for expected, one, two in zip(model, state.model, filtered):
            assert torch.allclose(one, expected, atol=1e-6) and torch.equal(one, two)
    other = -taken if isinstance(space, Box) else 2 + (taken - 1) % 3
    assert not torch.equal(agent.observe(obs, other, before).h, filtered.h)
    with pytest.raises(ValueError, match="2 observations, .* 1 actions"):
        agent.observe(obs, other[:1], before)


def test_act_forgets_state_and_action_where_an_episode_begins():
    agent = agent_for()
    _, old = agent.act(observations(agent, seed=1))
    new, zero = observations(agent, seed=2), agent.world_model.rssm.initial(2)

    def act(*args):
        torch.manual_seed(3)
        return agent.act(new, *args)[1].model

    fresh, reset = act(), act(old, np.array([True, False]))
    assert torch.equal(fresh.h[0], reset.h[0]) and torch.equal(fresh.z[0], reset.z[0])
    assert not torch.equal(fresh.h[1], reset.h[1])
    # The state alone is not enough: the old action would change h as well.
    assert not torch.equal(fresh.h[0], act(old._replace(model=zero)).h[0])


def test_actions_are_those_of_the_space():
    """Drawn, not always the same; choices from their start, numbers unclipped."""
    agent = agent_for(action_space=Discrete(3, start=-1))
    action, state = agent.act(observations(agent, batch=64))
    assert set(action) == {-1, 0, 1}
    assert (state.action.argmax(-1).numpy() - 1 == action).all()
    agent = agent_for(action_space=Box(-1, 1, (2,), np.float32))
    action, _ = agent.act(observations(agent, batch=256))
    assert action.dtype == np.float32 and np.abs(action).max() > 1


def test_act_takes_a_plain_array_for_the_only_key():
    plain, now, actions = Box(-1, 1, (3,), np.float32), np.ones((2, 3), np.float32), []
    for space, obs in ((plain, {"obs": now}), (plain, now), (Dict(obs=plain), now)):
        agent = agent_for(space)
        torch.manual_seed(1)
        actions.append(agent.act(obs)[0].tolist())
    assert actions[0] == actions[1] == actions[2]
    for space in (Dict(other=plain), MIXED):
        with pytest.raises(ValueError, match=r"is missing among \['is_first', 'obs'\]"):
            agent_for(space).act(now)


def test_act_refuses_what_does_not_fit():
    """Once in the memory, nan stays there: an agent would act blindly to the end."""
    agent = agent_for(MIXED)
    three, one = observations(agent, batch=3), observations(agent, batch=1)
    _, state = agent.act(one)
    spoiled = one | {"speed": np.full((1, 2), np.nan, np.float32)}
    wrong = [
        (spoiled, None, None, "'speed' holds nan, .* finite"),
        (three | {"mode": one["mode"]}, None, None, "sizes differ, .*'mode': 1"),
        (three, state, None, "3 observations, a state of 1 and"),
        (three, None, np.ones(2, bool), "sizes differ, .*'is_first': "),
    ]
    for obs, before, first, words in wrong:
        with pytest.raises(ValueError, match=words):
            agent.act(obs, before, first)


# Agent files


def rewrite(path, change):
    """Apply `change(about)` to what an agent file says about itself."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["dreamer_lite"])
    change(about)
    save_file(load_file(path), path, {"dreamer_lite": json.dumps(about)})


def test_several_critics_are_saved_and_loaded(tmp_path):
    path = tmp_path / "agent.safetensors"
    agent = agent_for(critics=2, critic_reduce="min", warmup=0)
    agent.train_step(batch_for(agent))
    agent.save(path)
    again = Dreamer.load(path, device="cpu")
    assert again.config == agent.config
    stored = again.state_dict()
    for name, weights in agent.state_dict().items():
        assert torch.equal(weights, stored[name]), name


def test_an_agent_from_before_a_field_has_its_default(tmp_path):
    path = tmp_path / "agent.safetensors"
    agent_for(entropy=0.5).save(path)
    rewrite(path, lambda about: about["config"].pop("entropy"))
    assert Dreamer.load(path, device="cpu").config == SMALL


def test_an_agent_from_another_machine_can_be_used_here(tmp_path):
    """Device and speed of its training are not asked for, unless they are wished."""
    path = tmp_path / "agent.safetensors"
    agent_for().save(path)
    rewrite(path, lambda about: about["config"].update(device="cuda", speed="graph"))
    agent = Dreamer.load(path)
    assert (agent.config.device, agent.config.speed) == ("auto", "eager")
    assert len(agent.act(observations(agent))[0]) == 2
    with pytest.raises(ValueError, match="speed='graph' needs a CUDA device"):
        Dreamer.load(path, device="cpu", speed="graph")


# Collecting


def collect(make_env, ticks, envs=1, policy=None, parallel=False):
    vector = make_vector(make_env, envs, parallel=parallel)
    spaces = vector.single_observation_space, vector.single_action_space
    replay = Replay(1000, *spaces, envs)
    collector = Collector(vector, replay, track=("passed",))
    policy = policy or random_policy(spaces[1], np.random.default_rng(0))
    ended = [e for _ in range(ticks) for e in collector.tick(policy)]
    vector.close()
    return replay, ended


@pytest.mark.parametrize("envs, parallel", [(1, False), (3, False), (3, True)])
def test_final_observation_and_reward_are_rows(envs, parallel):
    replay, ended = collect(Steps, 12, envs, parallel=parallel)
    for env in range(envs):
        rows = {key: column[env, :10] for key, column in replay.data.items()}
        assert rows["obs"][:, 0].tolist() == [0, 1, 2, 3, 4] * 2
        assert rows["reward"].tolist() == [0, 1, 2, 3, 4] * 2
        assert rows["is_first"].tolist() == [True, False, False, False, False] * 2
        assert rows["is_last"].tolist() == [False] * 4 + [True] + [False] * 4 + [True]
        assert rows["is_terminal"].tolist() == rows["is_last"].tolist()
        assert not rows["action"][[4, 9]].any() and rows["action"][:4].any(1).all()
    assert len(ended) == 2 * envs
    assert {(e["return"], e["length"], e["passed"]) for e in ended} == {(10.0, 4, 4.0)}


def test_a_time_limit_is_last_but_not_terminal():
    replay, _ = collect(functools.partial(Steps, terminal=False), 5)
    assert replay.data["is_last"][0, 4] and not replay.data["is_terminal"][0, :5].any()


def test_box_actions_are_rescaled_and_clipped_at_the_environment_only():
    env = Steps(action_space=Box(0.0, 10.0, (1,), np.float32))
    actions = iter([-3.0, 0.0, 0.5, 7.0])

    def policy(obs, is_first):
        return np.array([[next(actions)]], np.float32)

    replay, _ = collect(lambda: env, 4, policy=policy)
    assert np.array(env.seen).ravel().tolist() == [0.0, 5.0, 7.5, 10.0]
    assert replay.data["action"][0, :4, 0].tolist() == [-3.0, 0.0, 0.5, 7.0]


@pytest.mark.parametrize(
    "low, high, dtype",
    [(0, 4, np.int64), (-2, 2, np.int8), (0, 255, np.uint8), (0, 1, bool)],
)
def test_whole_numbers_get_equal_shares_of_the_actions(low, high, dtype):
    """The highest one too: truncated, it would come at exactly 1.0 only."""
    env = UnitActions(Steps(action_space=Box(low, high, (2,), dtype)))
    count = high - low + 1
    middles = (np.arange(count) + 0.5) / count * 2 - 1
    found = np.array([env.action(np.full(2, x, np.float32)) for x in middles])
    assert found.dtype == dtype and (found == np.arange(low, high + 1)[:, None]).all()
    assert env.action(np.array([-9.0, 9.0])).tolist() == [low, high]


@pytest.mark.parametrize(
    "low, high, dtype",
    [
        ([-1.08, 0.0, -5.0], [7.82, 0.3, -1.0], np.float32),
        ([-1e308] * 3, [1e308] * 3, np.float64),
        ([-(2**53) + 1] * 3, [2**53 - 1] * 3, np.int64),
    ],
)
def test_actions_never_leave_the_bounds_by_rounding(low, high, dtype):
    """An environment that checks them would end the run."""
    low, high = np.array(low, dtype), np.array(high, dtype)
    env = UnitActions(Steps(action_space=Box(low, high, dtype=dtype)))
    shares = np.linspace(-1.5, 1.5, 301, dtype=np.float32)
    found = np.array([env.action(np.full(3, share)) for share in shares])
    assert all(env.env.action_space.contains(action) for action in found)
    assert (found[0] == low).all() and (found[-1] == high).all()
    assert (np.diff(found, axis=0) >= 0).all()


def test_actions_without_bounds_are_refused_with_advice_that_works():
    env = Steps(action_space=Box(-np.inf, np.inf, (1,), np.float32))
    with pytest.raises(ValueError, match=r"finite bounds.*TransformAction\(env, ") as e:
        UnitActions(env)
    advice = re.search(r"gymnasium\.wrappers\.\w+\(.*\)", str(e.value)).group()
    names = dict(gymnasium=gym, Box=Box, low=-2.0, high=2.0, shape=(1,), env=env)
    env = UnitActions(eval(advice, names))
    env.reset()
    env.step(np.ones(1, np.float32))
    assert env.unwrapped.seen[0].tolist() == [2.0]


def test_random_policy_keeps_to_the_space():
    rng = np.random.default_rng(0)
    choice = random_policy(Discrete(3, start=5), rng)(None, np.ones(200, bool))
    assert set(choice) == {5, 6, 7}
    box = random_policy(Box(-1, 1, (2,), np.float32), rng)(None, np.ones(200, bool))
    assert box.shape == (200, 2) and -1 <= box.min() < -0.9 and 0.9 < box.max() <= 1


class OldReset(Steps):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class OldStep(Steps):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


@pytest.mark.parametrize(
    "make_env, words",
    [
        (5, "must be callable"),
        (lambda: None, "returns a gymnasium.Env, but got None; return"),
        (OldReset, r"returns observation, info, but got array\(.*shimmy"),
        (OldStep, "terminated, truncated, info, but got .*shimmy"),
    ],
)
def test_what_is_no_environment_is_refused(tmp_path, make_env, words):
    with pytest.raises(TypeError, match=words):
        go(tmp_path, make_env)


# Evaluation


def test_evaluate_counts_the_same_for_each_environment():
    """Environment i plays episodes of its own length: short ones are not favoured."""
    counter = iter(range(100))

    def make_env():
        return Steps(length=2 + 8 * (next(counter) % 3))

    def still(obs, is_first):
        return np.zeros(len(is_first), int)

    found = dreamer.evaluate(still, make_env, 7, envs=3)
    assert sorted(e["env"] for e in found) == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "obs_space, action_space, name",
    [
        (NUMBERS, Discrete(3), "action"),
        (NUMBERS, Discrete(2, start=1), "action"),
        (NUMBERS, Box(-1, 1, (2,), np.float32), "action"),
        (Box(0, 99, (2,), np.float32), Discrete(2), "obs"),
        (Dict(other=NUMBERS), Discrete(2), "obs"),
        (Discrete(5), Discrete(2), "obs"),
    ],
)
def test_evaluate_refuses_an_environment_that_the_agent_does_not_fit(
    obs_space, action_space, name
):
    make_env = functools.partial(Steps, obs_space, action_space)
    with pytest.raises(ValueError, match=f"with '{name}' as .*, but got .*; use"):
        dreamer.evaluate(agent_for(NUMBERS), make_env, 1)


def test_evaluate_takes_other_bounds_and_further_observations():
    agent = agent_for(Dict(obs=NUMBERS), Box(-2, 2, (1,), np.float32))
    wider = Dict(obs=Box(-9, 999, (1,), np.float32), more=Discrete(5))
    make_env = functools.partial(Steps, wider, Box(0, 9, (1,), np.float32))
    assert len(dreamer.evaluate(agent, make_env, 2)) == 2


class Digits(Steps):
    """The return of an episode tells every action in it."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(action * 2**self.t), *rest


def test_evaluate_repeats_and_leaves_random_numbers_alone():
    agent, results = agent_for(NUMBERS), []
    for before, seed in ((1, 4), (2, 4), (2, 5)):
        torch.manual_seed(before)
        expected = torch.rand(3)
        torch.manual_seed(before)
        results.append(dreamer.evaluate(agent, Digits, 3, envs=2, seed=seed))
        assert torch.equal(torch.rand(3), expected)
    assert results[0] == results[1] != results[2]


def test_greedy_evaluation_takes_the_most_likely_actions():
    agent = agent_for(NUMBERS)
    agent.actor_critic.actor.mlp[-1].bias.data[0] = 0.2
    how = agent, Digits, 4, 2
    assert {e["return"] for e in dreamer.evaluate(*how, greedy=True)} == {0.0}
    assert max(e["return"] for e in dreamer.evaluate(*how)) > 0


def test_an_evaluation_plays_games_that_no_run_of_any_seed_trains_on():
    def draw(*key, **options):
        env = build_env(Steps, *key, **options)
        env.reset()
        return env.unwrapped.ticket

    keys = list(itertools.product(range(3), range(3), range(4)))
    trained = {draw(*key) for key in keys}
    held_out = {key: draw(*key, held_out=True) for key in keys}
    assert len(trained) == len(set(held_out.values())) == len(keys)
    assert not trained & set(held_out.values())
    agent = agent_for(NUMBERS)
    for seed in range(3):
        found = dreamer.evaluate(agent, Steps, 12, envs=3, seed=seed, track="ticket")
        expected = {ticket for key, ticket in held_out.items() if key[0] == seed}
        assert {e["ticket"] for e in found} == expected


# Tracking


class Sometimes(Steps):
    """Reports `won` at the end of every second episode only."""

    episodes = 0

    def step(self, action):
        *result, ended, cut, info = super().step(action)
        self.episodes += ended
        if ended and self.episodes % 2 == 0:
            info = info | {"won": True}
        return *result, ended, cut, info


def test_track_takes_what_comes_only_at_times(tmp_path):
    """A value of another environment, or of none, is no zero."""
    lengths = iter([1, 2] * 3)
    found = dreamer.evaluate(
        agent_for(NUMBERS), lambda: Sometimes(length=next(lengths)), 8, 2, track="won"
    )
    mine = [[e.get("won") for e in found if e["env"] == i] for i in range(2)]
    assert mine == [[None, 1.0, None, 1.0]] * 2
    go(tmp_path, Sometimes, ["won"])
    rows = runs.read_table(tmp_path / "episodes.csv")
    assert [row["won"] for row in rows[:4]] == ["", "1", "", "1"]


def test_track_names_what_no_episode_had(tmp_path, monkeypatch):
    """A misspelt name is not silent; one that came in an earlier call is known."""
    both, words = ["passed", "pased"], "track expects names .* but none had pased;"
    with pytest.warns(UserWarning, match=words):
        dreamer.evaluate(agent_for(NUMBERS), Steps, 1, track=both)
    with pytest.warns(UserWarning, match=words):
        go(tmp_path, track=both)
    step = Steps.step
    monkeypatch.setattr(Steps, "step", lambda *args: (*step(*args)[:4], {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go(tmp_path, track="passed", steps=80)


def test_track_needs_no_mask():
    """Vector environments that build `info` themselves have none."""

    class Bare(gym.vector.VectorWrapper):
        def step(self, action):
            *result, info = super().step(action)
            return *result, {k: v for k, v in info.items() if k[0] != "_"}

    collector = Collector(Bare(make_vector(Steps, 2)), track=["passed"])
    still = lambda obs, first: np.zeros(2, int)  # noqa: E731
    ended = [e for _ in range(4) for e in collector.tick(still)]
    assert [e["passed"] for e in ended] == [4.0, 4.0]


# Training


@pytest.mark.parametrize("config", [None, {"steps": 10}, Config])
def test_train_refuses_what_is_no_config(tmp_path, config):
    with pytest.raises(TypeError, match=r"a Config, but got .*; use"):
        dreamer.train(Steps, config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_without_updates_or_warm_up(tmp_path):
    none = dict(ratio=0.0, prefill=0, warmup=0, video_minutes=0.0, lr=0.0, entropy=0.0)
    assert isinstance(go(tmp_path, **none, checkpoint_minutes=0.0), Dreamer)


@pytest.mark.parametrize(
    "make_env, envs",
    [
        ("Pendulum-v1", 2),
        (functools.partial(Steps, MIXED), 1),
        (functools.partial(Steps, IMAGE, Discrete(2, start=3)), 2),
    ],
    ids=["continuous", "dict", "image"],
)
def test_train_takes_ids_callables_and_all_spaces(tmp_path, make_env, envs):
    assert isinstance(go(tmp_path, make_env, envs=envs), Dreamer)
    assert runs.read_checkpoint(tmp_path)[0]["updates"] > 0


def test_the_seed_of_a_run_reaches_all_its_random_numbers(tmp_path):
    found = []
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        agent = go(tmp_path / name, track="ticket", steps=20, ratio=0.0, seed=seed)
        replay = runs.load_replay(tmp_path / name)
        episodes = runs.read_table(tmp_path / name / "episodes.csv")
        tickets = [row["ticket"] for row in episodes]
        weight = agent.world_model.rssm.gates.weight.sum().item()
        random = replay.data["action"].tolist(), replay.rng.random()
        found.append((tickets, weight, *random))
    one, again, other = found
    assert one == again and not any(a == b for a, b in zip(one, other))


def test_environments_may_have_processes_of_their_own(tmp_path):
    go(tmp_path, track="pid", envs=2, parallel=True, steps=40)
    rows = runs.read_table(tmp_path / "episodes.csv")
    played = dreamer.evaluate(agent_for(NUMBERS), Steps, 2, 2, 0, "pid", parallel=True)
    for found in ({float(row["pid"]) for row in rows}, {e["pid"] for e in played}):
        assert len(found) == 2 and os.getpid() not in found


@pytest.fixture
def acted(monkeypatch):
    """Grows whenever an agent acts."""
    acted, act = [], Dreamer.act
    monkeypatch.setattr(Dreamer, "act", lambda *args: acted.append(1) or act(*args))
    return acted


def test_train_starts_from_an_agent_and_acts_with_it(tmp_path, acted):
    first = go(tmp_path / "a")
    first.save(tmp_path / "agent.safetensors")
    acted.clear()
    second = go(tmp_path / "b", start_from=tmp_path / "agent.safetensors", steps=10)
    assert len(acted) >= 10  # in the prefill
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_training_acts_with_the_agent_once_the_prefill_is_over(tmp_path, acted):
    go(tmp_path, prefill=40, ratio=0.0)
    assert 20 <= len(acted) <= 22


def test_policy_tells_the_agent_where_episodes_begin(monkeypatch):
    agent, asked = agent_for(), []
    act = agent.act

    def watch(obs, state, first, greedy):
        asked.append(first)
        return act(obs, state, first, greedy)

    monkeypatch.setattr(agent, "act", watch)
    policy = AgentPolicy(agent)
    for first in ([False, True], [False, True]):  # without a state all are first
        policy(observations(agent), np.array(first))
    assert asked[0] is None and asked[1].tolist() == [False, True]
