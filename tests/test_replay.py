"""The replay returns rows as they were lived, in windows that are consecutive."""

import json
import os
import pickle
import zipfile

import gymnasium as gym
import numpy as np
import pytest

from dreamer_lite import replay as replay_module
from dreamer_lite.dreamer import Collector
from dreamer_lite.replay import (
    Replay,
    draw_windows,
    replay_bytes,
)

NUMBER = gym.spaces.Dict(n=gym.spaces.Box(-np.inf, np.inf, (), np.float32))
TWO = gym.spaces.Discrete(2)
PICTURES = gym.spaces.Dict(
    left=gym.spaces.Box(0, 255, (16, 16, 3), np.uint8),
    right=gym.spaces.Box(0, 255, (16, 32, 1), np.uint8),
    speed=gym.spaces.Box(-1, 1, (), np.float32),
    lives=gym.spaces.Discrete(4),
)


def fill(replay, env, numbers, every=5):
    """Add rows whose observation, reward and action name their number."""
    for n in numbers:
        first, last = n % every == 0, n % every == every - 1
        replay.add(env, {"n": np.float32(n)}, n % 2, n, first, last, last)
    return replay


def rings(capacity, counts, seed=0):
    """A replay with `counts[i]` rows written to stream i, numbered from 1000 * i."""
    replay = Replay(capacity, NUMBER, TWO, num_envs=len(counts), seed=seed)
    for env, count in enumerate(counts):
        fill(replay, env, range(1000 * env, 1000 * env + count))
    return replay


def contents(replay):
    return {key: column.copy() for key, column in replay.data.items()}, list(
        replay.head
    )


class LastAction(gym.Env):
    """The observation counts steps; an episode ends after a number of them."""

    observation_space, action_space = NUMBER, gym.spaces.Discrete(100)

    def __init__(self, length=3, cut=False):
        self.length, self.cut = length, cut

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return {"n": np.float32(-1)}, {}

    def step(self, action):
        self.steps += 1
        end = self.steps == self.length
        obs = {"n": np.float32(action)}
        return obs, 10.0 * action, end and not self.cut, end and self.cut, {}


# Windows


@pytest.mark.parametrize("counts", [(8,), (9,), (23,), (100,), (40, 8, 11), (3, 21)])
@pytest.mark.parametrize("length", [2, 5, 8])
def test_windows_never_straddle_the_write_head(counts, length):
    replay = rings(8 * len(counts), counts)
    n = replay.sample(500, length)["n"]
    assert n.shape == (500, length)
    assert (np.diff(n, axis=1) == 1).all(), "a window runs over the seam"
    newest = {1000 * env + count - 1 for env, count in enumerate(counts)}
    oldest = {1000 * env + max(0, count - 8) for env, count in enumerate(counts)}
    able = [count >= length for count in counts]
    assert n.max() == max(x for x, ok in zip(sorted(newest), able) if ok)
    assert n.min() == min(x for x, ok in zip(sorted(oldest), able) if ok)


def test_every_place_of_the_head_is_safe():
    """After each single row, over three rounds of the ring, with all windows drawn."""
    replay = Replay(7, NUMBER, TWO)
    for n in range(25):
        fill(replay, 0, [n])
        if n < 3:
            continue
        seen = replay.sample(200, 4)["n"]
        assert (np.diff(seen) == 1).all()
        assert set(seen[:, 0]) == set(range(max(0, n - 6), n - 2))


def test_all_starts_are_equally_likely():
    replay = rings(24, (8, 20, 5))
    first = replay.sample(30_000, 3)["n"][:, 0]
    values, counts = np.unique(first, return_counts=True)
    wanted = [*range(6), *range(1012, 1018), *range(2000, 2003)]
    assert values.tolist() == wanted
    expected = 30_000 / len(wanted)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 36.1  # 14 degrees of freedom, exceeded once in 1,000


def test_a_window_may_be_as_long_as_the_ring():
    replay = rings(8, (13,))
    assert replay.sample(1, 8)["n"].tolist() == [list(range(5, 13))]


def test_streams_that_are_too_short_are_not_drawn_from():
    rng, size = np.random.default_rng(0), np.array([3, 2])
    ring, _ = draw_windows(size, size, 8, 200, 3, rng)
    assert (ring == 0).all()


def test_too_few_rows_say_how_many_there_are():
    with pytest.raises(ValueError, match="at least 4 rows.*longest holds 3"):
        rings(8, (3,)).sample(2, 4)


# Flags and actions


