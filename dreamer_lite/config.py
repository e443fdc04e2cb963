"""Config: every number that a run depends on, in one dataclass, with presets by size.

Plumbing, hence written by hand and not exported from a notebook; notebook 09 shows it.
"""

from dataclasses import asdict, dataclass

from dreamer_lite.files import checked_fields, read_yaml, write_yaml


@dataclass(frozen=True)
class Config:
    """Every number that a run depends on; what each means stands beside it."""

    # The model
    deter: int = 1024  # width of the deterministic state h
    units: int = 128  # width of every hidden layer
    latents: int = 32  # categoricals in the stochastic state z
    classes: int = 8  # choices of each categorical
    depth: int = 16  # channels of the first convolution
    blocks: int = 8  # blocks of the block-diagonal layers
    unimix: float = 0.01  # uniform share in every categorical
    # Learning
    lr: float = 3e-4  # learning rate of the world model
    critic_lr: float = 1.5e-4  # of the critic
    actor_lr: float = 6e-5  # of the actor
    warmup: int = 500  # updates over which the rates rise from 0
    clip: float = 0.3  # adaptive gradient clipping, share of a tensor's norm
    batch: int = 16  # sequences in a batch
    length: int = 32  # rows in a sequence
    free_nats: float = 1.0  # below this the KL does not count
    dyn_scale: float = 1.0  # weight of the KL that trains the prior
    rep_scale: float = 0.1  # weight of the KL that trains the posterior
    # Behaviour
    horizon: int = 15  # imagined steps
    discount: float = 1 - 1 / 333  # a step is worth this much of the one before
    lam: float = 0.95  # of the lambda-return
    entropy: float = 3e-4  # weight of the actor's entropy
    slow_rate: float = 0.02  # with which the slow critic follows the critic
    replay_scale: float = 0.3  # weight of the critic's loss on real rows
    # The run
    envs: int = 1  # environments side by side
    parallel: bool = False  # one process for each of them
    steps: int = 100_000  # agent steps in all
    prefill: int = 1_000  # agent steps with random actions, before learning
    ratio: float = 64.0  # rows replayed for each agent step
    capacity: int = 100_000  # rows in the replay
    seed: int = 0  # of everything
    log_every: int = 50  # updates between two lines of metrics
    checkpoint_minutes: float = 5.0  # between two checkpoints
    video_minutes: float = 10.0  # between two videos
    # The machine
    device: str = "auto"  # auto, cpu, cuda
    precision: str = "auto"  # auto, fp32, bf16, fp16
    speed: str = "eager"  # eager, compile (torch.compile), graph (one CUDA graph)

    def __post_init__(self):
        for name, value in checked_fields(type(self), vars(self)).items():
            object.__setattr__(self, name, value)  # frozen, but 1 should become 1.0
        for name, least in AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"Config expects {name} to be at least {least}, but got "
                    f"{getattr(self, name)}; correct that field."
                )
        for name, most in AT_MOST.items():
            if getattr(self, name) > most:
                raise ValueError(
                    f"Config expects {name} to be at most {most}, but got "
                    f"{getattr(self, name)}; correct that field."
                )
        if self.deter % self.blocks:
            raise ValueError(
                "Config expects deter to be a multiple of blocks, but got deter "
                f"{self.deter} and blocks {self.blocks}; correct one of them."
            )

    @classmethod
    def preset(cls, name, **changes):
        """The configuration of a nominal size, with `changes` to single fields.

        Args: name, one of 1m, 3m, 12m, 25m, 50m, 100m, 200m. Raises: ValueError for
        another name or field.
        """
        if name not in SIZES:
            raise ValueError(
                f"Config.preset expects one of {', '.join(SIZES)}, but got {name!r}; "
                "choose one and change single fields by keyword."
            )
        units, depth, lr, warmup = SIZES[name]
        rates = dict(lr=lr, critic_lr=lr / 2, actor_lr=lr / 5, warmup=warmup)
        size = dict(units=units, deter=8 * units, classes=units // 16, depth=depth)
        return cls.from_dict({**size, **rates, **changes})

    @classmethod
    def from_dict(cls, values):
        """Build from {field: value}. Raises: ValueError for another field or type."""
        return cls(**checked_fields(cls, values))

    @classmethod
    def from_yaml(cls, path):
        """Read a file written by `to_yaml`, or by hand with some of the fields."""
        return cls.from_dict(read_yaml(path))

    def to_yaml(self, path):
        """Write every field."""
        write_yaml(path, asdict(self))


# Other numbers may be 0: no prefill, no updates, no warm-up, a video at every look. The
# critic's loss on real rows needs two of them, a row and what came after it.
SIZE_FIELDS = ("deter", "units", "latents", "classes", "depth", "blocks")
AT_LEAST = dict.fromkeys((*SIZE_FIELDS, "batch", "horizon", "envs", "log_every"), 1)
AT_LEAST |= {"length": 2}
# Shares, and the seeds that every random generator takes.
AT_MOST = dict.fromkeys(("unimix", "discount", "lam", "slow_rate"), 1)
AT_MOST |= {"seed": 2**63 - 1}

# Nominal size: width, convolution depth, learning rate of the world model, warm-up.
# The paper's 4e-5 after 1,000 updates is for the budget of a GPU; a CPU has a few
# thousand updates in all, which a small model can use at a faster rate.
SIZES = {
    "1m": (64, 16, 1e-3, 200),
    "3m": (128, 16, 3e-4, 500),
    "12m": (256, 16, 1e-4, 1000),
    "25m": (384, 24, 1e-4, 1000),
    "50m": (512, 32, 4e-5, 1000),
    "100m": (768, 48, 4e-5, 1000),
    "200m": (1024, 64, 4e-5, 1000),
}
