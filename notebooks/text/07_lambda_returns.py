# %% [markdown]
# # 07 Lambda-returns: how far ahead should the agent look?
#
# **The question.** Mario dreams for 15 steps and earns some reward. Then the dream stops.
# How good was what he did? We measure it by the *return*, the sum of all rewards from here
# to the end, including those that come after the dream. And is a return of 3 a lot or a
# little?
#
# In notebook 08 two networks learn from the answer. The *actor* chooses the actions. The
# *critic* guesses how much reward is still to come. For now it is enough to know that both
# exist, and that the critic can be wrong.
#
# The answer is two short pieces of code. The *lambda-return* blends what was dreamed with
# what the critic believes. *Return normalisation* then measures how large returns usually
# are, so that one setting of the actor works for every game.
#
# **At the end** you have computed returns by hand, and written the function that computes
# them for the agent. You have also measured what we gain and what we lose by looking
# further ahead.
#
# **You need** PyTorch tensors, and one fact from notebook 06: a dream is a sequence of
# states, and for each state the world model predicts a reward and the probability that the
# game continues.
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
#| default_exp lambda_returns
import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, LINESTYLES, Slider, check, claim, compare
from course import dreamer_map, explore, hint, lambda_recursion, line, show
from course import solution, use_style, what_we_built

use_style()
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
# ## The goal
#
# By the end you can draw this picture yourself and explain every line in it. From left to
# right we turn a knob, $\lambda$ (lambda). At 0 we follow the dream for one step and then ask
# the critic. At 1 we follow the dream to its end.
#
# The height says how wrong the answer is, and there are two reasons for it. One curve falls:
# the further we look, the less we rely on a critic that is wrong. The other rises, because
# every further step of the dream adds chance. The third is the sum of the two. Its lowest
# point, the dot, lies in between.

# %% tags=["hide-input"]
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

# %% [markdown]
# ## Two simple answers that fail
#
# Do we need anything clever here? Let us try the two obvious answers first, in a world that
# is small enough to see through.
#
# Mario walks along 20 fields. Behind the last one is the flag. Reaching it pays 5 and ends
# the game. From each field he dreams 15 steps ahead.
#
# For every dream we write down three numbers per state. They are *aligned with the states*
# $s_0 \dots s_H$, where $H = 15$ is the horizon:
#
# * the reward $r_t$ that arrives with state $s_t$;
# * the continuation $c_t$. While the game continues it is the discount $\gamma = 0.997$, and
#   all that comes *after* the reward of $s_t$ is multiplied by it. Seen from $s_0$, the next
#   reward $r_1$ counts in full, $r_2$ counts $c_1 = 0.997$ times, and $r_3$ counts $c_1 c_2 =
#   0.997^2$ times. At the end of the game $c_t$ is 0;
# * the value $v_t$, which is what the critic believes is still to come after $s_t$. A new
#   critic believes 0.

# %%
FIELDS, H, GAMMA = 20, 15, 0.997
field = torch.arange(FIELDS)[:, None] + torch.arange(H + 1)  # [20 dreams, 16 states]
reward = 5.0 * (field == FIELDS)
cont = GAMMA * (field < FIELDS)
field = field.clamp(max=FIELDS)  # after the flag nothing happens any more

print("rewards seen from field 3: ", reward[3].sum().item())
print("rewards seen from field 10:", reward[10].sum().item())


