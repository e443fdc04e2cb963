"""How an update runs: device, precision, torch.compile, CUDA graphs, memory.

Notebooks 09 and 10 use it.
"""

import contextlib
import ctypes
import functools
import sys
import warnings
from pathlib import Path
from types import MethodType

import psutil
import torch


def pick_device(name="auto"):
    """The torch.device of a setting; auto is a CUDA device if there is one.

    Raises:
        ValueError: for a device that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device is auto, cpu, cuda or mps, but the config says {name!r}, which "
            f"this machine does not have ({first_line(error)}); use 'auto'."
        ) from error
    if device.type not in ("cpu", "cuda"):
        warnings.warn(f"device {name!r} was never measured or tested.", stacklevel=3)
    return device


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_precision(device, name="auto"):
    """The dtype to compute in; auto is bf16 where the device has it natively.

    A T4 reports bf16 although it only emulates it: there auto means fp16. On a CPU with
    native bf16 presets for images gain, and "1m" takes about as long as in fp32: see
    data/bench/cpu.json.

    Raises:
        ValueError: for another name, or if torch makes tensors of another dtype.
    """
    if torch.get_default_dtype() != torch.float32:
        raise ValueError(
            f"Dreamer keeps its numbers in float32, but torch makes "
            f"{torch.get_default_dtype()}; call torch.set_default_dtype(torch.float32)."
        )
    if name != "auto" and name not in DTYPES:
        raise ValueError(
            f"precision is one of auto, {', '.join(DTYPES)}, but the config says "
            f"{name!r}; set one of these."
        )
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native and device.type == "cpu" else torch.float32


def prepare(agent, speed):
    """Put faster forms of an agent's methods in place, once.

    Args:
        agent: a `Dreamer`.
        speed: eager, compile, graph or auto: graph on a CUDA device and compile
            elsewhere; if a small trial fails, one warning says why, and the agent stays
            eager.

    Raises:
        ValueError: for another name, or for what this machine cannot do.
    """
    cuda = agent.device.type == "cuda"
    if speed not in ("eager", "compile", "graph", "auto"):
        raise ValueError(
            "speed is one of eager, compile, graph, auto, but the config says "
            f"{speed!r}; set one of these."
        )
    if speed == "graph" and not cuda:
        raise ValueError(
            f"speed='graph' needs a CUDA device, but this is {agent.device}; use "
            "speed='eager' or 'compile'."
        )
    if cuda and speed in ("graph", "auto"):
        agent.backward = Graphed(agent, or_eager=speed == "auto")
    elif speed in ("compile", "auto"):
        try:
            compile_update(agent)
        except ValueError as error:
            if speed == "compile":
                raise
            note = f"speed='auto' becomes 'eager', because {error}"
            warnings.warn(note, stacklevel=3)


# What torch.compile gains from on a CPU: long chains of element-wise work, each of
# which is otherwise a pass through memory. Products and convolutions stay as they are,
# and of the two loops a step is compiled, not the whole: as one graph a loop takes six
# minutes to compile and is no faster. On a GPU the whole loss becomes one graph.
COMPILED = (
    "world_model.encoder.forward",
    "world_model._losses",
    "world_model.predict_continue",
    "world_model.predict_reward",
    "world_model.rssm._imagine_step",
    "world_model.rssm._noise",
    "world_model.rssm._observe_step",
    "world_model.rssm.prior",
    "actor_critic.policy",
    "actor_critic.actor.evaluate",
    "actor_critic.critic.forward",
    "actor_critic._critic_loss",
    "actor_critic.two_hot.mean",
)
# These have other batch sizes, for each of which the parts would be compiled anew.
AS_WRITTEN = ("act", "observe", "dream")


def compile_update(agent):
    """Let torch.compile write the code of the losses; see `COMPILED`.

    Raises:
        ValueError: if torch is too old, or cannot compile.
    """
    # Tried on a CPU: the parts with 2.11 and 2.13, the one graph with 2.13 alone,
    # because 2.11 stops at torch.quantile. 2.4, 2.6 and 2.9 compiled neither.
    cuda = agent.device.type == "cuda"
    oldest = "2.13" if cuda else "2.11"
    if torch.__version__ < oldest:
        raise ValueError(
            f"speed='compile' needs torch {oldest} or newer, but this is "
            f"{torch.__version__}; install a newer one or use speed='eager'."
        )
    with one_sentence():  # find out now whether anything can be compiled here
        torch.compile(lambda x: x.exp() + 1)(torch.ones(64, device=agent.device))
    # Code for each size: a batch is learnt from, and a dream begins in all of its
    # states. One code for both took some 4 % longer.
    compiled = functools.partial(torch.compile, dynamic=False, fullgraph=cuda)
    for path in ("loss",) if cuda else COMPILED:
        owner, _, name = path.rpartition(".")
        replace(agent.get_submodule(owner), name, compiled)
    for name in AS_WRITTEN:
        replace(agent, name, torch.compiler.set_stance("force_eager"))
    replace(agent, "backward", first_update)


def replace(module, name, change):
    """Put `change(method)` in place of a module's method, also in its copies.

    Raises:
        AttributeError: if its class has no such method.
    """
    setattr(module, name, MethodType(change(getattr(type(module), name)), module))


def first_update(backward):
    """`backward` for the first update, which compiles; then the original is back."""

    @functools.wraps(backward)  # a pickle finds a method by its name
    def first(agent, batch):
        del agent.backward
        note = "speed='compile': the first update is compiled, a minute or more ..."
        print(note, file=sys.stderr, flush=True)
        with one_sentence():
            return backward(agent, batch)

    return first


@contextlib.contextmanager
def one_sentence():
    """Say in one sentence why torch.compile failed. Raises: ValueError."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        cache = torch._inductor.runtime.cache_dir_utils.cache_dir()
        raise ValueError(
            "speed='compile' needs a C++ compiler, Python's headers, and no space in "
            "the paths of Python, torch and the temporary folder, but torch could not "
            f"compile: {first_line(error)}; "
            f"install what is missing, delete {cache} if a killed run left a broken "
            "file there, or use speed='eager'."
        ) from error


