"""Compare an answer with the solution on random inputs: results, gradients, inputs."""

import functools
import inspect

import numpy as np
import torch

from course.checks import as_array

TRIES = 12
RELATIVE, ABSOLUTE = 1e-3, 1e-5


class NotYet(Exception):
    """The answer is not right yet; the message is the hint."""


def require(condition, hint: str) -> None:
    """Stop a check with a hint unless the condition holds."""
    if not bool(condition):
        raise NotYet(hint)


def tensors_in(value) -> list:
    """Return the tensors and arrays inside nested lists, tuples and dictionaries."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [found for part in value for found in tensors_in(part)]
    return [value] if isinstance(value, (torch.Tensor, np.ndarray)) else []


def on_its_own_copy(answer):
    """Return the answer, but refuse it if a call changes what it was given."""
    if not inspect.isfunction(answer):
        return answer

    @functools.wraps(answer)
    def call(*args, **named):
        given = inspect.signature(answer).bind(*args, **named).arguments
        before = {name: contents(value) for name, value in given.items()}
        result = answer(*args, **named)
        for name, value in given.items():
            require(
                before[name] == contents(value),
                f"your function writes into `{name}`, which belongs to the caller: "
                "make a new one",
            )
        return result

    return call


def contents(value) -> list[bytes]:
    """Return the bytes of the tensors and arrays in a value, or of a plain list."""
    if isinstance(value, list) and not tensors_in(value):
        return [repr(value).encode()]
    return [array(tensor).tobytes() for tensor in tensors_in(value)]


def array(value) -> np.ndarray:
    """Return a number, a tensor or a list of them as a NumPy array."""
    if isinstance(value, (list, tuple)):
        return np.array([array(part) for part in value])
    return as_array(value)


def compare(exercise, answers) -> None:
    """Refuse answers that differ from the solution on inputs drawn at random."""
    for seed in range(TRIES):
        for place, name in enumerate(exercise.names):
            results, inputs = [], []
            for function in (exercise.parts[place], answers[place]):
                torch.manual_seed(seed)
                given = exercise.draw(np.random.default_rng(seed))[place]
                results.append(function(*given))
                inputs.append(given)
            signature = inspect.signature(exercise.parts[place])
            said = _about(signature, inputs[0])
            for right, mine, label in _pairs(*results, name):
                _same_values(right, mine, f"{label}{said}")
                _same_gradients(right, mine, inputs, list(signature.parameters))


def _pairs(right, mine, name):
    """Yield results that belong together, of tuples or dictionaries, and a label."""
    if isinstance(right, dict):
        require(
            isinstance(mine, dict) and set(mine) == set(right),
            f"{name} must return a dictionary with the keys {', '.join(right)}",
        )
        yield from ((right[key], mine[key], f'{name}["{key}"]') for key in right)
    elif isinstance(right, tuple):
        count = len(mine) if isinstance(mine, (tuple, list)) else 1
        require(
            count == len(right),
            f"{name} must return {len(right)} results, yours returns {count}",
        )
        yield from ((*pair, name) for pair in zip(right, mine))
    else:
        yield right, mine, name


def _about(signature, given) -> str:
    """Describe a call: small values as they are, tensors by their shape."""
    words = []
    for name, value in zip(signature.parameters, given):
        found = tensors_in(value)
        if len(found) == 1 and array(found[0]).size < 7:
            numbers = array(found[0])
            if numbers.dtype.kind == "f":
                numbers = numbers.astype(float).round(3)
            words.append(f"{name}={numbers.tolist()}")
        elif found:
            words.append(f"{name} of shape {list(found[0].shape)}")
        elif isinstance(value, (int, float, list)):
            words.append(f"{name}={round(value, 4) if type(value) is float else value}")
        elif isinstance(value, torch.nn.Module) and not list(value.children()):
            words.append(f"{name}={value}")
    return f" with {', '.join(words)}" if words else ""


def _same_values(right, mine, call):
    """Compare two results."""
    right, mine = array(right), array(mine)
    require(
        right.shape == mine.shape,
        f"{call} has the shape {list(mine.shape)}, {list(right.shape)} is right",
    )
    if mine.dtype.kind not in "biuf":
        raise NotYet(f"{call} must return numbers")
    right, mine = right.astype(np.float64), mine.astype(np.float64)
    close = np.isclose(mine, right, RELATIVE, ABSOLUTE, equal_nan=True)
    if not close.all():
        first = tuple(np.argwhere(~close)[0])
        where = f", at place {list(map(int, first))}" if first else ""
        raise NotYet(f"{call} is {mine[first]:.4g}{where}, {right[first]:.4g} is right")


def _same_gradients(right, mine, inputs, names):
    """Compare the gradients of two results with respect to every input."""
    for name, ours, theirs in zip(names, *inputs):
        leaves = [_leaves(ours), _leaves(theirs)]
        for a, b in zip(*leaves):
            a, b = _gradient(right, a), _gradient(mine, b)
            if not a.any():
                said = f"a gradient reaches `{name}` that must not: detach"
                require(not b.any(), said)
            require(b.any() or not a.any(), f"no gradient reaches `{name}`: it is cut")
            wrong = ~torch.isclose(a, b, 10 * RELATIVE, ABSOLUTE)
            if wrong.any():
                right, mine = a[wrong][0].item(), b[wrong][0].item()
                said = f"the gradient for `{name}` is {mine:.4g}, {right:.4g} is right"
                raise NotYet(said)


def _gradient(result, leaf):
    """Return d(weighted sum of a result) / d leaf, zeros where nothing reaches it."""
    if not (isinstance(result, torch.Tensor) and result.requires_grad):
        return torch.zeros_like(leaf)
    weights = torch.linspace(1.0, 2.0, max(2, result.numel()))[: result.numel()]
    total = (result.flatten() * weights).sum()
    found = torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(leaf) if found is None else found


def _leaves(value) -> list:
    """Return the leaves of the graph behind the tensors in an argument."""
    found, todo = [], [t for t in tensors_in(value) if isinstance(t, torch.Tensor)]
    found += [t for t in todo if t.is_leaf and t.requires_grad]
    nodes = [t.grad_fn for t in todo if t.grad_fn is not None]
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    return found
