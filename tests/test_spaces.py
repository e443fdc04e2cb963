"""Every kind of observation and action is stored, learnt from and acted on."""

import dataclasses
import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
import small
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text

from dreamer_lite.actor_critic import Actor
from dreamer_lite.dreamer import AgentPolicy, Collector, Dreamer
from dreamer_lite.envs import (
    DictObservation,
    build_env,
    check_fit,
    open_vector,
    random_policy,
)
from dreamer_lite.networks import Decoder, TextEncoder, scale_picture
from dreamer_lite.replay import (
    Replay,
    admit,
    decode_action,
    describe_space,
    encode_action,
    read_action,
    read_space,
    read_spaces,
    replay_bytes,
    restore_space,
    select_spaces,
)
from dreamer_lite.runs import load_what_fits

SMALL = dataclasses.replace(small.SMALL, depth=2, length=4, horizon=2, warmup=0)


def bytes_box(*shape, high=255):
    return Box(0, high, shape, np.uint8)


class Mission(gym.Space):
    """Texts without a length, as MiniGrid has them."""

    def __init__(self):
        super().__init__(dtype=str)

    def sample(self, mask=None):
        return "fetch the grüne key \u2192"

    def contains(self, x):
        return isinstance(x, str)

    def __eq__(self, other):
        return isinstance(other, Mission)


TWO = Discrete(2)
OBSERVATIONS = {
    "two dimensions": bytes_box(40, 24),
    "channels first": bytes_box(4, 20, 36),
    "floats": Box(0, 1, (17, 18)),
    "whole numbers": Box(-5, 10, (20, 20, 2), np.int16),
    "bool": Box(0, 1, (16, 16, 2), bool),
    "small grid": bytes_box(7, 7, 3),
    "two sizes": Dict(
        a=bytes_box(16, 16, 3), b=bytes_box(21, 36, 1), c=bytes_box(16, 16)
    ),
    "number": Box(-1, 1, ()),
    "table": Box(-np.inf, np.inf, (3, 4), np.float64),
    "choice": Discrete(5, start=-2),
    "grid of switches": MultiBinary((2, 3)),
    "choices": MultiDiscrete([3, 2, 7], start=[1, 0, -3]),
    "mission": Mission(),
    "tuple": gym.spaces.Tuple([Discrete(3), Box(-1, 1, (2,))]),
    "nested": Dict({"x": Dict(y=Discrete(2), type=Box(0, 1, (1,))), "a.b": TWO}),
    "all": Dict(
        camera=bytes_box(18, 20, 3), mask=bytes_box(16, 16, high=1), say=Text(9)
    ),
}
ACTIONS = {
    "choice": Discrete(3, start=1),
    "choices": MultiDiscrete([3, 2], start=[1, -1]),
    "switches": MultiBinary(3),
    "vector": Box(-2, 5, (2,)),
    "matrix": Box(-2, 5, (2, 3), np.float64),
    "number": Box(0, 3, (), np.int64),
}


class World(gym.Env):
    """Random observations of any space; refuses actions of any other form."""

    def __init__(self, obs_space, action_space=None):
        self.observation_space = obs_space
        self.action_space = action_space or Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        end = self.steps == 5
        return self.observation_space.sample(), np.array([0.5]), end, False, {}


