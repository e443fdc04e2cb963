"""How fast a step runs: device, precision, and one update as one CUDA graph.

Plumbing, nothing of DreamerV3 itself, hence written by hand and not exported from a
notebook. Notebooks 09 and 10 use it.
"""

import ctypes
import sys

import torch


def pick_device(name="auto"):
    """The torch.device of a setting: with auto a CUDA device if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def pick_precision(device, name="auto"):
    """The dtype to compute in: bf16 where the device has it natively, else fp32.

    A T4 reports bf16 although it only emulates it: there auto means fp16.
    """
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            name
        ]
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


class GraphedUpdate:
    """One training step as one CUDA graph: no launch overhead, static shapes.

    With fp16 the gradient scaler must read its flags, so the optimizer stays outside.
    """

    def __init__(self, agent, warmup=3):
        self.agent, self.left, self.graph = agent, warmup, None
        self.whole = not agent.scaler.is_enabled()
        self.stream = torch.cuda.Stream()

    def _run(self):
        self.agent._backward(self.batch)
        return self.agent._step() if self.whole else self.agent._metrics

    def __call__(self, batch):
        if self.graph is None:
            self.batch = {key: value.clone() for key, value in batch.items()}
        for key, value in batch.items():
            self.batch[key].copy_(value, non_blocking=True)
        if self.left:  # real updates on a side stream, before anything is captured
            self.left -= 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.metrics = self._run()
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self.metrics = self._run()
            self.graph.replay()
        if not self.whole:
            self.agent._step()
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
