"""How a step runs on a machine: device, precision, and one update as one CUDA graph.

Plumbing, nothing of DreamerV3 itself, hence written by hand and not exported from a
notebook. Notebooks 09 and 10 use it.
"""

import ctypes
import os
import shutil
import sys

import numpy as np
import torch


def check_obs(obs, spaces, device):
    """One tick's observations {key: [B, ...]} as tensors on the device.

    A plain [B, ...] is taken for the only key, if that is named "obs".
    Raises: ValueError for a missing key, a wrong shape or dtype, a float not finite.
    """
    if not isinstance(obs, dict):
        if list(spaces.keys()) != ["obs"]:
            raise ValueError(
                f"Dreamer.act expects the observations {sorted(spaces.keys())}, but "
                f"got a single {type(obs).__name__}; pass a dictionary of these keys."
            )
        obs = {"obs": obs}
    missing = sorted(set(spaces.keys()) - set(obs))
    if missing:
        raise ValueError(
            f"Dreamer.act expects the observations {sorted(spaces.keys())}, but got "
            f"{sorted(obs)}; pass every key of the observation space."
        )
    return {
        key: check_values(key, space, as_numbers(key, obs[key])).to(device)
        for key, space in spaces.items()
    }


def check_values(key, space, value):
    """One observation [B, ...] in the dtype of its space. Raises as `check_obs`."""
    if value.dim() == 0 or tuple(value.shape[1:]) != space.shape:
        alone = tuple(value.shape) == space.shape
        advice = "add the batch dimension" if alone else "pass the space's shape"
        raise ValueError(
            f"Dreamer.act expects {key!r} of shape [B] + {list(space.shape)}, but "
            f"got {list(value.shape)}; {advice}."
        )
    if space.dtype == np.uint8 and value.dtype != torch.uint8:
        raise ValueError(
            f"Dreamer.act expects {key!r} as uint8, but got {value.dtype}; pass "
            "the bytes, the encoder scales them itself."
        )
    if space.dtype.kind == "f":  # float64 is what many environments compute in
        value = value.float()
        # A nan would stay in the state, through resets too. On a GPU it is not
        # looked for: that would wait.
        if value.device.type == "cpu" and not torch.isfinite(value).all():
            raise ValueError(
                f"Dreamer.act expects finite float32 numbers in {key!r}, but got "
                "nan, infinity or one out of range; find where the environment "
                "makes it."
            )
    elif value.is_floating_point():
        raise ValueError(
            f"Dreamer.act expects {key!r} as {space.dtype}, but got {value.dtype}; "
            "pass whole numbers."
        )
    return value


def check_sizes(obs, state, is_first):
    """Refuse observations, state and first flags of different batches: ValueError."""
    sizes = {f"obs[{key!r}]": len(value) for key, value in obs.items()}
    sizes["state"] = len(getattr(state, "action", ()))
    sizes["is_first"] = len(is_first) if is_first.dim() == 1 else "no [B]"
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            "Dreamer.act expects one batch size, and the state that the last call "
            f"returned, but got {found}; pass rows of the same environments."
        )


def as_numbers(key, value):
    """An observation as a tensor of real numbers. Raises: ValueError for any other."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is None or tensor.is_complex():
        raise ValueError(
            f"Dreamer.act expects {key!r} as an array of real numbers, but got "
            f"{getattr(value, 'dtype', type(value).__name__)}; convert it."
        )
    return tensor


def pick_device(name="auto"):
    """The torch.device of a setting: with auto a CUDA device if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device is auto, cpu or cuda, but the config says {name!r}; set one of "
            "these."
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device='cuda' needs a CUDA GPU, but there is none; use 'auto'."
        )
    return device


def pick_precision(device, name="auto"):
    """The dtype to compute in: bf16 where the device has it natively, else fp32.

    A T4 reports bf16 although it only emulates it: there auto means fp16. On a CPU with
    native bf16 presets for images gain, and "1m" takes about as long as in fp32: see
    data/bench/cpu.json.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name in dtypes:
        return dtypes[name]
    if name != "auto":
        raise ValueError(
            f"precision is one of auto, {', '.join(dtypes)}, but the config says "
            f"{name!r}; set one of these."
        )
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def make_update(agent, speed):
    """The agent's update in the form `speed`: called with a batch on the device."""
    if speed not in ("eager", "compile", "graph"):
        raise ValueError(
            f"speed is one of eager, compile, graph, but the config says {speed!r}; "
            "set one of these."
        )
    if speed == "graph":
        if agent.device.type != "cuda":
            raise ValueError(
                f"speed='graph' needs a CUDA device, but this is {agent.device}; use "
                "speed='eager' or 'compile'."
            )
        return GraphedUpdate(agent)
    return CompiledUpdate(agent) if speed == "compile" else Update(agent)