def test_first_row_of_a_window_is_a_first_row():
    replay = rings(20, (20,))
    window = replay.sample(300, 6)
    assert window["is_first"][:, 0].all()
    inside = window["n"][:, 1:] % 5 == 0
    assert (window["is_first"][:, 1:] == inside).all()


def test_a_row_before_a_first_row_is_a_last_row():
    replay = Replay(10, NUMBER, TWO)
    for n in range(10):  # a run that was cut off after row 3: nobody wrote is_last
        replay.add(0, {"n": np.float32(n)}, 1, 0.0, n in (0, 4), False, False)
    window = replay.sample(200, 5)
    for n, last in zip(window["n"], window["is_last"], strict=True):
        assert last.tolist() == [x == 3 and i < 4 for i, x in enumerate(n)]
    assert not window["is_terminal"].any()


def test_repairing_flags_leaves_the_memory_alone():
    replay = rings(20, (20,))
    before, _ = contents(replay)
    window = replay.sample(50, 5)
    for key in window:
        window[key][:] = 0
    assert all((replay.data[key] == before[key]).all() for key in before)


def test_action_of_a_last_row_is_zero():
    replay = Replay(4, NUMBER, gym.spaces.Discrete(3, start=1))
    for n, last in enumerate([False, True, False]):
        replay.add(0, {"n": np.float32(n)}, 2, 0.0, n != 1, last, False)
    assert replay.data["action"][0, :3].tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_box_actions_are_kept_as_they_were_sampled():
    box = gym.spaces.Box(-1, 1, (2,))
    replay = Replay(2, NUMBER, box)
    replay.add(0, {"n": np.float32(0)}, np.array([1.5, -0.25]), 0.0, True, False, False)
    assert replay.data["action"][0, 0].tolist() == [1.5, -0.25]


def test_rows_come_back_as_they_were_stored():
    replay = rings(10, (10,))
    window = replay.sample(100, 4)
    assert (window["reward"] == window["n"]).all()
    assert (window["is_terminal"] == (window["n"] % 5 == 4)).all()
    jumped = (window["n"] % 2 == 1) & ~window["is_terminal"]
    assert (window["action"][..., 1] == jumped).all()
    assert window["reward"].dtype == window["action"].dtype == np.float32


# Episodes under vectorised autoreset


def collect(lengths, ticks, cut=False):
    """Rows of several games that end after `lengths` steps; actions count upwards."""
    factories = [lambda k=k: LastAction(k, cut) for k in lengths]
    mode = gym.vector.AutoresetMode.NEXT_STEP
    envs = gym.vector.SyncVectorEnv(factories, autoreset_mode=mode)
    space = gym.spaces.Discrete(100)
    replay = Replay(ticks * len(lengths), NUMBER, space, num_envs=len(lengths))
    collector = Collector(envs, replay)
    clock = iter(range(1, ticks + 1))

    def policy(obs, first):
        return np.full(len(lengths), next(clock))

    reports = [r for _ in range(ticks) for r in collector.tick(policy)]
    return replay, reports


@pytest.mark.parametrize("cut", [False, True])
def test_the_final_observation_of_an_episode_is_kept(cut):
    replay, reports = collect((3, 5), ticks=12, cut=cut)
    for env, length in enumerate((3, 5)):
        n, reward = replay.data["n"][env], replay.data["reward"][env]
        first, last = replay.data["is_first"][env], replay.data["is_last"][env]
        period = np.arange(12) % (length + 1)  # L steps are L + 1 rows
        assert (first == (period == 0)).all()
        assert (last == (period == length)).all()
        assert (replay.data["is_terminal"][env] == (last & (not cut))).all()
        # The frame after the last action, with its reward, is there.
        previous = np.arange(12)
        assert (n == np.where(first, -1, previous)).all()
        assert (reward == np.where(first, 0, 10 * previous)).all()
    assert [r["length"] for r in reports if r["env"] == 0] == [3, 3, 3]


def test_the_stored_action_leads_to_the_next_observation():
    replay, _ = collect((4,), ticks=40)
    window = replay.sample(64, 8)
    action = window["action"].argmax(-1)
    goes_on = ~window["is_last"][:, :-1]
    assert (window["n"][:, 1:][goes_on] == action[:, :-1][goes_on]).all()
    assert (window["action"][window["is_last"]] == 0).all()


# Spaces and memory


def test_several_pictures_scalars_and_choices():
    replay = Replay(6, PICTURES, TWO, num_envs=2)
    rng = np.random.default_rng(0)
    rows = []
    for n in range(3):
        row = {key: PICTURES[key].sample() for key in PICTURES.keys()}
        row["left"] = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
        rows.append(row)
        replay.add(1, row, 0, 0.0, n == 0, False, False)
    window = replay.sample(2, 3)
    for key in PICTURES.keys():
        wanted = np.stack([row[key] for row in rows])
        assert (window[key] == wanted).all()
    assert window["speed"].shape == window["lives"].shape == (2, 3)
    assert window["left"].dtype == np.uint8


