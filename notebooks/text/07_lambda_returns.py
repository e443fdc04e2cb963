# %% [markdown]
# # 07 Lambda-returns: how far ahead should the agent look?
#
# **The question.** In a dream of 15 steps Mario earns some reward, and then the dream
# stops. How good was what he did? And how good is good: is a return of 3 a lot?
#
# Two networks will live on the answer, and notebook 08 builds them: the *actor*, which
# chooses the actions, and the *critic*, which guesses how much reward is still to come. All
# that we need of them here is that they exist and that the critic may be wrong.
#
# The answer itself is two small pieces of code. The first blends what was dreamed with what
# the critic believes: the *lambda-return*. The second measures how large returns usually
# are, so that one setting of the actor works for every game: *return normalisation*.
#
# **At the end** you have computed returns by hand, written the function that computes them
# for the agent, and seen in numbers what lambda trades for what.
#
# **You need** PyTorch tensors. From notebook 06: a dream is a sequence of states, and the
# world model predicts a reward and a probability of going on for each of them.
#
# *Measured: 0.1 minutes on two CPU cores, 0.4 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, LINESTYLES, Slider, check, claim, compare
from course import dreamer_map, explore, hint, lambda_recursion, line, show
from course import solution, use_style, what_we_built

use_style()

# %% [markdown]
# ## The goal
#
# By the end you can draw this picture yourself and explain each line of it. It answers the
# question of the title: $\lambda$ (lambda) is the knob, from 0 (ask the critic after one
# step) to 1 (follow the dream to its end), and the height is how wrong the answer is. Too
# short a look trusts a critic who is wrong, too long a look collects chance. (The formulas
# are those of the section "The experiment: bias and variance".)

# %%
lam, k = np.linspace(0, 1, 101)[:, None], np.arange(15)
decay = (0.95 * lam) ** k
variance = 0.7**2 * (decay**2).sum(1)
bias = 2 * 0.95 * ((1 - lam[:, 0]) * decay[:, :-1].sum(1) + decay[:, -1])
wrong = bias**2 + variance

fig, ax = plt.subplots(figsize=(7.2, 2.6))
ax.plot(lam, bias**2, **line("value"), label="because the critic is wrong")
ax.plot(lam, variance, **line("reward"), label="because of chance")
ax.plot(lam, wrong, **line("error"), label="together")
ax.plot(lam[wrong.argmin()], wrong.min(), "o", color=COLORS["error"])
ax.set(xlabel="lambda [1]", ylabel="squared error of a return [1]", ylim=(0, 5))
ax.legend()
show(fig, alt="The error of a return is smallest for a lambda between 0 and 1.")

# %%
#| default_exp lambda_returns
show(*dreamer_map("lambda_returns"))

# %%
#| export
"""How far to look ahead: lambda-returns, and the scale that makes them comparable.

Built in notebook 07. Source: DreamerV3, sections "Critic learning" (equation 5) and
"Actor learning" (equation 7).
"""

import torch
from torch import Tensor, nn

# %% [markdown]
# ## Two simple answers that fail
#
# Mario walks along 20 fields. On the 21st stands the flag, worth 5, and the game ends. He
# dreams 15 steps ahead from each field. For every dream we write down three numbers per
# state, *aligned with the states* $s_0 \dots s_H$, where $H = 15$ is the horizon:
#
# * the reward $r_t$ that arrives with state $s_t$,
# * the continuation $c_t$: while the game goes on, the discount $\gamma = 0.997$ (what a
#   reward one step later is worth now), and 0 at its end,
# * the value $v_t$: what the critic believes is still to come after $s_t$. A new critic
#   believes 0.

# %%
FIELDS, H, GAMMA = 20, 15, 0.997
field = torch.arange(FIELDS)[:, None] + torch.arange(H + 1)  # [20 dreams, 16 states]
reward = 5.0 * (field == FIELDS)
cont = GAMMA * (field < FIELDS)
field = field.clamp(max=FIELDS)  # after the flag nothing happens any more

print("rewards seen from field 3: ", reward[3].sum().item())
print("rewards seen from field 10:", reward[10].sum().item())


# %% [markdown]
# *First answer: add up the dreamed rewards*, discounted. From fields 0 to 4 the flag is
# more than 15 steps away, so the sum is 0, however often we dream. The agent is blind
# beyond its horizon.
#
# *Second answer: one reward, then ask the critic*, $r_1 + c_1 v_1$, and make that the
# critic's new value. It sees arbitrarily far in the end, but news of the flag travels one
# field per update. Let us count the fields that know of the flag.

# %%
def sweep(target, updates):
    """Values of all fields after `updates` in which each becomes its target."""
    values = torch.zeros(FIELDS + 1)  # the last one is the flag, after which is nothing
    for _ in range(updates):
        values[:FIELDS] = target(values[field])
    return values[:FIELDS]


def add_up(value):
    """The dreamed rewards and nothing else."""
    return (reward[:, 1:] * GAMMA ** torch.arange(H)).sum(1)


