"""How an update runs: precision, copies, torch.compile, CUDA graphs, memory."""

import contextlib
import copy
import functools
import pickle
import warnings
from collections import Counter
from contextlib import contextmanager
from operator import attrgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from small import IMAGE, MIXED, agent_for, batch_for, observations
from torch.nn.utils import parameters_to_vector
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dreamer_lite import speed

# Precision


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("action_space", [Discrete(3), Box(-1, 1, (2,), np.float32)])
def test_train_step_changes_every_part(precision, action_space):
    agent = agent_for(MIXED, action_space, precision=precision, warmup=0)
    before = {name: p.clone() for name, p in agent.named_parameters()}
    for seed in range(3):
        metrics = agent.train_step(batch_for(agent, seed=seed))
    assert all(torch.isfinite(value) for value in metrics.values())
    changed = {
        ".".join(name.split(".")[:2])
        for name, p in agent.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert len(changed) == 8
    assert all(p.dtype == torch.float32 for p in agent.parameters())


def test_losses_in_fp16_are_scaled_and_an_overflow_changes_nothing():
    """LaProp hides a factor in the gradients, so the gradients themselves are read."""
    gradients = {}
    for precision in ("fp32", "fp16"):
        agent = agent_for(MIXED, precision=precision, warmup=0)
        torch.manual_seed(0)
        agent.backward(agent._on_device(batch_for(agent)))
        scale = agent.scaler.get_scale()
        assert scale == (1.0 if precision == "fp32" else 2.0**16)
        head = agent.world_model.cont[-1].weight
        gradients[precision] = head.grad / scale
    fp32, fp16 = gradients["fp32"], gradients["fp16"]
    assert (fp16 - fp32).norm() < 0.1 * fp32.norm()
    before = parameters_to_vector(agent.parameters())
    head.grad[0, 0] = torch.inf
    agent.step()
    assert agent.scaler.get_scale() == 2.0**15
    assert torch.equal(parameters_to_vector(agent.parameters()), before)


@pytest.mark.parametrize(
    "device, capability, expected",
    [
        ("cuda", (7, 5), torch.float16),  # a T4, which only emulates bf16
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (9, 0), torch.bfloat16),
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
    ],
)
def test_precision_is_what_the_device_really_has(
    monkeypatch, device, capability, expected
):
    def answer(*_):
        return capability

    monkeypatch.setattr(torch.cuda, "get_device_capability", answer)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", answer)
    assert speed.pick_precision(torch.device(device)) == expected
    assert speed.pick_precision(torch.device(device), "fp32") == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_hundred_updates_lower_the_loss(precision):
    agent = agent_for(precision=precision, lr=3e-3, critic_lr=3e-3, warmup=10)
    batch = batch_for(agent)

    def loss():
        torch.manual_seed(1)
        with torch.no_grad():
            return agent.world_model.loss(agent._on_device(batch))[0].item()

    before = loss()
    for _ in range(100):
        metrics = agent.train_step(batch)
    assert loss() < 0.5 * before
    assert all(torch.isfinite(value) for value in metrics.values())


def test_a_readers_switch_for_gradients_changes_no_update():
    agents = [agent_for(warmup=0) for _ in range(2)]
    batch = batch_for(agents[0])
    for agent, switch in zip(agents, (True, False)):
        torch.manual_seed(0)
        with torch.set_grad_enabled(switch):
            agent.train_step(batch)
    first, second = (parameters_to_vector(agent.parameters()) for agent in agents)
    assert torch.equal(first, second)


def test_another_default_dtype_is_refused():
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match="set_default_dtype.torch.float32"):
            agent_for()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("speed", "fast", "eager, compile, graph, auto, .* 'fast'; set one"),
        ("speed", "graph", "needs a CUDA device, but this is cpu; use"),
        ("precision", "fp8", "auto, fp32, bf16, fp16, .* 'fp8'; set one"),
        ("device", "abacus", "auto, cpu, cuda or mps, .* 'abacus', which .* 'auto'"),
    ],
)
def test_machine_settings_are_refused_by_name(field, value, words):
    with pytest.raises(ValueError, match=words):
        agent_for(**{field: value})


def test_a_device_that_was_never_measured_is_taken_with_a_warning():
    with pytest.warns(UserWarning, match="'meta' was never measured"):
        assert speed.pick_device("meta").type == "meta"


# Copies


def pickled(agent):
    return pickle.loads(pickle.dumps(agent))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_of_an_agent_trains_itself(copied):
    agent = agent_for(warmup=0)
    before = {key: w.clone() for key, w in agent.state_dict().items()}
    twin = copied(agent)
    torch.manual_seed(1)
    twin.train_step(batch_for(agent))
    for key, weight in agent.state_dict().items():
        assert torch.equal(weight, before[key]), key
    torch.manual_seed(1)
    agent.train_step(batch_for(agent))
    for key, weight in agent.state_dict().items():
        assert torch.equal(weight, twin.state_dict()[key]), key
    changed = [not torch.equal(w, before[k]) for k, w in twin.state_dict().items()]
    assert any(changed)


