"""Several processes, GPUs or machines train one agent, started by torchrun.

    torchrun --nproc-per-node 2 -m dreamer_lite train --env CartPole-v1 --logdir runs/x

Every process plays in environments of its own, with seeds of its own, and learns from
a replay of its own. Before each optimizer step the gradients and the return percentiles
are averaged over all, so that an update is one of as many times the batch, and all keep
the same weights. The learning rates stay as they are.

`steps`, `prefill` and every step that is reported are sums over the processes. `envs`,
`batch` and `capacity` are those of each, so `ratio` keeps its meaning.

Process 0 writes what a run of one process writes; its tables hold its own losses and
episodes. The others keep their checkpoints in `process-1`, `process-2` and so on, in
the run folder or, on another machine, in a folder of the same name there. All are of
the same step. A callback is called in process 0, so it must not change the agent.

Any `speed` will do, because nothing is exchanged inside the losses. Tried on one
machine without a GPU (gloo); GPUs (NCCL) and several machines were never measured.
"""

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from dreamer_lite import runs, speed


def open_run(folder, config, *args):
    """The run of this process: alone, or under torchrun one of several."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return (SharedRun if several else runs.Run)(folder, config, *args)


def join(device):
    """Meet the other processes that torchrun started.

    Args:
        device: as in a Config.

    Raises:
        ValueError: for a device that is neither a CPU nor a GPU of this process alone.
    """
    kind, local = speed.pick_device(device).type, int(os.environ["LOCAL_RANK"])
    gpus = torch.cuda.device_count() if kind == "cuda" else 0
    if kind != "cpu" and local >= gpus:
        raise ValueError(
            f"Each process trains on the CPU or on a GPU of its own, but process "
            f"{local} finds {gpus} GPUs here; start fewer, or use device 'cpu'."
        )
    if gpus:
        torch.cuda.set_device(local)
    if not distributed.is_initialized():  # by an earlier call of train
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")


@contextlib.contextmanager
def together():
    """Say in one sentence that another process is gone: ConnectionError."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "Another process of this run has ended, so this one ends too; look for "
            "its message, then start all of them again."
        ) from error


def exchange(tensors, operate):
    """Apply a collective operation to float tensors, in place, in one message."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with together():
        operate(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors])):
        tensor.copy_(part.view_as(tensor))


def average(flat):
    """The mean of a tensor over all processes, in place."""
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()


def from_first(flat):
    """The tensor of process 0, in place."""
    distributed.broadcast(flat, 0)


def any_of(flag):
    """Whether a flag is true in any process; all wait here for each other."""
    flag = torch.tensor(float(bool(flag)))
    exchange([flag], average)
    return bool(flag)


def check_same(facts):
    """Refuse facts {name: value} that differ between the processes: ValueError."""
    everywhere = [None] * distributed.get_world_size()
    with together():
        distributed.all_gather_object(everywhere, facts)
    for name in facts:
        values = {str(others[name]) for others in everywhere}
        if len(values) > 1:
            raise ValueError(
                f"All processes of a run have the same {name}, but got "
                f"{' and '.join(sorted(values))}; start them with one command."
            )


def averaged(step):
    """`Dreamer.step`, with gradients and return percentiles that are means over all."""

    @torch.no_grad()
    def shared_step(agent):
        grads = [p.grad for p in agent.parameters() if p.grad is not None]
        exchange([*grads, agent.actor_critic.normalizer.range], average)
        step(agent)

    return shared_step


class SharedRun(runs.Run):
    """A run of several processes, which begin, save and end at the same step."""

    def __init__(self, folder, config, minutes=None, track=(), progress=True):
        join(config.device)
        check_same(vars(config) | {"track": track})
        self.rank, folder = distributed.get_rank(), Path(folder)
        self.processes = distributed.get_world_size()
        if self.rank:
            seeds = np.random.SeedSequence((config.seed, self.rank))
            config = replace(config, seed=int(seeds.generate_state(1)[0]))
            folder, progress = folder / f"process-{self.rank}", False
        super().__init__(folder, config, minutes, track, progress)
        self.own, self.spare = self.folder / runs.CHECKPOINT, self.folder / "spare.zip"

    def make_envs(self, make_env):
        step = torch.tensor(self._step_kept(), dtype=torch.float64)
        exchange([step], from_first)
        if self.spare.exists() and self._step_kept() != step:
            os.replace(self.spare, self.own)  # it was killed while all were saving
        return super().make_envs(make_env)

    def _step_kept(self):
        if not self.own.exists():
            return 0
        with runs.open_checkpoint(self.folder) as (_, state):
            return state["step"]

    def restore(self, agent, replay):
        check_same({"environment": self.environment, "step to begin at": self.step})
        super().restore(agent, replay)
        states = [t for s in agent.optimizer.state.values() for t in s.values()]
        with torch.no_grad():
            weights = [*agent.state_dict().values(), *states]
            exchange(weights, from_first)
        speed.replace(agent, "step", averaged)

    def finished(self):
        return any_of(super().finished())

    def save_if_due(self, agent, replay):
        if any_of(self._due(self.saved, self.config.checkpoint_minutes)):
            self.save(agent, replay)

    def save(self, agent, replay):
        """Process 0 writes when all others have; until then those keep both files."""
        if self.kept == self.step:
            return
        if self.rank and self.own.exists():
            os.replace(self.own, self.spare)
        for mine in (self.rank, not self.rank):
            if mine:
                super().save(agent, replay)
            any_of(False)
        self.spare.unlink(missing_ok=True)

    def look(self, agent, replay, *args):
        if not self.rank:
            super().look(agent, replay, *args)

    def _begin_reports(self):
        if not self.rank:
            super()._begin_reports()

    def _write_row(self, *args):
        if not self.rank:
            super()._write_row(*args)