def one_step(value):
    """One reward, then the critic."""
    return reward[:, 1] + cont[:, 1] * value[:, 1]


for target in (add_up, one_step):
    knows = [int((sweep(target, n) > 0.01).sum()) for n in (1, 2, 20)]
    print(f"{target.__name__:9} fields that know of the flag: {knows} of {FIELDS}")


# %% [markdown]
# Adding up never reaches the first five fields. One step reaches all of them, after twenty
# updates. We want both: far *and* fast.
#
# ## The equation
#
# > **[The paper](https://arxiv.org/abs/2301.04104) says** (equation 5, section "Critic
# > learning"). To see rewards beyond the horizon, the critic learns from bootstrapped lambda-returns, which mix predicted rewards
# > and values:
# >
# > $$R^\lambda_t = r_t + \gamma\, c_t \big((1-\lambda)\, v_t + \lambda R^\lambda_{t+1}\big)
# > \qquad R^\lambda_T = v_T$$
#
# **What we compute.** Printed like this, the indices invite a mistake. The reward, the
# continuation and the value that are mixed with $R_{t+1}$ must all belong to the state in
# which the step *arrives*; with the value of the state in which we stand, the critic would
# learn from itself. The [authors' code](https://github.com/danijar/dreamerv3) takes the
# next state everywhere. In our alignment, with the discount already inside $c$:
#
# $$R_H = v_H \qquad\qquad
# R_t = r_{t+1} + c_{t+1} \big((1-\lambda)\, v_{t+1} + \lambda R_{t+1}\big)$$
#
# In words: after one step you get the reward. Then, if the game goes on, a mixture: a part
# $1-\lambda$ trusts the critic at once, a part $\lambda$ looks one step further.
# Where the dream stops, the critic's own guess takes the place of the rest: that is called
# *bootstrapping*, and $v_H$ is the bootstrap.
#
# Does the index matter? Take $\lambda = 0$ and read only the value to the letter: reward
# and continuation come from the next state, $v_t$ from the state in which Mario stands.

# %%
def to_the_letter(value):
    """One reward, then the critic's opinion of the state that was just left."""
    return reward[:, 1] + cont[:, 1] * value[:, 0]


knows = [int((sweep(to_the_letter, n) > 0.01).sum()) for n in (1, 2, 20)]
print("fields that know of the flag:", knows)

# %% [markdown]
# One field knows, and the news never travels: every other field asks only itself.
#
# ## By hand
#
# Four states, so $H = 3$, with friendly numbers.

# %%
toy_reward = torch.tensor([[0.0, 1.0, 0.0, 2.0]])
toy_value = torch.tensor([[9.0, 4.5, 2.0, 4.0]])
toy_cont = torch.tensor([[1.0, 0.5, 0.5, 0.5]])

# %% [markdown] tags=["predict"]
# **Predict.** Take $\lambda = 0.5$ and work from right to left: $R_3$, $R_2$, $R_1$, $R_0$.
# Which of the twelve numbers above are never used?
#
# <details><summary>Answer</summary>
#
# $R_3 = v_3 = 4$. $R_2 = 2 + 0.5\,(0.5 \cdot 4 + 0.5 \cdot 4) = 4$.
# $R_1 = 0 + 0.5\,(0.5 \cdot 2 + 0.5 \cdot 4) = 1.5$.
# $R_0 = 1 + 0.5\,(0.5 \cdot 4.5 + 0.5 \cdot 1.5) = 2.5$. Nothing of state 0 is used,
# neither its reward nor its continuation nor its value: all three are about how one came
# there, or what was believed before looking.
#
# </details>

# %%
r, v, c = (x[0].clone().requires_grad_() for x in (toy_reward, toy_value, toy_cont))
R3 = v[3]
R2 = r[3] + c[3] * (0.5 * v[3] + 0.5 * R3)
R1 = r[2] + c[2] * (0.5 * v[2] + 0.5 * R2)
R0 = r[1] + c[1] * (0.5 * v[1] + 0.5 * R1)
print("R_0, R_1, R_2 =", [R0.item(), R1.item(), R2.item()])

(R0 + R1 + R2).backward()  # a number that is never used gets no gradient
for name, numbers in {"reward": r, "value": v, "continuation": c}.items():
    print(f"{name:12} used at s_0 .. s_3:", (numbers.grad != 0).tolist())

# %% tags=["hide-input"]
show(*lambda_recursion(toy_reward[0], toy_value[0], toy_cont[0], lam=0.5))


# %% [markdown]
# ## Word for word
#
# The equation can be typed in as it is: a function that calls itself. Read it beside the
# formula, line by line.

# %%
def by_recursion(reward, value, cont, lam, t=0):
    """R_t of one dream: [B]."""
    if t == value.shape[1] - 1:
        return value[:, t]
    later = by_recursion(reward, value, cont, lam, t + 1)
    mixed = (1 - lam) * value[:, t + 1] + lam * later
    return reward[:, t + 1] + cont[:, t + 1] * mixed


