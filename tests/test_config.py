"""Config: presets, validation, and files."""

import functools
import math

import numpy as np
import pytest

from dreamer_lite.config import SIZES, Config

COLUMNS = "units, deter, classes, depth, lr, critic_lr, actor_lr, warmup".split(", ")
TABLE = {
    "1m": (64, 512, 4, 16, 1e-3, 5e-4, 2e-4, 200),
    "3m": (128, 1024, 8, 16, 3e-4, 1.5e-4, 6e-5, 500),
    "12m": (256, 2048, 16, 16, 1e-4, 5e-5, 2e-5, 1000),
    "25m": (384, 3072, 24, 24, 1e-4, 5e-5, 2e-5, 1000),
    "50m": (512, 4096, 32, 32, 4e-5, 2e-5, 8e-6, 1000),
    "100m": (768, 6144, 48, 48, 4e-5, 2e-5, 8e-6, 1000),
    "200m": (1024, 8192, 64, 64, 4e-5, 2e-5, 8e-6, 1000),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_those_of_the_table(name):
    assert list(SIZES) == list(TABLE)
    expected = vars(Config()) | dict(zip(COLUMNS, TABLE[name], strict=True))
    assert vars(Config.preset(name)) == {
        field: pytest.approx(value) if type(value) is float else value
        for field, value in expected.items()
    }


def test_a_changed_lr_moves_the_other_rates_unless_they_are_given():
    config = Config.preset("3m", lr=6e-4)
    assert (config.lr, config.critic_lr) == (6e-4, 3e-4)
    assert config.actor_lr == pytest.approx(1.2e-4)
    config = Config.preset("3m", lr=6e-4, actor_lr=6e-5)
    assert (config.lr, config.critic_lr, config.actor_lr) == (6e-4, 3e-4, 6e-5)
    config = Config.preset("1m", critic_lr=1e-5)
    assert (config.lr, config.critic_lr, config.actor_lr) == (1e-3, 1e-5, 2e-4)


def test_config_survives_yaml(tmp_path):
    config = Config.preset("12m", seed=7, lr=1e-5, envs=4, parallel=True)
    config.to_yaml(tmp_path / "config.yaml")
    assert Config.from_yaml(tmp_path / "config.yaml") == config
    (tmp_path / "own.yaml").write_text("lr: 1e-4\nratio: 32\n")
    own = Config.from_yaml(tmp_path / "own.yaml")
    assert own == Config(lr=1e-4, ratio=32.0) and type(own.ratio) is float
    (tmp_path / "empty.yaml").write_text("")
    assert Config.from_yaml(tmp_path / "empty.yaml") == Config()


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(units="wide"), "expects units as int from 1 to inf, but got 'wide';"),
        (dict(units=0), "units as int from 1 .* but got 0; correct"),
        (dict(length=1), "length as int from 2"),
        (dict(lr=math.nan), "lr as float from 0 to 1, but got nan; correct"),
        (dict(lr=-1e-4), "lr as float from 0 to 1, but got -0.0001; correct"),
        (dict(lr="fast"), "lr as float .* but got 'fast'"),
        (dict(lr=1e308), "lr as float from 0 to 1, but got 1e[+]308; correct"),
        (dict(capacity=99, envs=4), "each environment, 128 rows, but got 99; raise"),
        (dict(ratio=math.inf), "ratio as float .* but got inf;"),
        (dict(steps=1e5), "steps as int"),
        (dict(parallel=1), "parallel as bool, but got 1; correct"),
        (dict(device=None), "device as str, but got None"),
        (dict(unimix=1.5), "unimix as float from 0 to 1, but got 1.5; correct"),
        (dict(seed=2**63), "seed as int from 0 to 9223372036854775807, but got"),
        (dict(critics=0), "critics as int from 1 to inf, but got 0; correct"),
        (dict(critic_reduce="max"), "to be mean or min, but got 'max'; correct"),
        (dict(deter=100), "deter 100 and blocks 8; correct one of them"),
    ],
)
def test_config_refuses_values_that_would_fail_later(changes, words):
    for make in (Config, functools.partial(Config.preset, "1m"), Config().changed):
        with pytest.raises(ValueError, match=words):
            make(**changes)


def test_config_takes_numbers_of_numpy_as_plain_ones():
    config = Config(seed=np.int64(5), lr=np.float64(1e-3), ratio=np.int32(8))
    assert config == Config(seed=5, lr=1e-3, ratio=8.0)
    kinds = [type(x) for x in (config.seed, config.lr, config.ratio)]
    assert kinds == [int, float, float]


def test_unknown_presets_are_refused():
    with pytest.raises(ValueError, match="one of 1m, 3m, .* but got 'huge'"):
        Config.preset("huge")
