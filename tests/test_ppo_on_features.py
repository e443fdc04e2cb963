"""The page on PPO: CartPole without velocities, its record, and the feature wrapper."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from course import ppo_on_features as task


@pytest.fixture(scope="module")
def trainer():
    torch.manual_seed(0)
    return task.ModelTrainer(seed=0)


def test_the_wrapped_world_is_a_gymnasium_environment(trainer):
    env = task.FeatureEnv(task.make_env(), trainer.agent)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    assert obs.dtype == np.float32
    check_env(task.make_env(), skip_render_check=True)


def test_features_are_those_of_the_agent_that_acts(trainer):
    """`act` and the wrapper filter the same observations into the same features."""
    env, world = task.FeatureEnv(task.make_env(), trainer.agent), task.make_env()
    torch.manual_seed(1)
    obs, state, seen, chosen = world.reset(seed=3)[0], None, [], []
    for _ in range(4):
        torch.manual_seed(len(seen))
        action, state = trainer.agent.act(obs[None], state)
        seen.append(state.model.feature[0].numpy())
        chosen.append(action[0])
        obs = world.step(action[0])[0]
    torch.manual_seed(0)
    mine = [env.reset(seed=3)[0]]
    for i, action in enumerate(chosen[:-1], 1):
        torch.manual_seed(i)
        mine.append(env.step(action)[0])
    np.testing.assert_allclose(mine, seen, atol=1e-5)


def test_only_the_mistake_remembers_the_last_episode(trainer):
    def first_features(kind):
        env = kind(task.make_env(), trainer.agent)
        found = []
        for _ in range(2):
            torch.manual_seed(0)
            found.append(env.reset(seed=0)[0])
            for _ in range(5):
                env.step(1)
        return found

    one, two = first_features(task.FeatureEnv)
    np.testing.assert_array_equal(one, two)
    one, two = first_features(task.Forgetful)
    # is_first is not set, so that the memory h of the last episode is still there.
    assert np.abs(one - two).max() > 0.01


def test_a_record_holds_whole_episodes(trainer):
    env = task.Record(task.make_env(), trainer.replay)
    task.play_randomly(env, 60, seed=0)
    ends, returns = zip(*env.episodes)
    assert ends[-1] == env.steps >= 60
    assert sum(returns) == env.steps  # CartPole pays 1 for each step
    rows = {
        key: column[0, : trainer.replay.size[0]]
        for key, column in trainer.replay.data.items()
    }
    assert rows["is_first"].sum() == rows["is_last"].sum() == len(ends)
    assert len(rows["is_first"]) == env.steps + len(ends)


def test_the_score_is_of_the_last_fifth():
    end = task.STEPS
    run = np.array([(0.5 * end, 1.0), (0.9 * end, 20.0), (end, 40.0), (end + 1, 99.0)])
    assert task.score(run) == 30