# %% [markdown] tags=["predict"]
# **Predict.** With $\lambda = 0$, what is $R_0$ of the toy? And with $\lambda = 1$?
#
# <details><summary>Answer</summary>
#
# $\lambda = 0$ asks the critic after one step: $1 + 0.5 \cdot 4.5 = 3.25$.
# $\lambda = 1$ only asks it at the end:
# $1 + 0.5\,(0 + 0.5\,(2 + 0.5 \cdot 4)) = 2$.
#
# </details>

# %%
toy = toy_reward, toy_value, toy_cont
for lam in (0.0, 0.5, 1.0):
    print(f"lambda {lam}: R_0 = {by_recursion(*toy, lam).item()}")


# %% [markdown]
# It is right, and wasteful: one call gives one return, and the calls for $R_0$, $R_1$, ...
# all do the same work again. What we want computes every return of a dream in a single
# walk from its end to its beginning.
#
# ## Build it yourself

# %% [markdown]
# ### Exercise 7.0: Write the lambda-return
#
# *hard, about 40 minutes, 7 lines to write, 3 hints*
#
# This is the heart of the notebook, and you have everything you need. Write it before you
# look at ours. The check goes through five stages: shapes, numbers by hand, ends inside a
# dream, the authors' own numbers, and random dreams with their gradients. It tells you how
# far you got.
#
# One thing is new: $\lambda$ may also be a tensor, one number for each state. What that is
# good for becomes clear in "The same function on real rows".
#
# If you are stuck, `hint("7.0", 1)` nudges, `hint("7.0", 3)` outlines, and the solution is
# there when you want to compare. If you would rather read on, do: the notebook
# continues with our version and needs nothing of yours.

# %% tags=["exercise-7.0"]
def my_lambda_return(reward, value, cont, lam=0.95):
    """Lambda-returns of the states s_0..s_{H-1} of some dreams.

    R_H = value_H;
    R_t = reward_{t+1} + cont_{t+1} * ((1 - lam) * value_{t+1} + lam * R_{t+1}).

    Args:
        reward, value, cont: [B, H+1], aligned with the states s_0..s_H.
        lam: a number, or a tensor [B, H+1] with one number for each state.
    Returns: [B, H].
    """
    raise NotImplementedError("exercise 7.0")


# %%
check("7.0", my_lambda_return)


# %%
# hint("7.0", 1)
# solution("7.0")

# %% [markdown]
# ## Our version
#
# A list that is filled backwards and then reversed. The two lines inside the loop are the
# two halves of the equation. Fifteen small steps cost next to nothing beside the dream, so
# there is no reason to be clever.

# %% tags=["hide-input"]
#| export
def lambda_return(
    reward: Tensor, value: Tensor, cont: Tensor, lam: float | Tensor = 0.95
) -> Tensor:
    """Bootstrapped lambda-returns of states s_0..s_{H-1}.

    R_H = value_H;
    R_t = reward_{t+1} + cont_{t+1} * ((1 - lam) * value_{t+1} + lam * R_{t+1}).

    Args:
        reward, value, cont: [B, H+1], aligned with states s_0..s_H; the reward arrives
            with its state, and `cont` already contains the discount.
        lam: a number, or a tensor [B, H+1] (0 stops the look ahead there).
    Returns: [B, H]. Raises: ValueError for shapes that differ or have no future.
    Source: DreamerV3, equation 5; with `lam` as a tensor also the critic's replay loss.
    """
    lam = lam if torch.is_tensor(lam) else torch.full_like(value, lam)
    shapes = [tuple(x.shape) for x in (reward, value, cont, lam)]
    if len(set(shapes)) > 1 or value.dim() != 2 or value.shape[1] < 2:
        raise ValueError(
            "lambda_return expects reward, value, cont (and lam, if it is a tensor) of "
            f"one shape [B, H+1] with H at least 1, but got {shapes}; give one number "
            "for each of the states s_0..s_H."
        )
    ret, returns = value[:, -1], []
    for t in reversed(range(value.shape[1] - 1)):
        mixed = (1 - lam[:, t + 1]) * value[:, t + 1] + lam[:, t + 1] * ret
        ret = reward[:, t + 1] + cont[:, t + 1] * mixed
        returns.append(ret)
    return torch.stack(returns[::-1], 1)


# %% [markdown]
# Does it agree with the recursion? And with the numbers that you computed by hand?

# %%
for lam in (0.0, 0.5, 1.0):
    name = f"lambda {lam}"
    compare(name, lambda_return(*toy, lam)[:, 0], by_recursion(*toy, lam))
print("lambda 0.5:", lambda_return(*toy, 0.5)[0].tolist())


# %% [markdown]
# Back to the flag. With $\lambda = 0.95$ the first update reaches 15 fields and the second
# one all 20: far and fast.

# %%
def far_and_fast(value):
    """The lambda-return of the first state of each dream."""
    return lambda_return(reward, value, cont)[:, 0]