# %% [markdown] tags=["predict"]
# *The first answer: add up the dreamed rewards*, discounted. From fields 0 to 4 the flag is
# more than 15 steps away, so the sum is 0 there. The agent is blind beyond its horizon.
#
# *The second answer: take one reward, then ask the critic*. The sum $r_1 + c_1 v_1$ becomes
# the critic's new value, and we do that again and again. Now news of the flag can travel
# any distance, from field to field.
#
# **Predict.** We count the fields that have noticed the flag after 1, 2 and 20 updates. For
# which of the two answers does this number grow? How fast?
#
# <details><summary>Answer</summary>
#
# Adding up never asks the critic, so repeating it changes nothing: it is 15 fields every
# time. With the second answer the news moves by one field per update: 1, then 2, and after
# 20 updates all 20.
#
# </details>

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
# ## The equation
#
# Adding up never reaches the first five fields. Asking the critic reaches all of them, but
# only after twenty updates. We want both: far *and* fast. The lambda-return gets both by
# mixing the two answers.
#
# > **[The paper](https://arxiv.org/abs/2301.04104) says** (equation 5, section "Critic
# > learning"). To see rewards beyond the horizon, the critic learns from bootstrapped
# > lambda-returns, which mix predicted rewards and values:
# >
# > $$R^\lambda_t = r_t + \gamma\, c_t \big((1-\lambda)\, v_t + \lambda R^\lambda_{t+1}\big)
# > \qquad R^\lambda_T = v_T$$
#
# **What we compute.** Printed like this, the indices are easy to misread. Three numbers must
# belong to the state in which the step *arrives*: the reward, the continuation, and the
# value that is mixed with $R_{t+1}$. The
# [authors' code](https://github.com/danijar/dreamerv3) takes the next state for all three.
# In our alignment, with the discount already inside $c$, that is:
#
# $$R_H = v_H \qquad\qquad
# R_t = r_{t+1} + c_{t+1} \big((1-\lambda)\, v_{t+1} + \lambda R_{t+1}\big)$$
#
# In words: after one step you get the reward. If the game continues, a mixture is added to
# it. The part $1-\lambda$ trusts the critic at once. The part $\lambda$ looks one step
# further, where the same question is asked again.
#
# Where the dream stops we cannot look further. There the critic's guess $v_H$ takes the
# place of everything that would follow. This is called *bootstrapping*, and $v_H$ is the
# bootstrap.

# %% [markdown] tags=["aside"]
# ### Aside: the index taken literally
#
# Does the index really matter? Set $\lambda = 0$ and take the value as it is printed.
# Reward and continuation come from the next state, but the value from the state that
# Mario leaves.
#
# Now every field asks only itself. One field learns of the flag, because it sees the reward
# directly, and the news never travels any further.

# %%
def to_the_letter(value):
    """One reward, then the critic's opinion of the state that was just left."""
    return reward[:, 1] + cont[:, 1] * value[:, 0]


knows = [int((sweep(to_the_letter, n) > 0.01).sum()) for n in (1, 2, 20)]
print("fields that know of the flag:", knows)

# %% [markdown]
# ## By hand
#
# The quickest way to trust an equation is to work through it once on paper. Here is a dream
# of four states, so $H = 3$, with friendly numbers.

# %%
toy_reward = torch.tensor([[0.0, 1.0, 0.0, 2.0]])
toy_value = torch.tensor([[9.0, 4.5, 2.0, 4.0]])
toy_cont = torch.tensor([[1.0, 0.5, 0.5, 0.5]])

