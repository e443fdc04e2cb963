"""The room with four doors, and what the page about it relies on."""

import numpy as np
import pytest
import torch

pytest.importorskip("minigrid")
from course.reading import ACTIONS, facing, make_doors, words

FORWARD = ACTIONS.index("forward")
NAMES = ("blue", "green", "grey", "purple", "red", "yellow")


def answer(seed, right):
    """Walk against the right door, or a wrong one: reward, ended, cut."""
    env = make_doors()
    env.reset(seed=seed)
    room, middle = env.unwrapped, np.array([2, 2])
    for look, way in enumerate(np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])):
        door = room.grid.get(*(middle + 2 * way))
        if (door.color == room.target_color) == right:
            room.agent_pos, room.agent_dir = middle + way, look
            return env.step(FORWARD)[1:4]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("right", [True, False])
def test_a_door_is_an_answer(seed, right):
    assert answer(seed, right) == (float(right), True, False)


def test_without_an_answer_an_episode_is_cut():
    env = make_doors()
    env.reset(seed=0)
    for step in range(env.steps):
        *_, reward, ended, cut, _ = env.step(ACTIONS.index("left"))
        assert (reward, ended, cut) == (0.0, False, step == env.steps - 1)


def test_blank_hides_the_mission_and_nothing_else():
    shown, hidden = make_doors().reset(seed=3)[0], make_doors(True).reset(seed=3)[0]
    assert shown["mission"].removesuffix(" door") in NAMES and hidden["mission"] == ""
    assert np.array_equal(shown["view"], hidden["view"])
    assert shown["direction"] == hidden["direction"]


@pytest.mark.parametrize("distance", [0, 1])
def test_facing_a_door(distance):
    for seed in range(8):
        obs, colour = facing(seed, "grey door", distance)
        assert make_doors().observation_space.contains(obs)
        ahead = obs["view"][1, 1 - distance]  # the agent's own cell is [1, 2]
        assert ahead[0] == 4  # MiniGrid's number of a door
        assert obs["mission"] == "grey door" and colour in NAMES


def test_words_of_logits():
    codes = torch.tensor([list(b"red door\0\0\0"), list(b"purple door")])
    logits = torch.nn.functional.one_hot(codes, 256).float()
    assert words(logits) == ["red door", "purple door"]