knows = [int((sweep(far_and_fast, n) > 0.01).sum()) for n in (1, 2, 20)]
print("fields that know of the flag:", knows)

looks = {"add_up": "reward", "one_step": "value", "far_and_fast": "return"}
fig, ax = plt.subplots(figsize=(7.2, 2.8))
for target in (add_up, one_step, far_and_fast):
    ax.plot(sweep(target, 2), **line(looks[target.__name__]), label=target.__name__)
ax.set(
    xlabel="field [steps]", ylabel="value after 2 updates [1]", xticks=range(0, 20, 5)
)
ax.legend()
show(
    fig, alt="After two updates only the lambda-return has told all fields of the flag."
)


# %% [markdown]
# Where both know of the flag, the lambda-return is at most as high as the plain sum: a part
# of it still listens to a critic that has hardly learnt anything. That part becomes right by
# itself, update by update, and only the lambda-return reaches the five fields at the left.
#
# ## Brute force
#
# There is a second way to understand the lambda-return, and it makes a good test, because
# it shares no line with the loop. Call $G_n$ the *n-step return*: follow the dream for $n$
# steps, then ask the critic.
#
# $$G_n = r_1 + c_1 r_2 + c_1 c_2 r_3 + \dots + c_1 \cdots c_{n-1} r_n + c_1 \cdots c_n v_n$$
#
# The lambda-return is a weighted mean of all of them. Each step further gets $\lambda$
# times the weight, and the last one takes what remains:
#
# $$R_0 = (1-\lambda) \sum_{n=1}^{H-1} \lambda^{n-1} G_n + \lambda^{H-1} G_H$$

# %%
def n_step(reward, value, cont, t, n):
    """G_n from state t of one dream, term by term; all inputs are [H+1]."""
    total, alive = 0.0, 1.0
    for k in range(t + 1, t + n + 1):
        total += alive * reward[k]
        alive *= cont[k]
    return total + alive * value[t + n]


def brute_force(reward, value, cont, lam):
    """Returns [H] of one dream as a weighted mean of n-step returns."""
    horizon, returns = len(value) - 1, []
    for t in range(horizon):
        left = horizon - t
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, left)]
        weights.append(lam ** (left - 1))
        steps = [n_step(reward, value, cont, t, n) for n in range(1, left + 1)]
        returns.append(sum(w * g for w, g in zip(weights, steps)))
    return torch.stack(returns)


# %% [markdown] tags=["predict"]
# **Predict.** With $\lambda = 0.95$ and $H = 15$: how much weight has the one-step return
# $G_1$, and how much has $G_{15}$, which follows the dream to its end?
#
# <details><summary>Answer</summary>
#
# $G_1$ has $1 - 0.95 = 0.05$, and $G_{15}$ has $0.95^{14} = 0.488$: almost half of the
# return follows the whole dream.
#
# </details>

# %%
print(f"weight of G_1: {1 - 0.95:.2f}, of G_15: {0.95**14:.3f}")

generator = torch.Generator().manual_seed(0)
shape = 64, 16
dream_reward = torch.randn(shape, generator=generator, dtype=torch.float64)
dream_value = torch.randn(shape, generator=generator, dtype=torch.float64)
dream_cont = torch.rand(shape, generator=generator, dtype=torch.float64)
dream_cont[dream_cont < 0.1] = 0  # some dreams end in the middle
claim(
    "more than half of the dreams end inside",
    (dream_cont[:, 1:] == 0).any(1).float().mean() > 0.5,
)

for lam in (0.0, 0.5, 0.95, 1.0):
    dreams = zip(dream_reward, dream_value, dream_cont)
    truth = torch.stack([brute_force(*dream, lam) for dream in dreams])
    mine = lambda_return(dream_reward, dream_value, dream_cont, lam)
    compare(f"lambda {lam}", mine, truth, tolerance=1e-12)


# %% [markdown]
# Move lambda and the horizon: with lambda 0 all weight is on one step, with lambda 1 all of
# it is on the last one. The dashed line shows how far the return looks on average.

# %% tags=["hide-input"]
def draw_weights(lam, horizon):
    """The weights of the n-step returns in one lambda-return."""
    n = torch.arange(1, horizon + 1)
    weights = (1 - lam) * lam ** (n - 1.0)
    weights[-1] = lam ** (horizon - 1.0)
    mean = (weights * n).sum()
    fig, ax = plt.subplots(figsize=(7.2, 2.8))
    ax.bar(n, weights, color=COLORS["return"])
    ax.axvline(mean, color=COLORS["value"], linestyle=LINESTYLES["value"])
    ax.set(
        xlabel="n, steps that are dreamed before the critic is asked [1]",
        ylabel="weight [1]",
    )
    ax.set(
        title=f"looks {mean:.1f} steps ahead on average", xlim=(0, 31), ylim=(0, 1.05)
    )
    return fig