# %% [markdown] tags=["predict"]
# **Predict.** Take $\lambda = 0.5$ and work from right to left: $R_3$, $R_2$, $R_1$, $R_0$.
# Which of the twelve numbers above do you never use?
#
# <details><summary>Answer</summary>
#
# $R_3 = v_3 = 4$. $R_2 = 2 + 0.5\,(0.5 \cdot 4 + 0.5 \cdot 4) = 4$.
# $R_1 = 0 + 0.5\,(0.5 \cdot 2 + 0.5 \cdot 4) = 1.5$.
# $R_0 = 1 + 0.5\,(0.5 \cdot 4.5 + 0.5 \cdot 1.5) = 2.5$.
#
# The three numbers of state 0 are never used. Its reward and its continuation belong to
# the step that led there. Its value is what the critic believed before we looked.
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
# Read the bottom row of the picture from right to left. Each return needs the return to its
# right, and the three numbers above that one. So a single walk from the end of the dream to
# its beginning gives us all the returns.
#
# ## Build it yourself
#
# ### Exercise 7.0: Write the lambda-return
#
# *hard, about 40 minutes, 7 lines to write, 3 hints*
#
# This is the heart of the notebook, and you have everything you need. Write it before you
# look at ours. The check has four stages: shapes, numbers by hand, ends inside a dream, and
# the authors' own numbers. It tells you how far you got. Finally it compares random dreams
# and their gradients.
#
# One thing is new: $\lambda$ may also be a tensor, with one number for each state. Then the
# step from $s_t$ takes $\lambda_{t+1}$, the number of the state in which it arrives, as it
# does with reward, continuation and value. We will need that below, in "The same function
# on real rows".
#
# If you are stuck, `hint("7.0", 1)` nudges and `hint("7.0", 3)` outlines. The solution is
# there when you want to compare. You can also just read on: the notebook continues with our
# version and needs nothing of yours.

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
# hint("7.0", 1)
# solution("7.0")

# %% [markdown]
# ## Our version
#
# We fill a list from the back and then reverse it. The first two lines inside the loop are
# the two halves of the equation. Fifteen small steps cost almost nothing compared with the
# dream itself, so there is no reason to be clever.

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
# Does it give the numbers that you computed by hand? We also try the two ends of the knob.
# With $\lambda = 0$ it asks the critic after one step, $1 + 0.5 \cdot 4.5$. With
# $\lambda = 1$ it asks only at the end.

# %%
toy = toy_reward, toy_value, toy_cont
by_hand = torch.stack([R0, R1, R2]).detach()
compare("lambda 0.5, by hand", lambda_return(*toy, 0.5)[0], by_hand, tolerance=0)
for lam in (0.0, 1.0):
    print(f"lambda {lam}: R_0 = {lambda_return(*toy, lam)[0, 0].item()}")


# %% [markdown] tags=["predict"]
# Now back to the flag, which needs a look that is far and fast.
#
# **Predict.** With $\lambda = 0.95$ and dreams of 15 steps, how many of the 20 fields know
# of the flag after one update? After two? And do their values lie above or below those of
# plain adding up?
#
# <details><summary>Answer</summary>
#
# 15 after the first update, which is as far as a dream reaches, and all 20 after the
# second. On the first five fields the values are now above those of adding up, which stay 0.
# On the others they are the same or a little lower, because a part of each return still
# listens to the critic, and the critic began at 0.
#
# </details>

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
# Look at the five fields on the left: only the lambda-return has reached them. Elsewhere it
# equals the plain sum next to the flag, and is still a little below it further away. That gap closes by itself, update by update, as the
# critic learns.

# %% [markdown] tags=["aside"]
# ### Aside: the same return as a weighted mean
#
# There is a second way to see the lambda-return. It makes a good test, because it shares
# not a single line with our loop.
#
# Call $G_n$ the *n-step return*: follow the dream for $n$ steps, then ask the critic.
#
# $$G_n = r_1 + c_1 r_2 + c_1 c_2 r_3 + \dots + c_1 \cdots c_{n-1} r_n + c_1 \cdots c_n v_n$$
#
# The lambda-return is a weighted mean of all of them. To see why, we split the equation for
# $R_0$ into two parts:
#
# $$R_0 = (1-\lambda)\,(r_1 + c_1 v_1) + \lambda\,(r_1 + c_1 R_1)$$
#
# The first bracket is $G_1$: it asks the critic after one step. In the second, $R_1$ can be
# split in the same way, and so on to the end of the dream. So each further step has
# $\lambda$ times the weight of the one before, and the last one takes what remains:
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


# %%
generator = torch.Generator().manual_seed(0)
shape = 64, 16
dream_reward = torch.randn(shape, generator=generator, dtype=torch.float64)
dream_value = torch.randn(shape, generator=generator, dtype=torch.float64)
dream_cont = torch.rand(shape, generator=generator, dtype=torch.float64)
dream_cont[dream_cont < 0.1] = 0  # some dreams end in the middle