def first_line(error):
    """The line of a long message of torch that names the cause."""
    lines, signs = str(error).splitlines() or [""], (" error: ", "Error: ", "")
    return next(line for sign in signs for line in lines if sign in line)[:200]


class Graphed:
    """`backward` of an agent as one CUDA graph: all its kernels in one launch.

    The first calls are real ones on a side stream, as CUDA asks for. The next one
    records the kernels, which from then on work on the same memory. The optimizer
    stays outside, so that its rates may change. Not measured yet: this was written
    without a GPU at hand.

    Args:
        agent: a `Dreamer` on a CUDA device.
        or_eager: if nothing can be recorded, warn and continue without a graph.
        warmup: number of calls before the recording.
    """

    def __init__(self, agent, or_eager, warmup=3):
        self.agent, self.or_eager, self.left, self.graph = agent, or_eager, warmup, None

    def __call__(self, batch):
        with torch.cuda.device(self.agent.device):
            if self.left:
                return self.warm_up(batch)
            if self.graph is None:
                try:
                    self.record(batch)
                except RuntimeError as error:
                    if not self.or_eager:
                        raise
                    reason = f"no CUDA graph could be recorded ({first_line(error)})"
                    warnings.warn(
                        f"speed='auto' becomes 'eager': {reason}.", stacklevel=2
                    )
                    del self.agent.backward  # the method of the class is back
                    return self.plain(batch)
            for key, value in batch.items():
                self.batch[key].copy_(value)
            self.graph.replay()
            return {key: value.clone() for key, value in self.metrics.items()}

    def plain(self, batch):
        return type(self.agent).backward(self.agent, batch)

    def warm_up(self, batch):
        self.left -= 1
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            metrics = self.plain(batch)
        here.wait_stream(side)
        return metrics

    def record(self, batch):
        self.batch = {key: value.clone() for key, value in batch.items()}
        here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        try:
            with torch.cuda.graph(graph):  # records, computes nothing
                self.metrics = self.plain(self.batch)
        except RuntimeError:  # what a broken recording leaves behind
            torch.cuda.set_stream(here)
            generator.graphsafe_set_state(before)
            raise
        self.graph = graph


def reuse_memory():
    """Keep freed memory in the process instead of returning it to the system (Linux).

    glibc gives every large block back at once, so each tensor of a training step is
    made of fresh pages, and the kernel spends longer clearing them than we compute with
    them: a step takes 1.2 to 1.5 times as long. Elsewhere this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 2**28)


def free_memory():
    """Bytes that are free: in the machine, or in its container if that has fewer."""
    free = [psutil.virtual_memory().available]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of cgroups 2 and 1
        with contextlib.suppress(OSError, ValueError):  # no container, or no limit
            limit = int(Path("/sys/fs/cgroup", name).read_text())
            free.append(limit - psutil.Process().memory_info().rss)
    return min(free)


def check_memory(replay, steps):
    """Refuse a replay that will not fit into memory after `steps` steps.

    Raises:
        MemoryError: if fewer bytes are free.
    """
    capacity, free = replay.rows * len(replay.head), free_memory()
    rows = min(capacity, steps)
    need = sum(column.nbytes for column in replay.data.values()) * rows // capacity
    if need > free:
        raise MemoryError(
            f"A replay of {rows} rows will need {need / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free; free memory, or begin a run with capacity "
            f"{int(rows * free / need * 0.9)}."
        )