def collected(obs_space, action_space=None, ticks=24, **changes):
    """An agent, and a replay of two environments; the second half is its own play."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, **changes)
    with open_vector(lambda: World(obs_space, action_space), 2) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        agent = Dreamer(*spaces, config)
        replay = Replay(200, agent.obs_space, agent.action_space, num_envs=2)
        by_chance = random_policy(spaces[1], np.random.default_rng(0))
        collector, own = Collector(envs, replay), AgentPolicy(agent)
        for tick in range(ticks):
            collector.tick(by_chance if tick < ticks // 2 else own)
    return agent, replay


@pytest.mark.parametrize("obs_space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_every_observation_is_learnt_from_and_acted_on(obs_space, tmp_path):
    agent, replay = collected(obs_space)
    for _ in range(2):
        metrics = agent.train_step(replay.sample(2, 4))
    assert all(torch.isfinite(value) for value in metrics.values())
    assert {f"loss/{key}" for key in agent.obs_space} <= set(metrics)
    for name, p in agent.world_model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
    memory = replay_bytes(200, agent.obs_space, agent.action_space)
    assert memory == sum(column.nbytes for column in replay.data.values())
    dream = agent.dream(replay.sample(2, 4), context=2)
    for key, field in agent.world_model.encoder.fields.items():
        if field.kind == "picture":
            assert dream[key].shape == (2, 4, *field.frame)
    agent.save(tmp_path / "agent.safetensors")
    again = Dreamer.load(tmp_path / "agent.safetensors")
    stored = {key: replay.data[key][:, 3] for key in agent.obs_space}
    memories = []
    for seen in (agent, again):  # stored rows are observations, too
        torch.manual_seed(1)
        action, state = seen.act(stored)
        memories.append(state.model.h)
        assert action.shape == (2,)
    assert torch.equal(*memories)


@pytest.mark.parametrize("action_space", ACTIONS.values(), ids=ACTIONS)
def test_every_action_is_learnt_and_reaches_the_environment(action_space):
    agent, replay = collected(Box(-1, 1, (2,)), action_space)
    for _ in range(2):
        metrics = agent.train_step(replay.sample(2, 4))
    assert all(torch.isfinite(value) for value in metrics.values())
    played = replay.data["action"][:, :24]
    last = replay.data["is_last"][:, :24]
    width = read_action(agent.action_space).width
    assert played.shape[-1] == width and not played[last].any()
    if not isinstance(action_space, Box):
        choices = len(read_action(action_space).sizes)
        assert (played[~last].sum(-1) == choices).all()


@pytest.mark.parametrize("parallel", [False, True])
def test_text_of_any_kind_passes_vector_environments(parallel):
    with open_vector(make_world, 2, parallel=parallel) as envs:
        seen = [envs.reset()[0]]
        seen += [envs.step(np.zeros(2, int))[0] for _ in range(2)]
    assert {text for obs in seen for text in obs["task"]} == {Mission().sample()}
    assert len({name for obs in seen for name in obs["name"]}) > 3


def make_world():
    return World(Dict(task=Mission(), name=Text(5, charset="abc")))


# What is learnt, not only computed


@pytest.mark.parametrize(
    "space, text_keys, least",
    [
        (bytes_box(16, 16, 1, high=1), "", 0.7),
        (Text(8), "", 0.5),
        (bytes_box(10, high=90), "obs", 0.5),
        (MultiDiscrete([4, 3, 9]), "", 0.5),
        (MultiBinary(12), "", 0.5),
    ],
    ids=["mask", "text", "declared text", "choices", "switches"],
)
def test_one_batch_is_learnt_by_heart(space, text_keys, least):
    agent, replay = collected(space, lr=3e-3, text_keys=text_keys, units=32)
    batch = replay.sample(2, 4)
    if batch["obs"].ndim == 5:  # noise cannot be drawn, a half can
        batch["obs"][:] = np.arange(16)[:, None, None] < 8
    losses = [float(agent.train_step(batch)["loss/obs"]) for _ in range(40)]
    assert min(losses[-10:]) < least * losses[0]


def test_a_mask_weighs_as_much_as_a_frame():
    """Divided by 255, as bytes are, it would be black for every loss."""
    mask, frame = bytes_box(16, 16, 1, high=1), bytes_box(16, 16, 1)
    losses = []
    for space, high in ((mask, 1), (frame, 255)):
        torch.manual_seed(0)
        sizes = dict(deter=16, stoch=8, depth=2, units=16, blocks=4)
        decoder = Decoder(Dict(a=space), **sizes)
        value = torch.zeros(16, 16, 1, dtype=torch.uint8)
        value[4:9] = high
        losses.append(decoder.loss(decoder(torch.ones(1, 24)), {"a": value[None]})["a"])
    assert torch.equal(*losses)


def test_only_real_pixels_count_in_a_padded_picture():
    sizes = dict(deter=16, stoch=8, depth=2, units=16, blocks=4)
    decoder = Decoder(Dict(a=bytes_box(20, 33, 3)), **sizes)
    recon = decoder(torch.randn(2, 24))
    assert recon["a"].shape == (2, 20, 33, 3)
    assert decoder.conv(torch.zeros(1, *decoder.grid)).shape[-2:] == (32, 48)


# Numbers


def test_pictures_are_scaled_and_turned_by_their_space():
    first = read_space(bytes_box(3, 20, 24))
    assert first.frame == (20, 24, 3)
    value = torch.arange(3)[:, None, None].expand(3, 20, 24).byte()
    assert torch.equal(scale_picture(first, value)[4, 5] * 255, torch.arange(3.0))
    signed = read_space(Box(-1, 1, (16, 16, 1)))
    ends = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 16, 16, 1)
    assert scale_picture(signed, ends)[:, 0, 0, 0].tolist() == [0, 1]


KINDS = {
    "picture": [
        bytes_box(64, 64, 3),
        bytes_box(16, 16),
        Box(0, 1, (16, 20)),
        bytes_box(4, 84, 84),
        Box(-1, 1, (32, 32, 3)),
        Box(0, 9, (16, 16, 5), np.int64),
    ],
    "vector": [
        bytes_box(7, 7, 3),
        bytes_box(128),
        Box(-1, 1, (20, 20)),
        Box(0, 9, (30, 30), np.int8),
        bytes_box(3, 64, 3),
        Box(-np.inf, np.inf, ()),
    ],
    "choices": [Discrete(2), MultiDiscrete([2, 3]), MultiBinary(4)],
    "text": [Text(3), Mission()],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_counts_as_what(kind):
    assert {read_space(space).kind for space in KINDS[kind]} == {kind}


def test_text_becomes_bytes():
    fields = read_spaces(Dict(a=Text(4)))
    for text, stored in {
        "ab": b"ab\0\0",
        "": b"\0" * 4,
        "abcdef": b"abcd",
        "ü\u2192": b"\xfc?\0\0",
    }.items():
        assert admit(fields, {"a": text})["a"].tobytes() == stored
    batch = admit(fields, {"a": ("x", "yz")}, lead=1)["a"]
    assert batch.tolist() == [[120, 0, 0, 0], [121, 122, 0, 0]]
    numbers = np.array([[65, 300], [-1, 66]])
    assert admit(fields, {"a": numbers})["a"].tobytes() == b"A??B"


def test_a_text_is_read_up_to_its_end_and_in_order():
    torch.manual_seed(0)
    reader = TextEncoder(16)
    lines = [b"red door", b"door red", b""]
    text = torch.tensor([list(line.ljust(16, b"\0")) for line in lines]).byte()
    read = reader(text)
    assert torch.allclose(read[:1], reader(text[:1, :8]), atol=1e-5)
    assert not torch.allclose(read[0], read[1], atol=1e-2)
    assert torch.isfinite(read).all()


def test_several_choices_are_one_hots_side_by_side():
    field = read_action(MultiDiscrete([3, 2], start=[1, -1]))
    vector = encode_action(field, [3, -1])
    assert vector.tolist() == [0, 0, 1, 1, 0]
    assert encode_action(field, vector).tolist() == vector.tolist()
    assert decode_action(field, vector[None]).tolist() == [[3, -1]]
    one = read_action(Discrete(3, start=1))
    assert decode_action(one, np.eye(3)).tolist() == [1, 2, 3]


def test_several_choices_are_drawn_as_often_as_they_are_likely():
    torch.manual_seed(0)
    actor = Actor(4, MultiDiscrete([2, 3]), units=8, unimix=0.0)
    torch.nn.init.normal_(actor.mlp[-1].weight)
    feature = torch.ones(20_000, 4)
    action = actor.sample(feature)
    log_prob, entropy = actor.evaluate(feature, action)
    parts = actor.mlp(feature[:1]).split([2, 3], -1)
    apart = [torch.distributions.Categorical(logits=part) for part in parts]
    expected = torch.cat([one.probs[0] for one in apart])
    assert torch.allclose(action.mean(0), expected, atol=0.02)
    by_hand = apart[0].log_prob(action[:, :2].argmax(-1))
    by_hand = by_hand + apart[1].log_prob(action[:, 2:].argmax(-1))
    assert torch.allclose(log_prob, by_hand, atol=1e-5)
    assert torch.allclose(entropy[0], sum(one.entropy()[0] for one in apart), atol=1e-5)


# Arrays in other forms


@pytest.mark.parametrize(
    "change",
    [np.asfortranarray, lambda x: x.repeat(2, 1)[:, ::2]],
    ids=["columns first", "strided"],
)
def test_pictures_in_any_order_of_memory_are_acted_on(change):
    agent = Dreamer(bytes_box(16, 16, 3), Discrete(2), SMALL)
    picture = np.random.default_rng(0).integers(
        256, size=(2, 16, 16, 3), dtype=np.uint8
    )
    actions = []
    for seen in (picture, change(picture), np.flip(np.flip(picture, 2).copy(), 2)):
        torch.manual_seed(0)
        actions.append(agent.act({"obs": seen})[1].model.h)
    assert torch.equal(actions[0], actions[1]) and torch.equal(actions[0], actions[2])


@pytest.mark.parametrize("kind", [">f8", "longdouble", "float16", "int64"])
def test_numbers_of_every_kind_are_stored_and_acted_on_alike(kind):
    space = Dict(obs=Box(-9, 9, (3,)))
    now = np.array([[1, 0, 2]] * 2)
    agent, replay = Dreamer(space, Discrete(2), SMALL), Replay(4, space, Discrete(2))
    states = []
    for seen in (now.astype(np.float32), now.astype(kind)):
        torch.manual_seed(0)
        states.append(agent.act({"obs": seen})[1].model.h)
        replay.add(0, {"obs": seen[0]}, 1, 0.0, True, False, False)
    assert torch.equal(*states)
    assert (replay.data["obs"][0, 0] == replay.data["obs"][0, 1]).all()


# Keys, files, fits


def test_keys_are_chosen_by_names_and_patterns():
    space = Dict(
        {"cam/left": bytes_box(16, 16), "cam/right": bytes_box(16, 16), "x": Text(3)}
    )
    assert list(select_spaces(space, "cam/*")) == ["cam/left", "cam/right"]
    assert list(select_spaces(space, "x, cam/l*")) == ["cam/left", "x"]
    assert select_spaces(space, "cam/left", "*")["cam/left"].max_length == 256
    with pytest.raises(ValueError, match="among .*'x'.* but none .* 'y'; correct"):
        select_spaces(space, "y")


def test_an_agent_leaves_out_keys_that_it_could_not_read():
    space = Dict(x=Box(-1, 1, (2,)), graph=gym.spaces.Graph(Discrete(2), None))
    agent, replay = collected(space, obs_keys="x")
    assert list(agent.obs_space) == ["x"]
    agent.train_step(replay.sample(2, 4))
    check_fit(agent, build_env(lambda: World(space)))


SPACES = [
    Discrete(4, start=-2),
    MultiDiscrete([2, 5], start=[0, 3]),
    MultiBinary(3),
    MultiBinary((2, 2)),
    bytes_box(4, 4, 3),
    Box(-np.inf, np.inf, (3,), np.float32),
    Box(np.float32([-1, 0.1]), np.float32([1, 7.3])),
    Box(-2, 2, (), np.float64),
    Box(np.arange(6).reshape(2, 3), 10, (2, 3), np.int64),
    Text(7),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json(space):
    again = restore_space(json.loads(json.dumps(describe_space(space))))
    assert again == space


@pytest.mark.parametrize(
    "other",
    [Discrete(3, start=1), Discrete(4), MultiDiscrete([3]), Box(-1, 1, (3,)), Text(3)],
    ids=str,
)
def test_an_agent_is_not_given_another_space(other):
    agent = Dreamer(Discrete(3), Discrete(2), SMALL)
    check_fit(agent, build_env(lambda: World(Discrete(3))))
    with pytest.raises(ValueError, match="'obs' as it knows it, .* but got"):
        check_fit(agent, build_env(lambda: World(other)))


def test_a_new_agent_begins_with_the_weights_that_fit(tmp_path):
    seen = {"camera": bytes_box(16, 16, 3), "speed": Box(-1, 1, (2,))}
    old = Dreamer(Dict(seen), Discrete(2), SMALL)
    old.save(tmp_path / "old.safetensors")
    new = Dreamer(Dict(seen | {"speed": Box(-1, 1, (3,))}), Discrete(4), SMALL)
    with pytest.warns(UserWarning) as said:
        load_what_fits(new, tmp_path / "old.safetensors")
    left = str(said[0].message).partition("there: ")[2].rstrip(".").split(", ")
    assert left == [
        "actor_critic.actor.mlp.9",
        "world_model.decoder.heads.speed",
        "world_model.encoder.mlp.0",
        "world_model.rssm.from_a.0",
    ]
    for name, weight in new.state_dict().items():
        if name.rpartition(".")[0] not in left:
            assert torch.equal(weight, old.state_dict()[name]), name
    again = Dreamer(Dict(seen), Discrete(2), SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_what_fits(again, tmp_path / "old.safetensors")


# Refusals


def test_a_refusal_lists_everything_with_its_cure():
    spaces = {
        "action": Discrete(2),
        "depth": Box(0, np.inf, (20, 20, 1)),
        "four": bytes_box(4, 20, 20, 3),
        "inner": Dict(x=Discrete(2)),
        "list": gym.spaces.Sequence(Discrete(2)),
        "right": Discrete(2),
    }
    with pytest.raises(TypeError) as error:
        read_spaces(Dict(spaces))
    said = str(error.value)
    for name, cure in {
        "action": "rename it",
        "depth": "lowest and highest value",
        "inner": "flatten",
        "four": "frames as channels",
        "list": "TransformObservation",
    }.items():
        assert f"'{name}' is" in said and cure in said
    assert "right" not in said and "\n" not in said
    with pytest.raises(TypeError, match=r"as a gymnasium.spaces.Dict, .* Dict\(obs=sp"):
        read_spaces(Discrete(2))
    for space in (Text(3), Dict(a=Discrete(2)), Box(-1, 1, (2, 2))):
        with pytest.raises(TypeError, match="acts in .*; wrap"):
            read_action(space)


@pytest.mark.parametrize("lead", [0, 1])
def test_all_values_that_do_not_fit_are_named(lead):
    spaces = Dict(
        camera=bytes_box(16, 16, 3),
        mask=bytes_box(16, 16, high=1),
        text=Text(3),
        door=Discrete(5),
        levers=MultiDiscrete([2, 3]),
        speed=Box(-1, 1, (2,)),
    )
    fields = read_spaces(spaces)
    right = {
        "camera": np.zeros((16, 16, 3), np.uint8),
        "mask": np.ones((16, 16), np.uint8),
        "text": "abc",
        "door": 4,
        "levers": [1, 2],
        "speed": [0.5, 7.0],
        "more": None,
    }
    wrong = right | {
        "camera": right["camera"] / 255,
        "mask": 2 * right["mask"],
        "door": 9,
        "levers": [1, 3],
        "speed": [0.0, np.inf],
    }
    del wrong["text"]
    if lead:
        right, wrong = (
            {
                k: [v] * 2 if isinstance(v, str) else np.array([v] * 2)
                for k, v in row.items()
            }
            for row in (right, wrong)
        )
    assert list(admit(fields, right, lead)) == list(fields)
    with pytest.raises(ValueError) as error:
        admit(fields, wrong, lead)
    said = str(error.value)
    for words in (
        "'camera' is float64",
        "'mask' holds 2,",
        "'text' is missing",
        "'door' holds 9,",
        "'levers' holds 3,",
        "'speed' holds inf,",
    ):
        assert words in said
    assert "\n" not in said


class Broken(World):
    """An environment whose resets break its own promise."""

    def __init__(self, space, first):
        super().__init__(space)
        self.first = first

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.first, {}


@pytest.mark.parametrize(
    "space, first, said",
    [
        (Box(-1, 1, (3,)), np.zeros(4, np.float32), r"'obs' is float32 of shape \[4\]"),
        (Discrete(3), 7, "'obs' holds 7"),
        (bytes_box(16, 16), np.zeros((16, 16)), "'obs' is float64"),
        (Dict(a=Discrete(2), b=Discrete(2)), {"a": 1}, "'b' is missing"),
        (gym.spaces.Tuple([Discrete(2), Discrete(2)]), (1, 2), "'1' holds 2"),
    ],
)
def test_a_reset_that_does_not_fit_its_space_is_refused(space, first, said):
    with pytest.raises(ValueError, match=said):
        build_env(lambda: Broken(space, first)).reset()


def test_nested_observations_are_flattened_by_their_path():
    space = Dict(a=Dict(b=Discrete(2), c=gym.spaces.Tuple([Discrete(3), Text(2)])))
    env = DictObservation(Broken(space, {"a": {"b": 1, "c": (2, "xyz")}}))
    assert list(env.observation_space) == ["a/b", "a/c/0", "a/c/1"]
    assert env.reset()[0] == {"a/b": 1, "a/c/0": 2, "a/c/1": "xyz"}