for lam in (0.0, 0.5, 0.95, 1.0):
    dreams = zip(dream_reward, dream_value, dream_cont)
    truth = torch.stack([brute_force(*dream, lam) for dream in dreams])
    mine = lambda_return(dream_reward, dream_value, dream_cont, lam)
    compare(f"lambda {lam}", mine, truth, tolerance=1e-12)


# %% [markdown] tags=["predict"]
# **Predict.** Draw the 15 weights for $\lambda = 0.95$ as bars. Do they rise or fall? Which
# bar is the tallest?
#
# <details><summary>Answer</summary>
#
# They fall slowly, from 0.05 for $G_1$. But the last bar is by far the tallest:
# $0.95^{14} = 0.488$. Almost half of the return follows the whole dream.
#
# </details>

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
# A dream always has the same length, but Mario may die in the middle of it. The model
# dreams on, and nothing that it dreams after the end may count.
#
# So the continuation has two jobs: it discounts, and it ends. Look at the equation again.
# The reward is *outside* the bracket, because dying still brings its reward. The future is
# *inside*, where a continuation of 0 removes it.

# %% [markdown] tags=["predict"]
# **Predict.** In our toy dream the game now ends at $s_2$, so $c_2 = 0$. At $s_3$ a reward
# of 1000 is waiting. Which of the three returns $R_0$, $R_1$, $R_2$ notice it?
#
# <details><summary>Answer</summary>
#
# Only $R_2$, whose step begins where the game has already ended. (In notebook 08 such a
# step gets the weight 0.) $R_1$ and $R_0$ stay as they are, 0 and 2.125, because the 1000
# lies behind the end.
#
# </details>

# %%
ended = torch.tensor([[1.0, 0.5, 0.0, 0.5]])
print("without:", lambda_return(toy_reward, toy_value, ended, 0.5)[0].tolist())

tempting = toy_reward.clone()
tempting[0, 3] = 1000.0
print("with:   ", lambda_return(tempting, toy_value, ended, 0.5)[0].tolist())

# %% [markdown]
# In a real dream the end is a matter of degree. The world model predicts the *probability*
# that the game continues, and we multiply by it. A dream that ends with probability 0.3
# keeps 70 % of its future. The continue head of notebook 06 predicts this probability with
# the discount already inside, so this one number does both jobs.
#
# ## The same function on real rows
#
# We can also learn values from real experience. The rows of the replay hold rewards that
# were really earned, so they can correct a critic that was misled by a dream.
#
# > **The paper says.** The critic also learns on trajectories from the replay, with a
# > loss weight of 0.3. The return that was imagined from each replayed state is taken as
# > that state's value, and lambda-returns are computed over the real rewards ("Critic
# > learning").
#
# **So it is the same function.** Only what we pass in is different. `reward` holds the real
# rewards, and `value` holds, for each row, the $R_0$ of a dream that began at that row. Why
# not the critic's own value? Because $R_0$ knows more: it holds the predicted rewards of up to
# 15 steps, so less of it is the critic's opinion.
#
# There is one complication: a window of rows may hold the end of one episode and the
# beginning of the next. The rewards of the next episode must not count for this one. Two
# flags from notebook 03 take care of it:
#
# * `is_terminal`: the game ended in this row and nothing comes after it, so `cont` is 0;
# * `is_last`: the next row belongs to another episode, so `lam` is 0. The return then takes
#   the value of this row and looks no further. If the row is terminal, its `cont` of 0
#   removes that value. If it is not, as with a time limit, the value counts.
#
# What is the return *of* a last row? Its step would lead into the next episode, so it means
# nothing. Notebook 08 leaves such rows out of the loss.