class Update:
    """One update as it is written. It follows an agent that is copied or pickled."""

    def __init__(self, agent):
        self.agent = agent

    def __call__(self, batch):
        metrics = self.agent.backward(batch)
        self.agent.step()
        return metrics


class Bound:
    """An update made for one agent: a copy of it would still train the original.

    Raises: TypeError for a copy or a pickle of an agent that holds it.
    """

    def __reduce_ex__(self, protocol):
        speed = self.agent.config.speed
        raise TypeError(
            "Only an agent with speed='eager' can be copied or pickled, but this one "
            f"has {speed!r}; save it, then Dreamer.load(path, speed='eager')."
        )


class CompiledUpdate(Bound, Update):
    """One update with compiled losses.

    Acting, dreaming for a video and evaluating stay as they are written: their batches
    have other sizes, each would take seconds of compiling, and none takes long.
    """

    def __init__(self, agent):
        super().__init__(agent)
        self.parts = compile_loss(agent)

    def __call__(self, batch):
        for module, name, part in self.parts:
            setattr(module, name, part)
        try:
            return super().__call__(batch)
        finally:
            for module, name, _ in self.parts:
                delattr(module, name)  # the method of its class is back


# What torch.compile gains from on a CPU: long chains of element-wise work, each of
# which is otherwise a pass through memory. Products and convolutions stay as they are.
# Of the two loops a step is compiled, not the whole.
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


def compile_loss(agent):
    """Let torch.compile write the code of the losses.

    On a GPU the whole loss becomes one graph. On a CPU its parts are compiled one by
    one, a minute and a half in all: a whole scan as one graph takes six minutes and
    is no faster. Which sizes gain stands in data/bench/cpu.json.
    Returns: what to put in place, [(module, name of its method, compiled method)].
    Raises: ValueError with an older torch, or on a CPU without a C++ compiler.
    """
    # Tried on a CPU: the parts with 2.11 and 2.13, the one graph with 2.13 alone, for
    # 2.11 stops at torch.quantile. 2.4, 2.6 and 2.9 compiled neither.
    minor = 13 if agent.device.type == "cuda" else 11
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, minor):
        raise ValueError(
            f"speed='compile' needs torch 2.{minor} or newer, but this is "
            f"{torch.__version__}; install a newer one or use speed='eager'."
        )
    if agent.device.type == "cuda":
        return [(agent, "loss", torch.compile(agent.loss, fullgraph=True))]
    compilers = os.environ.get("CXX", "g++"), "clang++", "cl"
    if not any(map(shutil.which, compilers)):
        raise ValueError(
            "speed='compile' needs a C++ compiler on a CPU, but none of "
            f"{', '.join(compilers)} was found; install one or use speed='eager'."
        )
    parts = []
    for path in COMPILED:
        owner, name = path.rsplit(".", 1)
        module = agent.get_submodule(owner)
        # Code for each size: a batch is learnt from, and a dream begins in all of its
        # states. One code for both took some 4 % longer.
        part = torch.compile(getattr(module, name), dynamic=False)
        parts.append((module, name, part))
    return parts


class GraphedUpdate(Bound):
    """One update as one CUDA graph: no launch overhead, static shapes.

    Not measured yet: it was written without a GPU at hand. With fp16 the gradient
    scaler must read its flags, so the second half of the update stays outside.
    """

    def __init__(self, agent, warmup=3):
        self.agent, self.left, self.graph = agent, warmup, None
        self.whole = not agent.scaler.is_enabled()
        self.stream = torch.cuda.Stream(agent.device)

    def _run(self):
        metrics = self.agent.backward(self.batch)
        if self.whole:
            self.agent.step()
        return metrics

    def __call__(self, batch):
        if not hasattr(self, "batch"):
            self.batch = {key: value.clone() for key, value in batch.items()}
        for key, value in batch.items():
            self.batch[key].copy_(value)
        if self.left:  # real updates on a side stream, before anything is captured
            self.left -= 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.metrics = self._run()
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):  # records, computes nothing
                    self.metrics = self._run()
            self.graph.replay()
        if not self.whole:
            self.agent.step()
        return {key: value.clone() for key, value in self.metrics.items()}


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