# Nothing waits for the device


WAITS = """_local_scalar_dense nonzero masked_select _unique _unique2 unique_dim
unique_consecutive equal allclose bincount""".split()
BY_INDEX = "index index_put index_put_ _index_put_impl_".split()
READS = "tolist numpy cpu __array__".split()  # on a CPU they reach no operation


class NoWaiting(TorchDispatchMode):
    """Refuses every operation that makes the host wait for a number or a size."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in BY_INDEX and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if by_mask or name in WAITS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


class NoReading(TorchFunctionMode):
    """Refuses what copies numbers to the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_sync():
    with NoWaiting(), NoReading():
        yield


def test_train_step_never_waits_for_the_device(monkeypatch):
    def one_hot(index, classes):
        return (index[..., None] == torch.arange(classes)).long()

    # On a CPU, and only there, torch's own looks at the numbers to check their range.
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    agent = agent_for(MIXED)
    batch = batch_for(agent)
    agent.train_step(batch)
    with no_sync():
        metrics = agent.train_step(batch)
        with pytest.raises(AssertionError, match="waits"):
            metrics["loss/reward"].item()


# torch.compile


def compile_with(monkeypatch, backend):
    """Let torch.compile trace as always and call `backend` instead of a compiler."""
    compiled = functools.partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", compiled)


def as_traced(graph, _):
    return graph.forward


@pytest.mark.parametrize(
    "obs_space, precision, rtol",
    [
        (None, "bf16", 0.02),
        (Dict(camera=IMAGE, speed=MIXED["speed"]), "fp32", 1e-4),
    ],
)
def test_loss_compiles_as_one_graph(obs_space, precision, rtol):
    agent = agent_for(obs_space, precision=precision)
    batch = agent._on_device(batch_for(agent, length=3))
    torch.manual_seed(5)
    expected, _ = agent.loss(batch)
    compiled = torch.compile(agent.loss, fullgraph=True, backend="aot_eager")
    agent.actor_critic.normalizer.range.zero_()
    torch.manual_seed(5)
    loss, metrics = compiled(batch)
    loss.backward()
    assert torch.allclose(loss, expected, rtol=rtol)
    assert agent.world_model.reward[-1].weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in agent.actor_critic.actor.parameters())


def test_a_part_that_was_renamed_is_named(monkeypatch):
    compile_with(monkeypatch, as_traced)
    monkeypatch.setattr(speed, "COMPILED", ("world_model.rssm._imagine_steps",))
    with pytest.raises(AttributeError, match="_imagine_steps"):
        agent_for(speed="compile")


def test_compiled_parts_change_no_update(monkeypatch):
    # Only the tracing is tested: writing and compiling C++ would take a minute.
    compiled, used = torch.compile, Counter()

    def counted(function, **_):
        traced = compiled(function, backend="aot_eager", fullgraph=True)
        name = getattr(function, "__qualname__", "")
        return lambda *args: (used.update([name]), traced(*args))[1]

    monkeypatch.setattr(torch, "compile", counted)
    agents = [agent_for(MIXED, speed=how) for how in ("eager", "compile")]
    used.clear()  # what was tried first
    for agent in agents:
        torch.manual_seed(3)
        agent.train_step(batch_for(agent))
    eager, compiled = (agent.state_dict() for agent in agents)
    assert list(eager) == list(compiled)  # a saved agent stays readable
    for name in eager:
        assert torch.allclose(eager[name], compiled[name], atol=1e-5), name
    parts = {attrgetter(path)(agents[0]).__qualname__ for path in speed.COMPILED}
    assert set(used) == parts


def test_only_updates_compile_and_only_once(monkeypatch):
    seen = []
    compile_with(monkeypatch, lambda graph, _: (seen.append(graph), graph.forward)[1])
    agent = agent_for(speed="compile")
    with torch.random.fork_rng():
        agent.train_step(batch_for(agent))
        agent.train_step(batch_for(agent))
    found = len(seen)
    assert found > len(speed.COMPILED)
    for size in (1, 3, 5):
        agent.act(observations(agent, size))
        agent.dream(batch_for(agent, size), context=2)
    agent.train_step(batch_for(agent))
    assert len(seen) == found


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_of_a_compiled_agent_trains_itself(monkeypatch, copied):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    agent = agent_for(speed="compile", warmup=0)
    twin = copied(agent)
    before = parameters_to_vector(agent.parameters())
    twin.train_step(batch_for(agent))
    assert torch.equal(parameters_to_vector(agent.parameters()), before)
    assert not torch.equal(parameters_to_vector(twin.parameters()), before)