# %%
# Row 2 is the flag: terminal. Row 5 is cut off by a time limit: last, not terminal.
row_reward = torch.tensor([[0.0, 1, 5, 0, 1, 1, 0, 1]])
is_terminal = torch.tensor([[0.0, 0, 1, 0, 0, 0, 0, 0]])
is_last = torch.tensor([[0.0, 0, 1, 0, 0, 1, 0, 0]])
imagined = torch.full((1, 8), 4.0)  # R_0 of a dream from each row

# %% [markdown] tags=["predict"]
# **Predict.** The cell above holds eight rows. Row 2 is the flag, where the first episode
# ends. At row 5 a time limit cuts the second episode off. So rows 1 and 4 are each one step
# before an end. From every row a return of 4 was imagined, and the discount is 0.5. What
# are the returns of these two rows? And which of the two contains an imagined value?
#
# <details><summary>Answer</summary>
#
# Only the one before the time limit. At the flag the game is over, so row 1 has 5, the
# reward, and nothing more. A time limit is not an end of the game: Mario could have played
# on. With a discount of 0.5 row 4 has $1 + 0.5 \cdot 4 = 3$.
#
# </details>

# %%
returns = lambda_return(  # lambda is 1 here, and 0 in last rows
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
# ## The experiment: bias and variance
#
# Why not always look as far as possible? Because a dream, like a game, is full of chance.
# The further we follow it, the more chance is added up. Asking the critic adds no chance,
# but the critic may be wrong. Lambda decides which of the two we trust.
#
# To measure this we make a world in which the truth is known. Every step pays 1 on average,
# with noise of standard deviation 0.7. With a discount of 0.95 every state is worth
# $1 + 0.95 + 0.95^2 + \dots = 1 / (1 - 0.95) = 20$.
#
# The critic is too optimistic and says 22. We compute 100,000 returns from dreams of 15
# steps and ask two questions. By how much is their mean wrong? This is the *bias*. How much
# do they scatter? This is the *variance*. The mean squared error is bias² + variance: a return
# misses the truth by the bias plus its own scatter, and the square of that is bias² + 2 · bias
# · scatter + scatter². On average the scatter is 0, so the middle term vanishes.

# %% [markdown] tags=["predict"]
# **Predict.** You have seen bias² and variance over $\lambda$ in the first picture. Why does
# the bias fall, and why does the variance rise? If the critic becomes better, does the best
# $\lambda$ move to the left or to the right?
#
# <details><summary>Answer</summary>
#
# The bias falls: the further we look, the less the critic's error counts. The variance
# rises, because each step adds noise. With a better critic there is less bias to avoid, so
# a shorter look is best, and the best $\lambda$ moves to the left.
#
# </details>

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
# So no lambda is best for the whole of training. Early on the critic is poor, and a long
# look is better. Later the critic is good, and a short look is enough. The paper uses 0.95
# throughout.
#
# No real game has the same noise in every state, and no real critic is wrong by the same
# amount everywhere. But there, too, looking further usually brings more chance, and asking
# the critic earlier brings more of its error.

# %% [markdown] tags=["aside"]
# ### Aside: the two curves as formulas
#
# For such a simple noise, bias and variance can be written down. This is how the picture at
# the top was drawn. Put $R_1$ into the equation for $R_0$, then $R_2$, and so on. You find
# that the reward $r_{k+1}$ counts with the factor $(\gamma\lambda)^k$, and the value of the
# same state with $\gamma (1-\lambda) (\gamma\lambda)^k$. Only the last value has no
# $1-\lambda$, because nothing follows it.
#
# Each value is wrong by the critic's error $e$, and these errors add up to the bias. Each
# reward has its own noise of size $\sigma$, so the *squares* of its factors add up to the
# variance:
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

# %% [markdown]
# ## How large is a large return?
#
# We can now say how good a dream was. But is 3 a lot? The actor of notebook 08 needs to
# know, because it wants two things at once.
#
# One is a high *advantage*: return minus value, or how much better it went than the critic
# expected. The other is some *entropy*: the actor should stay a little undecided, so that
# it keeps trying. In the paper the entropy has the weight $3 \cdot 10^{-4}$ in every game.
#
# The actor maximises a sum of the two, so it matters which of them is larger. But games pay
# in different coins. We have no actor yet, so we make advantages up: random numbers with a
# standard deviation of 0.01, of 1 and of 100, as in three games. How large are they, compared
# with that weight?

# %%
generator = torch.Generator().manual_seed(2)
noise = torch.randn(1024, 15, generator=generator)
for size in (0.01, 1.0, 100.0):
    ratio = float(f"{(size * noise).std() / 3e-4:.1g}")
    print(f"advantages of {size:<6} advantage : entropy weight = {ratio:9,.0f} : 1")


# %% [markdown]
# The same weight counts a little in the first game and nothing at all in the last one. So
# we bring the returns to one size before the actor sees them.
#
# > **The paper says** (equations 6 and 7, section "Actor learning"). Subtracting an offset
# > would change nothing for the actor. So only divide: by the range of the returns, from the
# > 5th to the 95th percentile, smoothed over time, and never by less than 1:
# >
# > $$\frac{R^\lambda_t - v_t}{\max(1, S)} \qquad
# > S = \text{EMA}\big(\text{Per}(R^\lambda_t, 95) - \text{Per}(R^\lambda_t, 5),\ 0.99\big)$$
#
# An *offset* is one fixed number that is subtracted from every return. The value $v_t$ is not
# an offset in this sense, because it differs from state to state; notebook 08 shows why it is
# subtracted. The *5th percentile* is the number that 5 % of the returns lie below.
#
# Each part has a reason.
#
# *Percentiles*, because the smallest and the largest return may be outliers. If one dream in
# a hundred finds a treasure, it should not make all the others look small.
#
# *Never below 1*, because small returns are often noise. Before the first reward is found,
# all returns are errors of the networks. Divided by their own tiny range they would look
# like a real goal, and they would outweigh the entropy that makes the agent explore.
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


# %% [markdown] tags=["predict"]
# The two percentiles are averaged one by one, which gives the same as averaging their
# difference. They live in a buffer, so that they are saved together with the agent.
#
# **Predict.** We feed in a batch whose range is 10, again and again. Draw the divisor
# $\max(1, S)$ over 400 updates. Where does it begin, when does it leave that value, and how
# does it approach 10?
#
# <details><summary>Answer</summary>
#
# It begins at 1 and stays there for ten updates, because $S$ climbs from 0 and is still
# below 1. Then it follows $S = 10\,(1 - 0.99^n)$: fast at first and ever more slowly. After
# 100 updates it is at 6.34, after 400 just below 10.
#
# </details>

# %%
batch = torch.cat([torch.full((10,), -2.0), torch.zeros(80), torch.full((10,), 8.0)])
normalizer, divisor = ReturnNormalizer(), []
for _ in range(400):
    normalizer.update(batch)
    divisor.append(normalizer.scale.item())
print("divided by, after 1, 100 and 400 updates:", np.round(divisor, 2)[[0, 99, 399]])

fig, ax = plt.subplots(figsize=(7.2, 2.2))
ax.plot(range(1, 401), divisor, **line("return"), label="max(1, S)")
ax.axhline(10, **line("threshold"), label="range of every batch")
ax.set(xlabel="update [1]", ylabel="divisor [1]", ylim=(0, 11))
ax.legend(loc="lower right")
show(fig, alt="The divisor stays at 1 for ten updates, then climbs slowly towards 10.")


# %% [markdown]
# The slowness is on purpose. Each batch moves the divisor by only a hundredth of the way, so
# the actor's task changes gently. In a run you can watch the divisor under the name
# `return/scale`; the page [metrics](reference/metrics.md) shows how it should look.
#
# Now move the size of the returns and the share of treasures. On the left are the returns,
# on the right the same returns after the division. Notice that large ones come down to
# about 1 and small ones stay as they are. The counts are logarithmic, so that the few
# treasures can be seen, and what lies beyond 8 is counted at 8.

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
    "returns of 100 and of 10,000 get the same size",
    abs(spread[100] - spread[10_000]) < 1e-3,
)
claim("large returns come down below 1", 0.2 < spread[100] < 0.5)
claim("returns of 0.01 stay below 0.011", 0.009 < spread[0.01] < 0.011)