def test_memory_is_predicted_to_the_byte():
    for spaces in ((PICTURES, TWO), (NUMBER, gym.spaces.Box(-1, 1, (3,)))):
        replay = Replay(100, *spaces, num_envs=4)
        assert replay_bytes(100, *spaces) == sum(x.nbytes for x in replay.data.values())
    screen = gym.spaces.Dict(obs=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
    assert replay_bytes(1_000_000, screen, gym.spaces.Discrete(5)) == 12_315_000_000


# On disk


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("counts", [(5, 3), (30, 11)])
def test_a_saved_replay_goes_on_as_if_nothing_had_happened(tmp_path, compress, counts):
    replay = rings(16, counts, seed=3)
    replay.sample(5, 2)
    replay.save(tmp_path / "replay.npz", compress=compress)
    loaded = Replay.load(tmp_path / "replay.npz")
    assert loaded.rows == replay.rows and len(loaded) == len(replay)
    assert loaded.obs_space == NUMBER and loaded.action_space == TWO
    for _ in range(3):  # the same next samples, from the same random state
        mine, theirs = replay.sample(8, 3), loaded.sample(8, 3)
        for key in mine:
            assert (mine[key] == theirs[key]).all()
            assert mine[key].dtype == theirs[key].dtype
    for twin in (replay, loaded):
        fill(twin, 0, range(500, 507))
    assert (replay.data["n"] == loaded.data["n"]).all()
    assert (replay.head == loaded.head).all() and (replay.size == loaded.size).all()


def test_a_look_with_its_own_random_numbers_changes_nothing():
    one, two = rings(16, (30,)), rings(16, (30,))
    one.sample(16, 4, np.random.default_rng(5))
    assert (one.sample(16, 4)["n"] == two.sample(16, 4)["n"]).all()


def test_no_pickle_is_written_or_read(tmp_path, monkeypatch):
    replay = rings(16, (30,))
    monkeypatch.setattr(pickle, "dump", None)
    monkeypatch.setattr(pickle, "load", None)
    replay.save(tmp_path / "replay.npz")
    Replay.load(tmp_path / "replay.npz")


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    path, trace = tmp_path / "replay.npz", tmp_path / "trace"
    rings(16, (30,)).save(path)
    with np.load(path) as file:
        np.savez(path, **dict(file) | {"reward": np.array([Trap(trace)])})
    with pytest.raises(ValueError, match="damaged or not a replay.*; record it again"):
        Replay.load(path)
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as file:
        file["reward"]
    assert trace.exists()


# Bad input


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none at .*nowhere.npz; record"):
        Replay.load(tmp_path / "nowhere.npz")


def spoil_end(path):
    path.write_bytes(path.read_bytes()[:-100])


def spoil_middle(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    path.write_bytes(data)


def spoil_format(path):
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads(str(arrays["meta"])) | {"format": "somebody-else-1"}
    np.savez(path, **arrays | {"meta": json.dumps(meta)})


SPOILED = {
    "cut": spoil_end,
    "bytes changed": spoil_middle,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a replay"),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"obs": [1, 2]})),
    "one array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "other arrays": lambda path: np.savez(path, x=np.zeros(3)),
    "other zip": lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "a"),
    "other format": spoil_format,
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_damaged_file_or_another_one_is_refused(tmp_path, spoil, compress):
    path = tmp_path / "replay.npz"
    rings(64, (60,)).save(path, compress=compress)
    spoil(path)
    with pytest.raises(
        ValueError, match="damaged or not a replay.*; record it again"
    ) as e:
        Replay.load(path)
    assert "\n" not in str(e.value) and str(path) in str(e.value)


def test_no_more_is_unpacked_than_the_replay_holds(tmp_path):
    path = tmp_path / "replay.npz"
    rings(64, (60,)).save(path)
    with np.load(path) as file:
        arrays = dict(file) | {"reward": np.zeros((1, 10**6), np.float32)}
    np.savez_compressed(path, **arrays)
    with pytest.raises(ValueError, match="reward has more rows than the replay"):
        Replay.load(path)


@pytest.mark.parametrize("fails", ["write", "sync", "rename"])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "replay.npz"
    rings(16, (5,)).save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def half(file, **arrays):
        file.write(b"half of a file")
        full()

    name = {"write": "savez", "sync": "fsync", "rename": "replace"}[fails]
    where = replay_module.np if fails == "write" else replay_module.os
    monkeypatch.setattr(where, name, half if fails == "write" else full)
    with pytest.raises(OSError, match="No space left"):
        rings(16, (9,)).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["replay.npz"]


BAD_ROWS = {
    "missing key": ({}, 0, "'n' is missing among"),
    "shape": ({"n": np.zeros(1, np.float32)}, 0, r"'n' is float32 of shape \[1\]"),
    "dtype": ({"n": np.complex64(1)}, 0, "'n' is complex64"),
    "text": ({"n": "three"}, 0, "'n' is <U5"),
    "no such action": ({"n": np.float32(0)}, 2, "'action' holds 2, .*from 0 to 1"),
    "negative action": ({"n": np.float32(0)}, -1, "'action' holds -1, .*from 0 to 1"),
    "action's shape": ({"n": np.float32(0)}, np.zeros(3), "'action' is float64"),
    "nan": ({"n": np.float32("nan")}, 0, "'n' holds nan, .*finite"),
    "infinite": ({"n": np.float32("-inf")}, 0, "'n' holds -inf, .*finite"),
    "too large": ({"n": np.float64(1e300)}, 0, r"'n' holds 1e\+300, .*finite"),
    "action's nan": ({"n": np.float32(0)}, [0, np.nan], "'action' holds nan"),
}


def test_a_picture_of_floats_is_looked_at_like_any_other_value():
    space = gym.spaces.Box(0, 255, (16, 16, 3), np.float32)
    replay = Replay(16, gym.spaces.Dict(screen=space), TWO, num_envs=1)
    screen = np.full(space.shape, 255, np.float32)
    replay.add(0, {"screen": screen}, 0, 0.0, True, False, False)
    for bad in (np.nan, 256):
        screen[3, 4, 1] = bad
        with pytest.raises(ValueError, match=f"'screen' holds {bad}"):
            replay.add(0, {"screen": screen}, 0, 0.0, False, False, False)
    assert len(replay) == 1


def test_choices_and_vectors_may_be_bytes():
    space = gym.spaces.Dict(
        tools=gym.spaces.MultiDiscrete([3, 4]),
        speed=gym.spaces.Box(0, 255, (2,), np.uint8),
    )
    replay = Replay(16, space, TWO, num_envs=1)
    row = {"tools": np.array([2, 3], np.uint8), "speed": np.array([0, 255])}
    replay.add(0, row, 0, 0.0, True, False, False)
    assert replay.data["tools"][0, 0].tolist() == [2, 3]
    for key, bad in (("tools", [2, 4]), ("speed", [0, 256])):
        said = f"'{key}' holds {bad[1]}, where the space has numbers from"
        with pytest.raises(ValueError, match=said):
            replay.add(0, row | {key: np.array(bad)}, 0, 0.0, False, False, False)


def test_a_text_that_is_none_is_named():
    space = gym.spaces.Dict(task=gym.spaces.Text(9))
    replay = Replay(16, space, TWO, num_envs=1)
    with pytest.raises(ValueError, match="'task' is object of shape"):
        replay.add(0, {"task": None}, 0, 0.0, True, False, False)


@pytest.mark.parametrize("case", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_refused_and_nothing_is_stored(case):
    obs, action, said = case
    replay = rings(16, (5,))
    before, head = contents(replay)
    with pytest.raises(ValueError, match=said) as error:
        replay.add(0, obs, action, 0.0, False, False, False)
    assert "\n" not in str(error.value)
    after, head_after = contents(replay)
    assert head == head_after and len(replay) == 5
    assert all((after[key] == before[key]).all() for key in before)


@pytest.mark.parametrize("reward", [np.nan, np.inf, [1.0]])
def test_a_reward_that_is_no_finite_number_is_refused(reward):
    replay = rings(16, (5, 5))
    with pytest.raises(ValueError, match="'reward' (holds|is)"):
        replay.add(1, {"n": np.float32(0)}, 0, reward, False, False, False)
    assert len(replay) == 10


def test_float_pictures_are_refused_by_a_uint8_space():
    replay = Replay(4, PICTURES, TWO)
    row = {key: space.sample() for key, space in PICTURES.items()}
    row["left"] = row["left"].astype(np.float32) / 255
    with pytest.raises(ValueError, match="'left' is float32 .* has uint8"):
        replay.add(0, row, 0, 0.0, True, False, False)


def test_a_replay_without_room_for_each_stream():
    with pytest.raises(ValueError, match="at least one row for each of the 3"):
        Replay(2, NUMBER, TWO, num_envs=3)