explore(
    draw_weights,
    alt=lambda lam, horizon: (
        f"Lambda {lam:g} over {horizon} steps: the weights of the n-step returns fall, "
        "and the last one takes the rest."
    ),
    lam=Slider(0.0, 1.0, 0.05, value=0.95),
    horizon=Slider(1, 30, value=15),
)

# %% [markdown]
# ## When the game ends in the dream
#
# The continuation does two jobs. It discounts, and it ends: where it is 0, nothing that is
# dreamed afterwards may count. That is why the reward of the end is *outside* the bracket
# and the future *inside*.

# %% [markdown] tags=["predict"]
# **Predict.** In the toy the game ends at $s_2$: $c_2 = 0$. What are $R_1$ and $R_0$, for
# $\lambda = 0.5$? Does a reward of 1000 at $s_3$ change them?
#
# <details><summary>Answer</summary>
#
# $R_1 = r_2 + 0 = 0$, and $R_0 = 1 + 0.5\,(0.5 \cdot 4.5 + 0.5 \cdot 0) = 2.125$. The 1000
# changes neither: it lies behind the end.
#
# </details>

# %%
ended = torch.tensor([[1.0, 0.5, 0.0, 0.5]])
print(lambda_return(toy_reward, toy_value, ended, 0.5)[:, :2])

tempting = toy_reward.clone()
tempting[0, 3] = 1000.0
print(lambda_return(tempting, toy_value, ended, 0.5)[:, :2])

# %% [markdown]
# In a dream the end is a matter of degree. The world model predicts a *probability* of
# going on, and we multiply with it. The
# [first version of DreamerV3](https://github.com/danijar/dreamerv3/tree/8fa35f8) rounded it
# to 0 or 1 and multiplied with the discount separately; DreamerV2 took the values from a
# slow copy of the critic, while here they come from the critic itself. If you compare with
# older code, look for these two.
#
# ## The same function on real rows
#
# Dreams are not the only place to learn values. The rows of the replay hold rewards that
# were really earned.
#
# > **The paper says.** The critic also learns on trajectories from the replay, with a
# > loss weight of 0.3. The return that was imagined from each replayed state is taken as
# > that state's value, and lambda-returns are computed over the real rewards ("Critic
# > learning").
#
# **So it is the same function**, with three changes of what we pass in: the rewards are
# real; `value` is $R_0$ of the dream that began at the row; and where an episode ends, the
# look along the rows must stop (one says: the *trace* is cut), since the next row belongs
# to another episode. Two flags of notebook 03 do that:
#
# * `is_terminal`: nothing comes after it, so `cont` is 0;
# * `is_last`: we cannot look further *along the rows*, so `lam` is 0 there. If it is not
#   terminal (a time limit), the value still counts.
#
# Two short episodes in one window: the first ends at a flag (terminal), the second is cut off
# by a time limit (last, not terminal), then a third begins.

# %%
row_reward = torch.tensor([[0.0, 1, 5, 0, 1, 1, 0, 1]])
is_terminal = torch.tensor([[0.0, 0, 1, 0, 0, 0, 0, 0]])
is_last = torch.tensor([[0.0, 0, 1, 0, 0, 1, 0, 0]])
imagined = torch.full((1, 8), 4.0)  # R_0 of a dream from each row

# %% [markdown] tags=["predict"]
# **Predict.** The discount is 0.5, so that the numbers stay round, and $\lambda = 1$. What is
# the return of row 1, just before the flag? And of row 4, just before the time limit?
#
# <details><summary>Answer</summary>
#
# Row 1: 5, the reward at the flag, and nothing after it. Row 4: the reward 1 and half of
# what was imagined from the row of the time limit, $1 + 0.5 \cdot 4 = 3$.
#
# </details>

# %%
returns = lambda_return(
    row_reward, imagined, (1 - is_terminal) * 0.5, 1.0 * (1 - is_last)
)
print("returns:  ", returns[0].tolist())
print("is counted:", (1 - is_last)[0, :-1].tolist())

first = lambda_return(
    row_reward[:, :3], imagined[:, :3], torch.tensor([[0.5, 0.5, 0]]), 1.0
)
second = lambda_return(
    row_reward[:, 3:6], imagined[:, 3:6], torch.full((1, 3), 0.5), 1.0
)
compare("first episode alone", returns[:, :2], first, tolerance=0)
compare("second episode alone", returns[:, 3:5], second, tolerance=0)


# %% [markdown]
# The returns of the last rows themselves (rows 2 and 5) reach into the next episode and
# mean nothing. The loss in notebook 08 leaves them out: it is multiplied with `1 - is_last`.
#
# ## The experiment: bias and variance
#
# Why not always look as far as possible? Because a dream, like a game, is full of chance.
# The further we follow it, the more chance is added up. The critic adds no further chance,
# but it may be wrong. Lambda decides whom to trust.
#
# We make a world in which the truth is known. In every step the reward is 1 on average,
# with noise of standard deviation 0.7. With a discount of 0.95 every state is worth
# $1 / (1 - 0.95) = 20$. The critic is too optimistic and says 22. We compute 100,000 returns
# from dreams of 15 steps and ask for two numbers: by how much is their mean wrong (*bias*),
# and how much do they scatter (*variance*)? The mean squared error is bias² + variance.