def no_headers(graph, _):
    raise RuntimeError("log\nx.cpp:1: fatal error: Python.h: No such file\nlog")


def test_a_compiler_that_fails_is_found_first(monkeypatch):
    compile_with(monkeypatch, no_headers)
    words = "needs a C.. compiler, .* fatal error: Python.h.*; install what is missing"
    with pytest.raises(ValueError, match=words) as found:
        agent_for(speed="compile")
    assert "\n" not in str(found.value)


def test_a_first_update_that_cannot_be_compiled_says_why(monkeypatch, capfd):
    calls = []

    def fails_later(graph, _):
        calls.append(graph)
        if len(calls) > 1:
            raise ImportError("part.so: file too short")
        return graph.forward

    compile_with(monkeypatch, fails_later)
    agent = agent_for(speed="compile")
    assert "compiled" not in capfd.readouterr().err
    with pytest.raises(ValueError, match="part.so: file too short.*delete .*inductor"):
        agent.train_step(batch_for(agent))
    assert "the first update is compiled" in capfd.readouterr().err


def test_speed_compile_needs_a_newer_torch(monkeypatch):
    version = torch.torch_version.TorchVersion("2.10.0+cu128")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ValueError, match=r"torch 2\.11 or newer, but this is 2\.\d+"):
        agent_for(speed="compile")


def test_auto_runs_as_written_where_nothing_compiles(monkeypatch):
    compile_with(monkeypatch, no_headers)
    with pytest.warns(UserWarning, match="'auto' becomes 'eager', because .*Python.h"):
        agent = agent_for(speed="auto", warmup=0)
    before = parameters_to_vector(agent.parameters())
    agent.train_step(batch_for(agent))
    assert not torch.equal(parameters_to_vector(agent.parameters()), before)


# CUDA graphs


class Nothing:
    """Takes the place of a CUDA stream or generator: does what it is asked, nothing."""

    def __getattr__(self, name):
        return lambda *args: None


def without_recording(monkeypatch):
    """Let CUDA's streams do nothing, and every recording fail."""

    def refuse(graph):
        raise RuntimeError("operation not permitted when stream is capturing")

    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", [Nothing()])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", refuse)


def test_auto_runs_as_written_where_no_graph_can_be_recorded(monkeypatch):
    without_recording(monkeypatch)
    eager, other = agent_for(warmup=0), agent_for(warmup=0)
    other.device = torch.device("cuda")
    speed.prepare(other, "auto")
    other.device = torch.device("cpu")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed in range(6):
            for agent in (eager, other):
                torch.manual_seed(seed)
                agent.train_step(batch_for(agent, seed=seed))
    assert [str(one.message) for one in said if "'auto' becomes" in str(one.message)]
    assert len(said) == 1 and "stream is capturing" in str(said[0].message)
    first, second = (parameters_to_vector(a.parameters()) for a in (eager, other))
    assert torch.equal(first, second)


def test_a_graph_that_was_asked_for_and_cannot_be_recorded_is_an_error(monkeypatch):
    without_recording(monkeypatch)
    agent = agent_for()
    agent.device = torch.device("cuda")
    speed.prepare(agent, "graph")
    agent.device = torch.device("cpu")
    for _ in range(3):
        agent.train_step(batch_for(agent))
    with pytest.raises(RuntimeError, match="stream is capturing"):
        agent.train_step(batch_for(agent))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_graphed_update_equals_eager():
    eager, graphed = (
        agent_for(MIXED, device="cuda", speed=s, warmup=0) for s in ("eager", "graph")
    )
    start = parameters_to_vector(graphed.parameters()).detach()
    moved = []
    for seed in range(6):  # the graph is recorded in the fourth
        before = parameters_to_vector(graphed.parameters()).detach()
        for agent in (eager, graphed):
            torch.manual_seed(seed)
            metrics = agent.train_step(batch_for(agent, seed=seed))
            assert all(torch.isfinite(v) for v in metrics.values())
        after = parameters_to_vector(graphed.parameters()).detach()
        moved.append((after - before).norm().item())
    expected = parameters_to_vector(eager.parameters()).detach()
    assert min(moved) > 0 and graphed.backward.graph is not None
    assert (after - expected).norm() < 0.1 * (expected - start).norm()


# Memory


@pytest.mark.parametrize("name", ["memory.max", "memory.limit_in_bytes"])
def test_the_limit_of_a_container_counts(monkeypatch, name):
    read = speed.Path.read_text

    def limited(path, *args):
        return str(2**31) if path.name == name else read(path, *args)

    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=5))
    machine = SimpleNamespace(available=2**60)
    monkeypatch.setattr(speed.psutil, "Process", lambda: process)
    monkeypatch.setattr(speed.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(speed.Path, "read_text", limited)
    assert speed.free_memory() == 2**31 - 5
