"""Config: every number that a run depends on, in one dataclass, with presets by size.

Notebook 09 shows it. The comment beside a field is also its help on the command line.
"""

import contextlib
import math
import operator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Config:
    """Every number that a run depends on."""

    # The model
    deter: int = 1024  # width of the deterministic state h
    units: int = 128  # width of every hidden layer
    latents: int = 32  # number of categoricals in the stochastic state z
    classes: int = 8  # choices of each categorical
    depth: int = 16  # channels of the first convolution
    blocks: int = 8  # blocks of the block-diagonal layers
    unimix: float = 0.01  # share of the uniform distribution in the categoricals of z
    obs_keys: str = "*"  # observations to read, names or patterns, comma-separated
    text_keys: str = ""  # those among them whose whole numbers are characters
    # Learning
    lr: float = 3e-4  # learning rate of the world model
    critic_lr: float = 1.5e-4  # learning rate of the critic
    actor_lr: float = 6e-5  # learning rate of the actor
    warmup: int = 500  # updates over which the learning rates rise from 0
    anneal: float = 0.0  # last share of steps, in which the rates fall to a twentieth
    clip: float = 0.3  # adaptive gradient clipping, as a share of a tensor's norm
    batch: int = 16  # sequences in a batch
    length: int = 32  # rows in a sequence
    free_nats: float = 1.0  # a KL below this many nats does not count
    dyn_scale: float = 1.0  # weight of the KL that trains the prior
    rep_scale: float = 0.1  # weight of the KL that trains the posterior
    vector_scale: float = 1.0  # weight of the error of each vector that is observed
    # Behaviour
    horizon: int = 15  # imagined steps
    dream_share: float = 1.0  # share of a batch's sequences that dreams begin in
    discount: float = 1 - 1 / 333  # factor for a reward that comes one step later
    lam: float = 0.95  # lambda of the lambda-return
    actor_unimix: float = 0.01  # share of the uniform distribution in every choice
    entropy: float = 3e-4  # weight of the actor's entropy
    entropy_end: float = 0.0  # what it becomes in the share of anneal; 0: it stays
    slow_rate: float = 0.02  # rate at which the slow critic follows the critic
    replay_scale: float = 0.3  # weight of the critic's loss on replayed rows
    critics: int = 1  # number of critics, which differ in their first weights
    critic_reduce: str = "mean"  # how the values of several become one: mean, min
    # The run
    envs: int = 1  # environments side by side
    parallel: bool = False  # give each environment a process of its own
    steps: int = 100_000  # agent steps in total
    minutes: float = 0.0  # time limit of one call; 0: run until all steps are done
    prefill: int = 1_000  # agent steps with random actions before learning starts
    ratio: float = 64.0  # rows replayed for each agent step
    capacity: int = 100_000  # rows in the replay
    seed: int = 0  # seed of everything random
    log_every: int = 50  # updates between two rows of metrics
    checkpoint_minutes: float = 5.0  # minutes between two checkpoints
    video_minutes: float = 10.0  # minutes between two videos
    # The machine
    device: str = "auto"  # auto, cpu, cuda (mps is taken, but was never tried)
    precision: str = "auto"  # auto, fp32, bf16, fp16
    speed: str = "eager"  # eager, compile (torch.compile), graph (CUDA graph), auto

    def __post_init__(self):
        for field in fields(self):
            name, kind, value = field.name, field.type, getattr(self, field.name)
            low, high = LIMITS.get(name, (0, math.inf))
            span, fits = f" from {low} to {high}", isinstance(value, kind)
            if kind in (str, bool):
                span = ""
            else:
                with contextlib.suppress(TypeError, ValueError):
                    # YAML reads 1e-4 as text; operator.index keeps fractions out.
                    value = float(value) if kind is float else operator.index(value)
                    fits = low <= value <= high and value < math.inf
            if not fits:
                raise ValueError(
                    f"Config expects {name} as {kind.__name__}{span}, but got "
                    f"{value!r}; correct that field."
                )
            object.__setattr__(self, name, value)
        if self.deter % self.blocks:
            raise ValueError(
                "Config expects deter to be a multiple of blocks, but got deter "
                f"{self.deter} and blocks {self.blocks}; correct one of them."
            )
        if self.critic_reduce not in ("mean", "min"):
            raise ValueError(
                "Config expects critic_reduce to be mean or min, but got "
                f"{self.critic_reduce!r}; correct that field."
            )
        if self.capacity < self.envs * self.length:
            raise ValueError(
                "Config expects capacity to hold a sequence of each environment, "
                f"{self.envs * self.length} rows, but got {self.capacity}; raise it."
            )

    @classmethod
    def preset(cls, name, **changes):
        """The configuration of a nominal size, with `changes` to single fields.

        A changed `lr` also moves `critic_lr` (half of it) and `actor_lr` (a fifth),
        unless they are given.

        Args:
            name: 1m, 3m, 12m, 25m, 50m, 100m or 200m.
            **changes: fields and their values.

        Raises:
            ValueError: for another name or field, or a value out of range.
        """
        if name not in SIZES:
            raise ValueError(
                f"Config.preset expects one of {', '.join(SIZES)}, but got {name!r}; "
                "choose one and change single fields by keyword."
            )
        units, depth, lr, warmup = SIZES[name]
        size = dict(units=units, deter=8 * units, classes=units // 16, depth=depth)
        return cls(**size, warmup=warmup).changed(**{"lr": lr, **changes})

    def changed(self, **changes):
        """A copy with `changes` to single fields; `lr` moves the other rates, too."""
        if "lr" in changes:
            lr = replace(self, lr=changes["lr"]).lr
            changes = dict(critic_lr=lr / 2, actor_lr=lr / 5) | changes
        return replace(self, **changes)

    def resized(self, other):
        """This configuration for an agent of another size, with that size's rates.

        Args:
            other: the Config that has the sizes, learning rates and warm-up.
        """
        return replace(
            self, **{name: getattr(other, name) for name in OF_A_SIZE.split()}
        )

    @classmethod
    def from_yaml(cls, path):
        """Read a file written by `to_yaml`, or by hand with some of the fields."""
        text = Path(path).expanduser().read_text("utf-8")
        return cls(**yaml.safe_load(text) or {})

    def to_yaml(self, path):
        """Write every field, one per line."""
        text = yaml.safe_dump(asdict(self), sort_keys=False)
        Path(path).expanduser().write_text(text, "utf-8")


# The least and the largest value of a number, where they are not 0 and infinity (which
# itself is refused). The critic's loss on replayed rows needs two of them: a row and
# the one after it.
COUNTS = "deter units latents classes depth blocks batch horizon critics envs"
COUNTS = f"{COUNTS} log_every".split()
LIMITS = dict.fromkeys(COUNTS, (1, math.inf)) | {"length": (2, math.inf)}
SHARES = "unimix actor_unimix discount lam slow_rate dream_share anneal".split()
LIMITS |= dict.fromkeys([*SHARES, "lr", "critic_lr", "actor_lr"], (0, 1))
LIMITS |= {"seed": (0, 2**63 - 1)}

# What belongs to the size of an agent: the shapes of its weights, and its rates.
OF_A_SIZE = "deter units latents classes depth blocks lr critic_lr actor_lr warmup"

# Nominal size: width, convolution depth, learning rate of the world model, warm-up.
# The paper's 4e-5 after 1,000 updates is for the budget of a GPU; a CPU has a few
# thousand updates in total, which a small model can use at a faster rate.
SIZES = {
    "1m": (64, 16, 1e-3, 200),
    "3m": (128, 16, 3e-4, 500),
    "12m": (256, 16, 1e-4, 1000),
    "25m": (384, 24, 1e-4, 1000),
    "50m": (512, 32, 4e-5, 1000),
    "100m": (768, 48, 4e-5, 1000),
    "200m": (1024, 64, 4e-5, 1000),
}