# %%
def bias_and_variance(lam, error, dreams=100_000, noise=0.7, gamma=0.95, horizon=15):
    """Two numbers about R_0, when the critic is wrong by `error` everywhere."""
    generator = torch.Generator().manual_seed(1)
    reward = 1 + noise * torch.randn(dreams, horizon + 1, generator=generator)
    value = torch.full_like(reward, 1 / (1 - gamma) + error)
    first = lambda_return(reward, value, torch.full_like(reward, gamma), lam)[:, 0]
    return (first.mean() - 1 / (1 - gamma)).item(), first.var().item()


lams = [i / 20 for i in range(21)]
young = torch.tensor([bias_and_variance(lam, error=2.0) for lam in lams])
grown = torch.tensor([bias_and_variance(lam, error=0.5) for lam in lams])


# %% [markdown]
# For a noise as simple as this the two can also be written down. The critic's error $e$
# enters wherever a value is used, the noise $\sigma$ wherever a reward is used:
#
# $$\text{bias} = e\,\Big(\gamma (1-\lambda) \sum_{k=0}^{H-2} (\gamma\lambda)^k
# + \gamma (\gamma\lambda)^{H-1}\Big) \qquad
# \text{variance} = \sigma^2 \sum_{k=0}^{H-1} (\gamma\lambda)^{2k}$$

# %%
def on_paper(lam, error, noise=0.7, gamma=0.95, horizon=15):
    """Bias and variance by the two formulas above."""
    steps = torch.arange(horizon)
    decay = (gamma * lam) ** steps
    bias = error * (gamma * (1 - lam) * decay[:-1].sum() + gamma * decay[-1])
    return bias.item(), (noise**2 * (decay**2).sum()).item()


formula = torch.tensor([on_paper(lam, 2.0) for lam in lams])
gap = (young - formula).abs() / formula.abs()
claim("experiment and formula differ by less than 5 %", (gap < 0.05).all())


# %% tags=["hide-input"]
def draw_errors(ax, measured, title):
    """Bias, variance and their sum over lambda."""
    bias, variance = measured[:, 0] ** 2, measured[:, 1]
    total = bias + variance
    best = int(total.argmin())
    ax.plot(lams, bias, **line("value"), label="bias² (the critic)")
    ax.plot(lams, variance, **line("reward"), label="variance (chance)")
    ax.plot(lams, total, **line("error"), label="squared error")
    ax.plot(lams[best], total[best], "o", color=COLORS["error"])
    ax.set(xlabel="lambda [1]", title=f"{title}: best at {lams[best]:.2f}", ylim=(0, 5))


fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.1), sharey=True)
draw_errors(axes[0], young, "critic off by 2")
draw_errors(axes[1], grown, "critic off by 0.5")
axes[0].set(ylabel="squared error of a return [1]")
axes[0].legend()
show(
    fig, alt="Bias falls and variance rises with lambda; their sum is least in between."
)

# %%
squared = young[:, 0] ** 2 + young[:, 1]
best = lams[int(squared.argmin())]
best_grown = lams[int((grown[:, 0] ** 2 + grown[:, 1]).argmin())]
claim("bias falls with every step of lambda", (young[:, 0].diff() < 0).all())
claim("variance rises with every step of lambda", (young[:, 1].diff() > 0).all())
claim(
    "from lambda 0 to 1 variance grows at least sixfold", young[-1, 1] > 6 * young[0, 1]
)
claim(
    "with the wrong critic the best lambda is between 0.5 and 0.95", 0.5 <= best <= 0.95
)
claim("a better critic wants a smaller lambda", best_grown < best)

# %% [markdown]
# So no lambda is best for the whole of training: a young critic wants a long look, a
# grown one a short look. The paper uses 0.95 throughout. Our noise is the same in every
# state and so is the critic's error, which no real game offers; but the two directions
# are the usual ones: more of the dream is more chance, more of the critic more of its error.
#
# ## How large is a large return?
#
# The actor of notebook 08 will maximise two things at once: the *advantage* (return minus
# value: how much better it went than the critic expected) and, a little, its *entropy* (how
# undecided it is), so that it keeps trying. In the paper the entropy has the weight
# $3 \cdot 10^{-4}$ in every game. But games count in different coins. How large is an
# advantage beside that weight?

# %%
generator = torch.Generator().manual_seed(2)
noise = torch.randn(1024, 15, generator=generator)
for size in (0.01, 1.0, 100.0):
    ratio = float(f"{(size * noise).std() / 3e-4:.1g}")
    print(f"returns around {size:<6} advantage : entropy weight = {ratio:9,.0f} : 1")