# %% [markdown]
# So a return of 3 is a lot in a game whose returns differ by 4, and little in one whose
# returns differ by 400. The actor no longer has to care.
#
# ## Exercises
#
# ### Exercise 7.1: The n-step return
#
# *easy, about 10 minutes*
#
# Follow each dream for $n$ steps and then ask the critic. In symbols, for a batch of
# dreams, this is
#
# $$G_n = r_1 + c_1 r_2 + \dots + c_1 \cdots c_{n-1} r_n + c_1 \cdots c_n v_n$$
#
# You need a loop over the steps with two lines in it, and one line after it.

# %% tags=["exercise-7.1"]
def n_step_return(reward, value, cont, n):
    """Follow the dream for n steps from s_0, then ask the critic: [B].

    Args: reward, value, cont [B, H+1], aligned with the states; 1 <= n <= H.
    """
    raise NotImplementedError("exercise 7.1")


# %%
check("7.1", n_step_return)
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
# solution("7.2")

# %% [markdown]
# ### Exercise 7.3: One coin for every game
#
# *medium, about 10 minutes*
#
# Write the return normaliser as two functions. The first returns the new running percentiles,
# the low one first, and leaves the old ones unchanged. The second returns the advantage,
# divided by the range or by 1, whichever is larger. Here `returns` and `value` have the same
# shape, because the value of the last state has already been cut off.