# %% [markdown]
# A weight that counts a little in the first game counts for nothing in the last. Normalising
# is the cure for large returns (small ones are left alone on purpose, see below), and there
# are traps on the way.
#
# > **The paper says** (equations 6 and 7, section "Actor learning"). Divide by the range of
# > the returns, from the 5th to the 95th percentile, smoothed over time, and never by less
# > than 1. Subtracting an offset would change nothing for the actor:
# >
# > $$\frac{R^\lambda_t - v_t}{\max(1, S)} \qquad
# > S = \text{EMA}\big(\text{Per}(R^\lambda_t, 95) - \text{Per}(R^\lambda_t, 5),\ 0.99\big)$$
#
# Each part has a reason. *Percentiles* instead of smallest and largest, because of
# outliers. Let one dream in a hundred find a treasure of 1000:

# %%
treasure = torch.rand(1000, generator=generator)
treasure[::100] = 1000.0
low, high = torch.quantile(treasure, torch.tensor([0.05, 0.95]))

print(f"largest - smallest: {treasure.max() - treasure.min():.0f}")
claim("the percentile range stays below 1", high - low < 1)


# %% [markdown]
# *Never below 1*, because small returns are often noise. Before the first reward is found,
# all returns are errors of the networks. Divided by their own tiny range they would look as
# important as a real goal, and outweigh the entropy that should make the agent explore.
#
# *A moving average* (EMA, exponential moving average), because one batch is not the whole
# game. It starts at 0, and each update takes it one hundredth of the way to the new batch.

# %%
#| export
class ReturnNormalizer(nn.Module):
    """Running spread of the returns: what an advantage is divided by.

    An exponential moving average of the 5th and 95th percentile, from 0 and without
    bias correction, and never a divisor below 1, so that small returns (sparse rewards,
    noise) are not blown up.
    Args: rate, the share of the newest batch; low, high, the two percentiles; limit,
    the smallest divisor. Source: DreamerV3, equations 6 and 7.
    """

    def __init__(
        self,
        rate: float = 0.01,
        low: float = 0.05,
        high: float = 0.95,
        limit: float = 1.0,
    ):
        super().__init__()
        self.rate, self.limit = rate, limit
        self.register_buffer("quantiles", torch.tensor([low, high]), persistent=False)
        self.register_buffer("range", torch.zeros(2))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take in a batch of returns (any shape)."""
        percentiles = torch.quantile(returns.detach().float().flatten(), self.quantiles)
        self.range.lerp_(percentiles, self.rate)

    @property
    def scale(self) -> Tensor:
        """The divisor, a tensor of no dimensions, at least `limit`."""
        return (self.range[1] - self.range[0]).clamp(min=self.limit)


# %% [markdown]
# The two percentiles are averaged one by one, which gives the same as averaging their
# difference. They live in a buffer, so that they are saved with the agent.
#
# The check: a batch whose percentiles are exactly -2 and 8, once and a hundred times.

# %% [markdown] tags=["predict"]
# **Predict.** The range of the returns is 10 in every batch. What is $S$ after the first
# update, and after 100? What does the actor divide by?
#
# <details><summary>Answer</summary>
#
# $S_1 = 0.01 \cdot 10 = 0.1$; the divisor is 1. $S_{100} = 10\,(1 - 0.99^{100}) = 6.34$, and
# that is also the divisor.
#
# </details>

# %%
batch = torch.cat([torch.full((10,), -2.0), torch.zeros(80), torch.full((10,), 8.0)])
normalizer = ReturnNormalizer()
normalizer.update(batch)
print("S after 1 update:", round((normalizer.range[1] - normalizer.range[0]).item(), 4))
print("divided by:", normalizer.scale.item())

for _ in range(99):
    normalizer.update(batch)
print("S after 100 updates:", round(normalizer.scale.item(), 2))
compare("S", normalizer.scale, torch.tensor(10 * (1 - 0.99**100)), tolerance=1e-4)


# %% [markdown]
# Move the size of the returns and the share of treasures. On the left the returns, on the
# right the same returns after the division: large ones come down to about 1, small ones
# stay as they are. (The counts are on a logarithmic scale, so that the few treasures can be
# seen. On the right, what lies beyond 8 is counted at 8.)

# %%
def draw_normalized(exponent, treasures):
    """Returns and what remains of them after normalisation, as histograms."""
    generator = torch.Generator().manual_seed(3)
    returns = 10.0**exponent * torch.randn(4000, generator=generator)
    returns[: 40 * treasures] *= 20
    normalizer = ReturnNormalizer(rate=1.0)  # as after many updates
    normalizer.update(returns)
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 2.8))
    axes[0].hist(returns, bins=60, color=COLORS["return"])
    axes[1].hist(
        (returns / normalizer.scale).clamp(-8, 8), bins=60, color=COLORS["advantage"]
    )
    axes[0].set(xlabel="return [1]", ylabel="count [1]", title="as dreamed")
    axes[1].set(xlabel="return / max(1, S) [1]", xlim=(-8, 8))
    for ax in axes:
        ax.set_yscale("log")
    axes[1].set(title=f"divided by {normalizer.scale:.3g}")
    return fig


explore(
    draw_normalized,
    alt=lambda exponent, treasures: (
        f"Returns of size {10**exponent:.3g} with {treasures} % treasures, before and "
        "after they are divided by their range."
    ),
    exponent=Slider(-2.0, 3.0, 0.5, value=2.0, label="size: 10 to the"),
    treasures=Slider(0, 10, value=1, label="treasures [%]"),
)

# %%
spread = {}
for size in (0.01, 1.0, 100.0, 10_000.0):
    normalizer = ReturnNormalizer(rate=1.0)
    normalizer.update(size * noise)
    spread[size] = ((size * noise) / normalizer.scale).std().item()

claim(
    "returns of 100 and of 10,000 look alike", abs(spread[100] - spread[10_000]) < 1e-3
)
claim("large returns come down below 1", 0.2 < spread[100] < 0.5)
claim("returns of 0.01 stay below 0.011", 0.009 < spread[0.01] < 0.011)


# %% [markdown]
# DreamerV2 had nothing of this kind, and tuned the weight of the entropy for each group of
# games. Other agents divide *advantages* by their own spread, which blows up noise while
# rewards are still rare (the paper's argument, in "Actor learning").
#
# ## Exercises

# %% [markdown]
# ### Exercise 7.1: The n-step return
#
# *easy, about 10 minutes*
#
# Write $G_n$ for a batch of dreams. A loop over the steps, two lines in it, and one after it.

# %% tags=["exercise-7.1"]
def n_step_return(reward, value, cont, n):
    """Follow the dream for n steps from s_0, then ask the critic: [B].

    Args: reward, value, cont [B, H+1], aligned with the states; 1 <= n <= H.
    """
    raise NotImplementedError("exercise 7.1")


# %%
check("7.1", n_step_return)


# %%
# solution("7.1")

# %% [markdown]
# ### Exercise 7.2: An agent that never succeeds
#
# *medium, about 10 minutes, one planted bug*
#
# These lambda-returns come from an agent that trained for days and never reached its goal.
# Its losses looked healthy. Find the bug.

# %% tags=["exercise-7.2"]
def dream_return(reward, value, cont, lam=0.95):
    """Lambda-returns [B, H] of dreams; all inputs are [B, H+1]."""
    reward, cont, bootstrap = reward[:, 1:], cont[:, 1:], value[:, 1:].roll(-1, 1)
    later, returns = value[:, -1], []
    for t in reversed(range(reward.shape[1])):
        mixed = (1 - lam) * bootstrap[:, t] + lam * later
        later = reward[:, t] + cont[:, t] * mixed
        returns.append(later)
    return torch.stack(returns[::-1], 1)


# %%
check("7.2", dream_return)


# %%
# solution("7.2")

# %% [markdown]
# ### Exercise 7.3: One coin for every game
#
# *medium, about 10 minutes*
#
# Write the return normaliser as two functions: one moves the running percentiles, one
# uses them.

# %% tags=["exercise-7.3"]
def update_range(low_high, returns, rate=0.01):
    """The running 5th and 95th percentile [2] after one more batch (any shape)."""
    raise NotImplementedError("exercise 7.3")


def normalized_advantage(returns, value, low_high):
    """What the actor learns from: the advantage, divided by the range or by 1."""
    raise NotImplementedError("exercise 7.3")


# %%
check("7.3", update_range, normalized_advantage)

# %%
# solution("7.3")

# %% [markdown]
# ## What breaks
#
# | what people did | how it looked | how it was found |
# |---|---|---|
# | the reward of $s_{t+1}$ with the value of $s_{t+2}$ | the agent [never succeeds](https://github.com/epignatelli/navix/pull/152), all losses look healthy | brute force, as above |
# | the value of the state in which one stands, as the formula is printed | with lambda 0 the critic learns from itself | the walk to the flag: one field knows, for ever |
# | the continuation one step late | the agent hopes for rewards after its death | a 0 in the middle of a dream |
# | no bootstrap at the end, or 0 | rewards beyond the horizon count too little, with lambda 1 not at all (`add_up` above); the late states of a dream, which have few steps left, lose near ones too | lambda 1, by hand |
# | normaliser built but [not applied](https://github.com/pytorch/rl/pull/4125) | works for rewards near 1, fails for scores | returns of 100 and of 10,000 must give the same advantages |
# | advantages divided by their own spread | exploration stops before the first reward | returns of 0.01 must stay 0.01 |
#
# ## What we built
#
# `lambda_return`, which blends a dream with the critic's opinion, for dreams and for real
# rows, and `ReturnNormalizer`, which brings returns of any game down to one size. Now every
# dreamed step has a return. Notebook 08 trains the critic to predict it and the actor to
# raise it, without touching the real game.

# %%
what_we_built("07_lambda_returns")