# %% tags=["exercise-7.3"]
def update_range(low_high, returns, rate=0.01):
    """The running 5th and 95th percentile [2] after one more batch (any shape)."""
    raise NotImplementedError("exercise 7.3")


def normalized_advantage(returns, value, low_high):
    """What the actor learns from: the advantage, divided by the range or by 1."""
    raise NotImplementedError("exercise 7.3")


# %%
check("7.3", update_range, normalized_advantage)
# solution("7.3")

# %% [markdown]
# ## What breaks
#
# All of these mistakes run without an error. Those with a link were found in published code.
#
# | mistake | how it looks | how to find it |
# |---|---|---|
# | the reward of $s_{t+1}$ with the value of $s_{t+2}$ | the agent [never succeeds](https://github.com/epignatelli/navix/pull/152), all losses look healthy | compare with the weighted mean of n-step returns |
# | the value of the state that is left, as the formula is printed | with lambda 0 the critic learns from itself | the walk to the flag: only one field ever knows |
# | the continuation one step late | the agent expects rewards after its death | put a continuation of 0 into the middle of a dream, and a large reward after it |
# | no bootstrap at the end, or a bootstrap of 0 | rewards beyond the horizon count too little, and with lambda 1 not at all (`add_up` above); states near the end of a dream lose even rewards that are close | compute the returns for lambda 1 by hand |
# | normaliser built but [not applied](https://github.com/pytorch/rl/pull/4125) | works for rewards near 1, fails for scores | returns of 100 and of 10,000 must give the same advantages |
# | advantages divided by their own spread | exploration stops before the first reward | returns of 0.01 must stay 0.01 |
#
# The page [troubleshooting](reference/troubleshooting.md) begins with the symptom and leads
# to the cause.
#
# ## What we built
#
# `lambda_return` blends a dream with the critic's opinion, and it does the same for real
# rows. `ReturnNormalizer` brings the returns of any game to one size.
#
# Now every dreamed step has a return. In notebook 08 the critic learns to predict it and the
# actor learns to raise it, without touching the real game.

# %%
what_we_built("07_lambda_returns")
