# %% [markdown]
# # 08 Actor and critic: learning to act without acting
#
# **The question.** A world model can dream what would happen. Can an agent become *good* at
# something by dreaming alone? And does it still work after waking up?
#
# An *actor* chooses the actions. A *critic* says how good a state is. Both are small
# networks that read the model's states. The actor plays in the dream. If something went
# better than the critic expected, the actor does it more often.
#
# **At the end** you have trained both inside a frozen world model of CartPole, where a pole
# wants to fall off a cart. Then they play the real game. They balance the pole several times
# longer than chance does, and you will see what they have not learnt.
#
# **You need** notebook 06 for the world model, which predicts rewards and continues, and 07
# for the lambda-return and its scale $S$. Policy gradients are explained here.
#
# **Exercises.** There are four, and they do not come in the order of their numbers. 8.0 is
# the heart of the notebook, and 8.2 warms you up for it. 8.3 is a bug to find, near the end.
# 8.1 is a short one, folded away in the aside about joysticks.
#
# *Measured: 0.9 minutes on two CPU cores, 0.6 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
#| default_exp actor_critic
import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, Slider, behaviour_phase, check, claim, compare
from course import dreamer_map, explore, hint, line, progress, show, show_gif
from course import side_by_side, solution, use_style, what_we_built
from course.cartpole import cart_film, random_play
from course.paths import data_path
from dreamer_lite.runs import read_table
from dreamer_lite.speed import reuse_memory
from dreamer_lite.symlog import symexp
from dreamer_lite.world_model import LaProp, as_tensors

use_style()
show(*dreamer_map("actor_critic"))

# %%
#| export
"""Learning to act in the dream: actor, critic and their losses.

Built in notebook 08. Source: DreamerV3, sections "Critic learning" (equations 4, 5) and
"Actor learning" (equations 6, 7).
"""

import copy
import math

import gymnasium as gym
import torch
from torch import Tensor, nn

from dreamer_lite.config import Config
from dreamer_lite.lambda_returns import ReturnNormalizer, lambda_return
from dreamer_lite.networks import MLP, TwoHotHead
from dreamer_lite.replay import read_action
from dreamer_lite.rssm import State, categorical_logits, sample_one_hot
from dreamer_lite.two_hot import TwoHot
from dreamer_lite.world_model import WorldModel


# %% [markdown]
# ## The goal
#
# CartPole has two buttons, push left and push right. Here are two players. On the left the
# buttons are pressed at random. On the right plays a rule that a human wrote, knowing which
# number is the angle and which way to push.
#
# At the end you will see such films again. The player will be an actor that was told nothing
# of the kind and has practised in dreams only. You will see it before and after its practice,
# each time in a dream and in the real game.

# %%
def watch(press, seed=3):
    """What the real CartPole shows in 60 steps, until the pole falls."""
    env, seen, fell = gym.make("CartPole-v1"), [], False
    obs, _ = env.reset(seed=seed)
    while not fell and len(seen) < 60:
        seen.append(obs * [1, 1, 180 / np.pi, 180 / np.pi])  # radians to degrees
        obs, _, fell, _, _ = env.step(press(obs[2], obs[3]))
    return seen


coin = np.random.default_rng(3)
by_chance = watch(lambda angle, turning: int(coin.integers(2)))
by_rule = watch(lambda angle, turning: int(angle + 0.3 * turning > 0))
show_gif(
    side_by_side(cart_film(by_chance, "random"), cart_film(by_rule, "rule")),
    alt="Left random buttons drop the pole, right a rule written by hand balances it.",
    caption="real CartPole, first 60 steps: random buttons | a rule written by hand",
    fps=12,
)

# %% [markdown]
# How can dreaming lead there? The picture shows one round of practice. The world model is
# frozen. A dream begins in a state that the model has really seen. Then actor and model
# take turns for 15 steps.
#
# The arrows show what is computed from what. Gradients do not follow them all the way, and
# two short bars across an arrow show where they stop. The actor's gradients stay inside the
# actor and the critic's inside the critic. In this notebook's training, none of them enters
# the model. 256 dreams run side by side.

# %% tags=["hide-input"]
cart = gym.make("CartPole-v1")
spaces = gym.spaces.Dict(obs=cart.observation_space)
sizes = Config(deter=128, units=64, latents=16, classes=8)
rssm = WorldModel(spaces, cart.action_space, sizes).rssm
with torch.no_grad():
    dream, _ = rssm.imagine(rssm.initial(256), torch.zeros(256, 15, 2), horizon=15)
show(*behaviour_phase(dream.feature.shape))


# %% [markdown]
# ## The simple thing fails
#
# How does one train something that presses buttons? Let us first try what works everywhere
# else in deep learning: run it forward, compute what should be large, and call `backward`.
#
# Our game has two buttons. One pays and the other pays nothing. The policy is a pair of
# logits, $(1, 0)$, so at first it prefers the left button. Like every agent in this course,
# it also gets a small reward for its *entropy*, so that it stays curious.
#
# The cell prints the gradient of the *loss* for the left logit, and beside it the number that
# it should be; how to compute that comes below. An optimizer steps against the gradient, so a
# plus sign means that the left button becomes less likely.

# %%
def plain_gradient(pay):
    """Gradient of the loss with respect to the two logits, without any trick."""
    logits = torch.tensor([1.0, 0.0], requires_grad=True)
    p = logits.softmax(-1)
    button = torch.multinomial(p, 1)
    entropy = -(p * p.log()).sum()
    loss = -(torch.tensor(pay)[button].sum() + 3e-4 * entropy)
    loss.backward()
    return logits.grad


p = torch.tensor([1.0, 0.0]).softmax(-1)
for pay in ([0.0, 1.0], [0.0, 1000.0], [1.0, 0.0]):
    should = (p.prod() * (pay[1] - pay[0])).item()
    got = plain_gradient(pay)[0].item()
    print(f"pays {pay!s:13}: for the left logit {got:+.6f}, should be {should:+9.3f}")


# %% [markdown]
# Three different games, and the gradient is the same in all of them. The pay plays no part
# in it.
#
# The reason is that drawing a sample cuts the graph. A button is a whole number, and whole
# numbers have no gradient. All that is left is the entropy's part. So the loss moves, training
# seems to run, and the policy only becomes more random. This has happened in [published
# code](https://github.com/epignatelli/navix/pull/152).
#
# In notebook 05 the straight-through trick carried a gradient past a draw. In a dream one could
# use it for the actions too, because the model is a network. But the gradient would have to run back
# through all fifteen dreamed steps, and every draw on the way adds an error. DreamerV3 takes
# another way, the same for all kinds of actions.
#
# ### The way around it
#
# We cannot differentiate the button. But we can differentiate the *probability* with which
# it was chosen. If the outcome was better than expected, we make that button more likely. If
# it was worse, we make it less likely. This estimate is called *REINFORCE*.
#
# > **[The paper](https://arxiv.org/abs/2301.04104) says** (equation 6, section "Actor
# > learning"). The actor is trained with the Reinforce estimator, for discrete as well as
# > continuous actions:
# >
# > $$\mathcal{L}(\theta) = - \sum_t \left[ \mathrm{sg}\!\left(\frac{R^\lambda_t - v(s_t)}
# > {\max(1, S)}\right) \ln \pi_\theta(a_t \mid s_t) + \eta\, \mathrm{H}[\pi_\theta(a_t
# > \mid s_t)] \right]$$
# >
# > with an entropy bonus of weight $\eta = 3 \times 10^{-4}$.
#
# Read it piece by piece:
#
# * $\pi_\theta(a_t \mid s_t)$ is the probability that the actor gives to the action it took.
# * The fraction is the *advantage*: the return $R^\lambda_t$ minus what the critic expected,
#   $v(s_t)$, divided by the scale $\max(1, S)$ of notebook 07.
# * $\mathrm{sg}$ stops the gradient, so the advantage is a plain number here.
# * $\mathrm{H}$, upright, is the entropy, and $\eta$ its weight.

# %% [markdown]
# ### Where the logarithm comes from
#
# Take one decision, with probabilities $p_a$ and pays $r_a$. We want to raise the expected
# pay, $\sum_a p_a r_a$. Its gradient is $\sum_a r_a \nabla p_a$, a sum over all buttons. But
# we try only one of them, the one that was drawn. So we rewrite the sum as a mean over draws.
# The derivative of a logarithm is $\nabla \ln p_a = \nabla p_a / p_a$, and therefore
#
# $$\sum_a r_a \nabla p_a = \sum_a p_a \, (r_a \nabla \ln p_a).$$
#
# On the right, each button counts with the probability that it is drawn. In other words,
# $r_a \nabla \ln p_a$ of the drawn button is right on average.
#
# For a softmax this gradient is short. Per unit of a button's own logit, $\ln p_a$ rises by
# $1 - p_a$, and per unit of another logit $b$ it falls by $p_b$. (With the logits $l$,
# $\ln p_a = l_a - \ln \sum_k e^{l_k}$, and the derivative of the second part for any logit
# $l_b$ is $e^{l_b} / \sum_k e^{l_k} = p_b$.)

# %% [markdown] tags=["predict"]
# Is this estimate any good? For two buttons we can check it against the truth. With
# probabilities $p$ and pays $r$, the expected pay is $\sum_a p_a r_a$, and its true gradient
# for logit $a$ is $p_a (r_a - \sum_b p_b r_b)$. (Put the rule for the softmax into the sum
# above, and this is what comes out.)
#
# This is a gradient of the *pay*, which should rise. From here on we look at the pay, because
# plus then means "more likely". The loss is minus the pay, so its gradient is minus this one.
#
# **Predict.** The left button pays 0, the right one 1, and both are equally likely. What
# does the estimate do with the logits when the right button was drawn, and what when the
# left one was? Does a single estimate ever hit the true gradient, $(-0.25, 0.25)$?
#
# <details><summary>Answer</summary>
#
# After the right button it pushes twice as hard as it should, by $(-0.5, 0.5)$. After the
# left button, which paid 0, it does nothing at all. So a single estimate is never right.
# But each of the two happens half of the time, and their mean is exactly the true gradient.
#
# </details>

# %%
def reinforce(button, reward, baseline=0.0):
    """Gradient estimate of the two logits from one draw."""
    logits = torch.zeros(2, requires_grad=True)
    log_prob = logits.log_softmax(-1)[button]
    ((reward - baseline) * log_prob).backward()
    return logits.grad


left, right = reinforce(0, 0.0), reinforce(1, 1.0)
print("left", left.tolist(), " right", right.tolist())
print("mean", ((left + right) / 2).tolist())
compare("mean of both draws", (left + right) / 2, torch.tensor([-0.25, 0.25]))

# %% [markdown] tags=["predict"]
# ### Why subtract the critic
#
# The estimates are right on average, but each single one is noisy. The critic is there to
# remove noise. To see how, add 10 to every pay, which changes nothing about which button is
# better.
#
# **Predict.** The buttons now pay 10 and 11. Do the two estimates for the right button's
# logit move closer together or further apart? And what happens if the expected pay, 10.5,
# is subtracted first?
#
# <details><summary>Answer</summary>
#
# Far apart: $10 \times (-0.5) = -5$ and $11 \times 0.5 = 5.5$. Their mean is still 0.25, but
# the signal drowns in the noise. With 10.5 subtracted both are the same:
# $-0.5 \times -0.5 = 0.25$ and $0.5 \times 0.5 = 0.25$.
#
# </details>

# %%
estimates = {}
for name, base in {"nothing": 0.0, "expected pay": 10.5}.items():
    draws = [reinforce(b, 10.0 + b, base)[1].item() for b in (0, 1)]
    estimates[name] = draws
    print(f"subtract {name:12}: left {draws[0]:+.2f}, right {draws[1]:+.2f},", end=" ")
    print(f"mean {np.mean(draws):+.2f}")

fig, ax = plt.subplots(figsize=(6.4, 2.2))
for height, (name, draws) in enumerate(estimates.items()):
    ax.scatter(draws, [height, height], color=COLORS["advantage"], label=None, s=50)
ax.axvline(0.25, **line("threshold"), label="true gradient 0.25")
ax.set(yticks=[0, 1], yticklabels=list(estimates), ylim=(-0.6, 1.9))
ax.set(xlabel="estimate of the right button's gradient [1]", ylabel="subtracted [1]")
ax.legend()
show(fig, alt="Subtracting the expected pay brings both estimates close to the truth.")
claim(
    "the spread of the estimates is more than ten times smaller",
    np.std(estimates["nothing"]) > 10 * np.std(estimates["expected pay"]),
)

# %% [markdown]
# We may subtract any number $b$ that does not depend on the action, because on average that
# changes nothing. The average of what it adds is
# $-b \sum_a p_a \nabla \ln p_a = -b \sum_a \nabla p_a$. The probabilities always sum to 1, so
# their gradients sum to 0, and this is 0 as well.
#
# The expected return is a good choice, because then only the surprise is left. And it is
# exactly what a critic can learn to predict.
#
# ### From one button to fifteen steps
#
# So far there was one decision. A dream has fifteen, one after the other, and equation 6
# treats each of them as if it were the only one. Its pay is the return: everything that comes
# from this step on. What came before is left out, because this action cannot change it. What
# comes after depends on later actions, too. But those are drawn, so over many dreams they
# average out, and each of them is trained at its own step. That is why there is a sum over $t$.
#
# One more thing is needed. Our mean is over draws *of the actor as it is now*. The buttons in
# the replay were pressed by older actors, or at random, so they do not count. In a dream
# the actor can draw fresh actions, as many as it likes. That is one reason to learn in a dream.

# %% [markdown] tags=["aside"]
# ### Aside: the best number to subtract
#
# With pays of 10 and 11 the expected pay removed *all* of the noise. That is special to
# two equally likely buttons. Take probabilities of 0.9 and 0.1 instead, and let the
# buttons pay 0 and 1.
#
# Subtracting the expected pay, 0.1, removes only a part of the noise. Another number, 0.9,
# would remove all of it: the estimate for the right logit is then $(0 - 0.9)(0 - 0.1) = 0.09$
# after the left button and $(1 - 0.9)(1 - 0.1) = 0.09$ after the right one. But that best
# number is different in every state and hard to know.

# %%
prob, pay = np.array([0.9, 0.1]), np.array([0.0, 1.0])
for base in (0.0, 0.1, 0.9):
    estimate = (pay - base) * (np.array([0, 1]) - prob[1])  # for the right logit
    mean = prob @ estimate
    variance = prob @ (estimate - mean) ** 2
    print(f"subtract {base}: mean {mean:.2f}, variance {variance:.3f}")


# %% [markdown]
# ## The actor
#
# The actor turns a model state into an action. For buttons it gives a probability to each
# of them. As for the latents in notebook 05, 1 % of the uniform distribution is mixed in,
# so that no button ever becomes impossible and no log-probability infinite. The function
# `categorical_logits` does this mixing, and what it returns are log-probabilities already.
# That is why the code below may compute the entropy from them as $-\sum_x e^x x$.
#
# For joysticks it gives a normal distribution per axis. The aside below shows that part.
#
# Two methods belong together. `sample` draws actions while dreaming and keeps no graph,
# which saves most of the memory and time. Afterwards `evaluate` computes the probabilities
# of all those actions at once, with a graph. That is possible because REINFORCE sends no
# gradient back through the dream.

# %%
#| export
class Actor(nn.Module):
    """Policy over features: choices, or a bounded normal over A dimensions.

    A choice is a categorical with 1 % uniform; several choices at once are independent.
    Continuous actions come from a normal with mean tanh(m) and deviation
    0.9 sigmoid(s + 2) + 0.1; the sample is not clipped here but at the environment, so
    its log-probability stays that of a normal.

    Args:
        feature_size: width of the features.
        action_space: what `read_action` can read.
        units: width of the MLP.
        unimix: share of the uniform distribution.

    Source: DreamerV3, section "Actor learning" and Methods.
    """

    def __init__(
        self,
        feature_size: int,
        action_space: gym.Space,
        *,
        units: int,
        unimix: float,
    ):
        super().__init__()
        field, self.unimix = read_action(action_space), unimix
        self.sizes = field.sizes  # of each choice; none for a normal
        self.heads = 1 if self.sizes else 2  # in the last layer: mean, deviation
        outputs = self.heads * field.width
        self.mlp = MLP(feature_size, units, 3, outputs, outscale=0.01)

    def _logits(self, raw: Tensor) -> list[Tensor]:
        parts = raw.split(self.sizes, -1)
        return [categorical_logits(part, self.unimix) for part in parts]

    def _normal(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = raw.float().chunk(2, -1)
        return torch.tanh(mean), 0.9 * torch.sigmoid(deviation + 2.0) + 0.1

    def sample(self, feature: Tensor, greedy: bool = False) -> Tensor:
        """Draw actions: features [..., F] -> [..., A], one-hots or plain numbers.

        If `greedy`, these are the most likely choices, or the mean.
        """
        raw = self.mlp(feature)
        if not self.sizes:
            mean, deviation = self._normal(raw)
            noise = torch.zeros_like if greedy else torch.randn_like
            return (mean + deviation * noise(mean)).detach()
        pairs = [
            (x, torch.ones_like(x) if greedy else torch.empty_like(x).exponential_())
            for x in self._logits(raw)
        ]
        return torch.cat([sample_one_hot(*pair) for pair in pairs], -1).detach()

    def evaluate(self, feature: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of `action` and entropy, in nats: two tensors [...].

        Both are summed over several choices, or over the dimensions.
        """
        raw = self.mlp(feature)
        if self.sizes:
            logits = torch.cat(self._logits(raw), -1)
            entropy = -(logits.exp() * logits).sum(-1)
            return (logits * action).sum(-1), entropy
        mean, deviation = self._normal(raw)
        constant = 0.5 * math.log(2 * math.pi)
        log_prob = (
            -0.5 * ((action - mean) / deviation) ** 2 - deviation.log() - constant
        )
        return log_prob.sum(-1), (deviation.log() + 0.5 + constant).sum(-1)


# %%
torch.manual_seed(0)
feature = torch.randn(1000, 32)
buttons = Actor(32, gym.spaces.Discrete(5), units=32, unimix=0.01)
drawn = buttons.sample(feature)
log_prob, entropy = buttons.evaluate(feature, drawn)
print(f"action {list(drawn.shape)}, log-prob {list(log_prob.shape)}")
claim("buttons start within 0.001 of ln 5", (entropy - math.log(5)).abs().max() < 1e-3)

# %% [markdown] tags=["aside"]
# ### Aside: joysticks, and several choices at once
#
# A joystick gives a number for each axis. The actor draws it from a normal distribution with
# bounds that keep it tame. From the network's two outputs $m$ and $s$ it makes
#
# $$\mu = \tanh(m), \qquad \sigma = 0.9\; \mathrm{sigmoid}(s + 2) + 0.1$$
#
# The sample itself is *not* clipped. Only the environment clips it to $[-1, 1]$. The
# log-probability must be that of the number that was really drawn, and this is the simplest
# way to keep it so.

# %% [markdown] tags=["predict"]
# The entropy of an axis is the mean of minus the log of its *density*. A density is not a
# probability: where the curve is narrow and high, it can be larger than 1.
#
# **Predict.** The last layer starts with tiny weights, so $m \approx s \approx 0$ at first.
# Does a new actor try the whole range of a joystick, or only the middle? As $s$ falls, can
# the entropy of an axis become negative?
#
# <details><summary>Answer</summary>
#
# The whole range, and more: $\sigma$ begins at 0.893, so about a quarter of the draws lie
# outside $[-1, 1]$, and the environment clips them to the edge. The deviation can never fall
# below 0.1, so some trying always remains. The entropy begins at 1.305 nats. It does become
# negative, down to -0.88, because where most draws of a narrow curve fall, the density is
# larger than 1.
#
# </details>

# %%
for s in (0.0, -20.0):
    sigma = 0.9 / (1 + math.exp(-s - 2)) + 0.1
    entropy = 0.5 * math.log(2 * math.pi * math.e * sigma**2)
    print(f"s = {s:5}: deviation {sigma:.3f}, entropy {entropy:.3f}")

joystick = Actor(32, gym.spaces.Box(-1, 1, (2,)), units=32, unimix=0.01)
mean, deviation = joystick._normal(joystick.mlp(feature))
drawn = joystick.sample(feature)
truth = torch.distributions.Normal(mean, deviation)
compare(
    "log-prob against torch.distributions",
    joystick.evaluate(feature, drawn)[0],
    truth.log_prob(drawn).sum(-1),
    tolerance=1e-4,
)

# %% [markdown]
# Some environments ask for several choices at once, for example a gear and a steering wheel
# with three positions. Each is a categorical of its own, and they are drawn independently.
# So the probability of the whole action is a product, and its logarithm a sum.

# %%
levers = Actor(32, gym.spaces.MultiDiscrete([2, 3]), units=32, unimix=0.01)
drawn = levers.sample(feature)
log_prob, entropy = levers.evaluate(feature, drawn)
gear, wheel = levers.mlp(feature).split([2, 3], -1)
truth = [categorical_logits(x, 0.01) for x in (gear, wheel)]
by_hand = (truth[0] * drawn[:, :2]).sum(-1) + (truth[1] * drawn[:, 2:]).sum(-1)
print("one action:", drawn[0].int().tolist())
compare("log-prob, gear and wheel added", log_prob, by_hand)
claim(
    "the entropy starts within 0.001 of ln 2 + ln 3",
    (entropy - math.log(6)).abs().max() < 1e-3,
)


# %% [markdown]
# #### Exercise 8.1: A joystick that stays tame
#
# *easy, about 5 minutes*
#
# Make mean and deviation of the continuous actor from the two halves of `raw`. The answer
# is in the formula above and in `Actor`, but try it without looking.

# %% tags=["exercise-8.1"]
def bounded_normal(raw):
    """Mean and deviation of a continuous actor: raw [..., 2 A] -> two [..., A]."""
    mean, deviation = raw.chunk(2, -1)
    raise NotImplementedError("exercise 8.1")


# %%
check("8.1", bounded_normal)
# solution("8.1")

# %% [markdown]
# ## The critic
#
# The critic reads the same states and predicts the return. It is the two-hot head of
# notebook 02 on top of an MLP. So it predicts a whole distribution of returns, and it starts
# at exactly 0 everywhere.

# %%
#| export
class Critic(MLP):
    """Value distribution over two-hot bins, exactly 0 before it has learnt.

    Args: feature_size; units of the MLP; bins.
    Source: DreamerV3, equations 5 and 10.
    """

    def __init__(self, feature_size: int, *, units: int, bins: int = 255):
        super().__init__(feature_size, units, 3)
        self.append(TwoHotHead(units, bins))


# %% [markdown]
# How does it learn? By predicting the lambda-returns that the dreams had.
#
# > **The paper says** (equation 5, section "Critic learning"). The critic learns the
# > distribution of the lambda-returns by maximum likelihood:
# >
# > $$\mathcal{L}(\psi) = - \sum_t \ln p_\psi(R^\lambda_t \mid s_t)$$
# >
# > Because its targets depend on its own predictions, it is also pulled towards the
# > predictions of a slowly moving average of its own weights. On replayed rows it is trained
# > as well, with weight 0.3.
#
# The loss on replayed rows waits until "Our version" below; first come the dreams.
#
# Here $p_\psi$ are the probabilities of the 255 bins that the critic with weights $\psi$
# gives to a state. A return between two bins is shared by them, as in notebook 02. So
# $-\ln p_\psi$ becomes the cross entropy to the two-hot target.
#
# ### Both equations, term by term
#
# Before we make anything fast, here are the two equations as code, term by term, with the
# sum as a loop.

# %%
two_hot = TwoHot()


def actor_loss_slow(log_prob, entropy, returns, values, scale, eta=3e-4):
    """The actor's equation for one dream; all but scale and eta are [H]."""
    loss = 0.0
    for t in range(len(returns)):
        advantage = (returns[t] - values[t]) / max(1.0, scale)
        loss = loss - (advantage.detach() * log_prob[t] + eta * entropy[t])
    return loss


def critic_loss_slow(logits, returns):
    """The critic's equation for one dream: logits [H, 255], returns [H]."""
    loss = 0.0
    for t in range(len(returns)):
        log_p = logits[t].log_softmax(-1)
        loss = loss - (two_hot.encode(returns[t]) * log_p).sum()
    return loss


# %% [markdown] tags=["predict"]
# Let us try them on a dream with two states. The returns are 5 and 0. The critic expected 1
# both times, and the scale is 4. In the first state the actor pressed a button to which it
# had given the probability $\tfrac12$, and in the second state one to which it had given
# $\tfrac14$.
#
# For the critic's loss we need its whole distribution. We make up a simple one, which need
# not agree with the 1 above. In the first state all 255 bins are equally likely. In the
# second state the bin at 0 has probability $\tfrac12$, and the others share the rest equally.
#
# **Predict.** Which of the two buttons becomes more likely, and which less likely? Which of
# the two is pushed harder? And what does each state cost the critic?
#
# <details><summary>Answer</summary>
#
# The first becomes more likely, because it did better than expected, and the second less
# likely. What pushes $\ln \pi$ is the advantage: $(5 - 1) / 4 = 1$ against $(0 - 1) / 4 =
# -\tfrac14$. So the praise pulls four times as hard on $\ln \pi$ as the blame. On the logits
# of the two buttons the pushes differ less, because $\ln \pi$ changes by $1 - \pi$ per unit
# of the button's own logit: they are $1 \cdot \tfrac12 = 0.5$ and $\tfrac14 \cdot \tfrac34 =
# 0.19$.
#
# The printed loss does not show this. It is $-(1 \cdot \ln\tfrac12 - \tfrac14
# \ln\tfrac14) = 0.3466$, and the entropy changes only its fourth digit.
#
# The critic pays $\ln 255 = 5.541$ in the first state, wherever the return lies, because all
# bins are equal. In the second the return is exactly 0, so it pays $\ln 2 = 0.693$. Together
# that is 6.234.
#
# </details>

# %%
returns, values = torch.tensor([5.0, 0.0]), torch.tensor([1.0, 1.0])
log_prob = torch.tensor([0.5, 0.25]).log()
entropy = torch.distributions.Categorical(
    torch.tensor([[0.5, 0.5], [0.25, 0.75]])
).entropy()
print("advantages:", ((returns - values) / 4).tolist())
dry = actor_loss_slow(log_prob, 0 * entropy, returns, values, 4.0)
print(f"actor's loss {dry:.4f}, ", end="")
print(f"with entropy {actor_loss_slow(log_prob, entropy, returns, values, 4.0):.4f}")

logits = torch.zeros(2, 255)
logits[1, 127] = math.log(254)  # bin 127 is 0; the other 254 share the other half
print(f"critic's loss {critic_loss_slow(logits, returns):.3f}")


# %% [markdown] tags=["predict"]
# Three things are still missing: something that keeps the critic calm, a weight for each
# state, and code that handles a thousand dreams at once.
#
# ### A slow critic keeps it calm
#
# The critic's target is built from the critic itself, because every return ends in the
# critic's own guess. If it raises all its values by mistake, its targets rise too, almost as
# much, and the mistake fades only slowly.
#
# The *slow critic* is a brake. It is a copy whose weights follow by 2 % after each update.
# The loss gets a second cross entropy, which pulls the critic towards the slow one's value.
# Some other agents compute the returns with such a copy, which they call a target network.
# Here the returns never use the slow critic: they are still computed with the fast one.
#
# We try it in two tiny worlds of random states, with a discount of 0.95. In the first,
# rewards are pure noise, so every value is truly 0. In the second, every step pays 1, so
# every value is truly $1 / (1 - 0.95) = 20$.
#
# **Predict.** Draw the critic's mean value over 200 updates, in both worlds, with and
# without the brake. In which world does the brake help, and in which does it hurt?
#
# <details><summary>Answer</summary>
#
# It helps where the rewards are noise. Both critics wander away from 0, but the one with the
# brake stays closer: about twice as close when we measured it. It hurts in the second world,
# because one of its two cross entropies asks it to stay where it was. After 200 updates that
# critic had climbed only about half as far.
#
# </details>

# %%
def critic_alone(mean, noise, brake, updates=200, dreams=4, steps=15, gamma=0.95):
    """The mean value, at every update, of a critic that learns from random dreams."""
    torch.manual_seed(0)
    critic = Critic(8, units=16)
    slow = copy.deepcopy(critic).requires_grad_(False)
    optimizer, curve = LaProp(critic.parameters(), lr=3e-3, warmup=20), []
    for _ in range(updates):
        feature = torch.randn(dreams, steps + 1, 8)
        reward = mean + noise * torch.randn(dreams, steps + 1)
        logits = critic(feature)
        value = two_hot.mean(logits.detach())
        returns = lambda_return(reward, value, torch.full_like(reward, gamma))
        loss = two_hot.loss(logits[:, :-1], returns)
        if brake:
            loss = loss + two_hot.loss(
                logits[:, :-1], two_hot.mean(slow(feature))[:, :-1]
            )
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        for old, new in zip(slow.parameters(), critic.parameters()):
            old.data.lerp_(new.data, 0.02)
        curve.append(value.mean().item())
    return np.array(curve)


# %%
worlds = {"rewards are noise": (0.0, 1.0), "every step pays 1": (1.0, 0.0)}
alone = {
    (world, brake): critic_alone(*what, brake)
    for world, what in worlds.items()
    for brake in (True, False)
}
fig, axes = plt.subplots(1, 2, figsize=(7.6, 2.5))
for ax, world, truth in zip(axes, worlds, (0.0, 20.0)):
    ax.axhline(truth, **line("threshold"), label="true value")
    ax.plot(alone[world, False], **line("error"), label="without slow critic")
    ax.plot(alone[world, True], **line("ours"), label="with slow critic")
    ax.set(title=world, xlabel="update [1]")
axes[0].set(ylabel="mean value [1]", ylim=(-0.4, 0.4))
axes[1].legend(loc="upper left", bbox_to_anchor=(0, 0.9))
show(
    fig, alt="With a slow critic the value strays less in noise but climbs more slowly."
)

noisy, paid = worlds
stray = {b: np.sqrt(np.mean(alone[noisy, b][50:] ** 2)) for b in (True, False)}
claim("in noise it strays at least 1.3 times less", stray[False] > 1.3 * stray[True])
claim("where steps pay, it is slower", alone[paid, True][-1] < alone[paid, False][-1])


# %% [markdown]
# So the brake has a price: a critic that has far to go arrives later. DreamerV3 pays it. We
# think that it is the smaller harm, because a critic that follows its own mistakes can mislead
# the actor. Our two tiny worlds show both sides; they do not decide the question.

# %% [markdown] tags=["aside"]
# ### Aside: several critics
#
# The slow critic keeps a critic calm. There is a second brake, which other agents use
# against values that are too high: several critics. They begin with different weights, so
# they are wrong in different places, and their values are reduced to one number. The *mean*
# of them is less noisy. The *smallest* of them is more careful: an actor looks for states
# that are worth much, and so it also finds those that are merely overrated.
#
# DreamerV3 has one critic. `Config(critics=2, critic_reduce="min")` gives an agent two.
# Each has a slow copy of its own. All of them learn from the same lambda-returns, and both
# the returns and the pull towards the slow copies use the one reduced value.

# %%
#| export
class Critics(nn.ModuleList):
    """Critics with weights of their own: [..., F] -> [critics, ..., bins].

    Source: none in DreamerV3, which has one critic.
    """

    def forward(self, feature: Tensor) -> Tensor:
        return torch.stack([critic(feature) for critic in self])


# %% [markdown]
# Does it help? We trained 30 agents, three seeds of each kind, in a small world from the page
# on [ablations](beyond/ablations.ipynb): a sled on an icy track, to be held near the middle.
# The discount is 0.95. At ten points of a run we asked the critic for the value of 64 starts.
# Then the same agent played on from these starts, and we added up its discounted rewards.
#
# The picture shows value minus return, which is the error of the value: above 0 the value is
# too high, below 0 too low. Every line is one run, and its colour says how many critics it
# has and how they are reduced.
#
# There are three tasks. In the first, all rewards are noise with a deviation of 3, so every
# value is truly 0. In the second the sled has its usual rewards, and in the third it has
# them for more than three times as many updates. We chose the third task only after we had
# seen the 24 runs of the other two. All runs took 15 minutes on one core. They are stored,
# and `python tools/critics.py` makes them.

# %% tags=["hide-input"]
runs = {}
for row in read_table(data_path("critics.csv")):
    name = row["critics"] + (f" {row['reduce']}" if row["critics"] != "1" else "")
    curve = runs.setdefault((row["task"], name), {}).setdefault(row["seed"], [])
    columns = row["updates"], row["value"], row["truth"], row["spread"] or "nan"
    curve.append([float(number) for number in columns])
runs = {key: np.array(list(seeds.values())) for key, seeds in runs.items()}
error = {key: run[..., 1] - run[..., 2] for key, run in runs.items()}  # [seed, point]
looks = dict(
    zip(("1", "2 mean", "2 min", "4 min"), "ours return dreamed error".split())
)
tasks = list(dict.fromkeys(task for task, _ in runs))

fig, axes = plt.subplots(1, 3, figsize=(9.2, 2.8))
for ax, task in zip(axes, tasks):
    ax.axhline(0, **line("threshold"))
    for name, look in looks.items():
        for seed, curve in enumerate(error.get((task, name), ())):
            label = None if seed else f"critics: {name}"
            ax.plot(runs[task, name][seed, :, 0], curve, **line(look), label=label)
    ax.set(title=task, xlabel="update [1]")
axes[0].set(ylabel="value - return [1]")
axes[2].legend(*axes[0].get_legend_handles_labels(), loc="lower right")
show(
    fig,
    alt="In noise most errors stay near 0, two with four critics rise to about 1. On "
    "the sled all fall to about -10 and rise again; only longer runs come near 0.",
)

# %%
end = {key: curve[:, -2:].mean(1) for key, curve in error.items()}
for (task, name), seeds in end.items():
    print(f"{task:12} | {name:6} | " + "  ".join(f"{x:+5.1f}" for x in seeds))

short, (one, least) = end["sled", "1"], (end[tasks[2], n] for n in ("1", "2 min"))
careful = np.concatenate([end["sled", name] for name in ("2 min", "4 min")])
claim("noise: one critic ends within 0.5 of 0", abs(end["noise", "1"]).max() < 0.5)
claim("sled: min is further below than any single critic", careful.max() < short.min())
claim("longer: the runs overlap", one.min() < least.max() and least.min() < one.max())
apart = runs[tasks[2], "2 min"][:, -2:, 3].mean()
claim("longer: the two critics deviate by 0.05 to 0.15", 0.05 < apart < 0.15)

# %% [markdown]
# The table shows the mean error of the last two points, one number for each seed. What do
# we learn from it?
#
# * **There is hardly any optimism to cure.** On the sled, the values are too *low* for
#   hundreds of updates, because a critic begins at 0 and lags behind. Only after more than
#   500 updates do some runs say too much. In noise, one critic ends less than 0.5 from the
#   truth. That is partly luck: two trial runs in noise, which are not in the table, were
#   up to 1.4 and 1.7 too high with one critic.
# * **The smallest of several is no better in noise.** Two of the three runs with four
#   critics are even further above the truth than any other run in noise. Three seeds
#   are too few to call that an effect.
# * **Where values are too low, it makes them lower.** After 250 updates of the sled, every
#   run with the smallest value is further below the truth than every run with one critic.
# * **In the longer task we see no difference that three seeds could show.**
#
# Why so little? At the end of the long runs the two critics deviate by about 0.1 from
# their mean, on values of 15. They learn from the same returns and are pulled towards the
# same slow value, so they have little left to disagree about. And if the world model
# promises too much reward, all critics believe it. So the default stays at one critic.

# %% [markdown] tags=["predict"]
# ### What counts, and how much
#
# A dream does not stop when the pole falls in it. Tensors have a fixed shape, so the dream
# rolls on to its last step. Everything after the end must count for nothing.
#
# The world model says how likely it is that life continues, $c_t$, with the discount inside.
# So step $t$ gets the weight $w_t = c_0 c_1 \cdots c_t$ in both losses. The equations above do
# not show it; the authors' code has it. The returns stop at an end anyway, but steps that begin
# there or later have returns as well, which mean nothing.
#
# Dreams begin at *replayed* states, and some of these are the last row of an episode, where
# the pole has already fallen. Their $c_0$ is near 0, which takes the whole dream out of the
# loss.
#
# **Predict.** To keep the numbers simple, leave out the discount: 1 means that life
# continues, 0 that it ends. Three dreams of four states have $c$ = (1, 1, 1, 1),
# (1, 0, 1, 1) and (0, 1, 1, 1). Which of their first three states count?
#
# <details><summary>Answer</summary>
#
# All three of the first dream, and only the first state of the second. Its second state is the
# end itself, where no action matters any more, and after an end nothing counts, even if the
# model later says that life continues. None of the third, because it began in an end.
#
# </details>

# %%
cont = torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 1]])
print(torch.cumprod(cont, 1)[:, :-1].int().tolist())


# %% [markdown]
# ### Exercise 8.2: The actor's loss
#
# *medium, about 15 minutes*
#
# Here is a warm-up for what comes next. Write the actor's loss for $N$ dreams at once, as in
# equation 6 and in `actor_loss_slow`, but without a loop. Give every step its weight, and
# take the plain mean over all $N \times H$ steps instead of the sum. Here `scale` is the bare
# $S$, which may be below 1, so your code has to take $\max(1, S)$ itself.
#
# Nothing after it depends on your answer, and `solution("8.2")` prints one way to do it.

# %% tags=["exercise-8.2"]
def actor_loss(log_prob, entropy, returns, value, weight, scale, eta):
    """The actor's loss, one number; log_prob, entropy [N, H] have gradients.

    returns, value, weight: [N, H]. scale: S of the return normaliser, a float that may
    still be below 1. eta: weight of the entropy. No gradient may reach returns and
    value.
    """
    raise NotImplementedError("exercise 8.2")


# %%
check("8.2", actor_loss)
# solution("8.2")

# %% [markdown]
# ## Build it yourself
#
# ### Exercise 8.0: Write the losses of actor and critic
#
# *hard, about 60 minutes, 13 lines to write, 3 hints*
#
# Now put the pieces together: this is the heart of the notebook. The dreams are given, with
# everything that the world model predicts about them. You write what the actor and the
# critic learn from them.
#
# The docstring speaks of equations 4 to 7. Equation 4 only introduces the two networks: an
# actor that draws actions and a critic that predicts a distribution of returns. Equation 5
# is the critic's loss on the lambda-returns, and equation 6 the actor's loss. Equation 7 is
# the scale $S$ of notebook 07: the moving average of the range of the returns, from their
# 5th to their 95th percentile.
#
# The agent that you get has these parts:
#
# | part | what it does |
# |---|---|
# | `agent.critic(feature)`, `agent.slow_critic(feature)` | logits of the value, now and as the slow copy sees it |
# | `agent.two_hot.mean(logits)`, `.loss(logits, numbers)` | read a value; cross entropy to numbers (02) |
# | `lambda_return(reward, value, cont, lam)` | the returns of the first H states; no part of the agent, but at hand (07) |
# | `agent.normalizer.update(returns)`, `.scale` | take in a batch of returns; the divisor, already $\max(1, S)$ (07) |
# | `agent.actor.evaluate(feature, action)` | log-probability and entropy of every step |
# | `agent.config.lam`, `agent.config.entropy` | lambda; the weight of the entropy |
#
# Both losses are means over all B x H steps, and in both each step is multiplied by its weight
# $w_t$. The critic has two cross entropies in each step, which count the same: one to the
# return, and one to the number that the slow critic gives for the same state. The loss on
# replayed rows comes later.
#
# Update the normaliser with the new returns first, and read its scale after that. And think
# about what must *not* have a gradient.
#
# The check begins with the shape of your answer. Then it asks for the losses of a new agent,
# which you can work out: without rewards only the entropy is left in the actor's loss, and a
# new critic finds all 255 bins equally likely, so each of its two cross entropies costs
# $\ln 255$. Then come the normaliser, our own version, and gradients on random dreams.

# %% tags=["exercise-8.0"]
def my_losses(agent, feature, action, reward, cont):
    """What actor and critic learn from B dreams of H steps: equations 4 to 7.

    Args:
        agent: an `ActorCritic`, of which you may use everything but `loss`.
        feature [B, H+1, F] of the states s_0..s_H; action [B, H, A];
        reward, cont [B, H+1], predicted for the states; nothing here has a gradient.
    Returns: the actor's loss and the critic's loss, two tensors without dimensions.
    """
    raise NotImplementedError("exercise 8.0")


# %%
check("8.0", my_losses)
# hint("8.0", 1)
# solution("8.0")

# %% [markdown]
# ## Our version
#
# One method, `loss`, does the whole round of practice from the picture above. `_imagine`
# rolls all B x T replayed states forward without a graph. Then actor and critic are
# evaluated once on all of them.
#
# One term is new: the loss on replayed rows, with the weight 0.3 from the paper's box. This
# *replay critic* learns from real rows, which have real rewards and real ends. As in notebook
# 07, we compute lambda-returns along these rows, and wherever they need the value of a row,
# they take the return that was imagined from it.
#
# Here, and only here, a gradient can enter the world model. That is on purpose: states that
# help to predict the return are good states. This notebook trains without that term, and
# notebook 09 uses it.

# %% tags=["hide-input"]
#| export
class ActorCritic(nn.Module):
    """Actor, critic, the critic's slow copy and the return normaliser.

    Args: feature_size; action_space; config, of which it reads `units`, `actor_unimix`,
    `horizon`, imagined steps, `lam` of the lambda-return, `discount` for real rows,
    `entropy`, weight of the actor's entropy, `slow_rate`, with which the slow critic
    follows, `replay_scale`, weight of the critic's loss on real rows, `critics`, their
    number, and `critic_reduce`, how their values become one.
    Source: DreamerV3, equations 4 to 7.
    """

    def __init__(self, feature_size: int, action_space: gym.Space, config: Config):
        super().__init__()
        self.config, c = config, config
        head = dict(units=c.units, unimix=c.actor_unimix)
        self.actor = Actor(feature_size, action_space, **head)
        critics = [Critic(feature_size, units=c.units) for _ in range(c.critics)]
        self.critic = Critics(critics) if c.critics > 1 else critics[0]
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.two_hot = TwoHot(len(critics[0][-1].bias))
        self.normalizer = ReturnNormalizer()
        # A tensor: compiled code would take a number for a constant.
        self.register_buffer("entropy", torch.tensor(c.entropy), persistent=False)

    def policy(self, state: State, greedy: bool = False) -> Tensor:
        """Sample actions [B, A] for model states [B, ...], or the most likely ones."""
        return self.actor.sample(state.feature, greedy)

    def value(self, logits: Tensor) -> Tensor:
        """The number that a critic's logits [..., bins] mean: [...].

        If there are several critics, their numbers are reduced to one.
        """
        value = self.two_hot.mean(logits)
        if self.config.critics == 1:
            return value
        return value.amin(0) if self.config.critic_reduce == "min" else value.mean(0)

    def loss(
        self,
        states: State,
        world_model: WorldModel,
        batch: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Imagine from every state and judge the imagination.

        Args: states [B, T, ...] from `WorldModel.loss`; world_model; batch, the rows
        they came from: if given, the critic also learns from real rewards (the only
        part whose gradient reaches the world model).
        Returns: the loss (no dimensions) and metrics {name: tensor without gradient}.
        Source: DreamerV3, equations 4 to 7.
        """
        feature, action, reward, cont = self._imagine(states, world_model)
        # An older torch reuses bf16 casts from the dream, which carry no gradient.
        if not torch.compiler.is_compiling():  # a compiled graph keeps no casts
            torch.clear_autocast_cache()
        seen = feature[:, :-1].contiguous()  # dense layers are slow on a strided view
        value_logits = self.critic(seen)
        with torch.no_grad():
            last = self.value(self.critic(feature[:, -1:]))
            value = torch.cat([self.value(value_logits.detach()), last], 1)
            returns = lambda_return(reward, value, cont, self.config.lam)
            self.normalizer.update(returns)
            scale = self.normalizer.scale
            advantage = (returns - value[:, :-1]) / scale
            weight = torch.cumprod(cont, 1)[:, :-1]  # also of the state it began in
        log_prob, entropy = self.actor.evaluate(seen, action)
        bonus = self.entropy * entropy
        actor_loss = -(weight * (log_prob * advantage + bonus)).mean()
        critic_loss = (weight * self._critic_loss(value_logits, seen, returns)).mean()
        losses = {"actor": actor_loss, "critic": critic_loss}
        if batch is not None:
            start_return = returns[:, 0].unflatten(0, states.h.shape[:2])
            losses["replay_critic"] = self._replay_loss(states, start_return, batch)
        replayed = self.config.replay_scale * losses.get("replay_critic", 0.0)
        metrics = {f"loss/{key}": value.detach() for key, value in losses.items()}
        metrics |= {
            "actor/entropy": entropy.detach().mean(),
            "actor/advantage": advantage.abs().mean(),
            "return/mean": returns.mean(),
            "return/scale": scale,
            "value/mean": value.mean(),
            "imagined/reward": reward.mean(),
            "imagined/continue": cont.mean(),
        }
        return actor_loss + critic_loss + replayed, metrics

    @torch.no_grad()
    def _imagine(
        self, states: State, world_model: WorldModel
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Dream from all B * T states at once; nothing here needs a gradient."""
        start = states.map(lambda x: x.detach().flatten(0, 1))
        horizon = self.config.horizon
        dream, action = world_model.rssm.imagine(start, self.policy, horizon)
        feature = dream.feature
        reward = world_model.predict_reward(feature)
        return feature, action, reward, world_model.predict_continue(feature)

    def _critic_loss(self, logits: Tensor, feature: Tensor, returns: Tensor) -> Tensor:
        """Cross entropy to the returns, and to what the slow critic says."""
        with torch.no_grad():
            slow = self.value(self.slow_critic(feature))
        each = logits.shape[:-1]  # several critics learn from the same numbers
        returns, slow = returns.expand(each), slow.expand(each)
        return self.two_hot.loss(logits, returns) + self.two_hot.loss(logits, slow)

    def _replay_loss(
        self, states: State, start_return: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        """The critic on real rows, bootstrapped by what was imagined from each row."""
        goes_on = (~batch["is_terminal"].bool()).float()
        ends = batch["is_last"].float()
        returns = lambda_return(
            batch["reward"].float(),
            start_return,
            goes_on * self.config.discount,
            self.config.lam * (1 - ends),
        )
        feature = states.feature[:, :-1].contiguous()
        loss = self._critic_loss(self.critic(feature), feature, returns)
        return ((1 - ends[:, :-1]) * loss).mean()

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow critic towards the critic: after every optimizer step."""
        slow, fast = self.slow_critic.parameters(), self.critic.parameters()
        torch._foreach_lerp_(list(slow), list(fast), self.config.slow_rate)


# %% [markdown] tags=["aside"]
# ### Aside: the class against the equations
#
# Is this still what the paper's equations say? We replace the dream by one that we make up,
# with two states to act in. Then we compare with the slow code: the mean of its two terms,
# each with its weight. For the critic there is a second cross entropy, towards the slow
# critic, which still says 0.

# %%
torch.manual_seed(0)
toy = ActorCritic(4, gym.spaces.Discrete(2), Config(units=8))
with torch.no_grad():  # as if both had learnt something
    toy.actor.mlp[-1].weight.mul_(100)
    toy.critic[-1].bias.copy_(-0.5 * (torch.arange(255) - 140.0).abs())
    toy.critic[-1].weight.normal_(std=0.3)  # at 0 it would not see its input

feature, action = torch.randn(1, 3, 4), torch.eye(2)[None]  # left, then right
reward, cont = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 0.5, 0.5]])
toy._imagine = lambda states, world_model: (feature, action, reward, cont)
metrics = toy.loss(None, None)[1]

logits = toy.critic(feature)[0]
values = two_hot.mean(logits)
returns = lambda_return(reward, values[None], cont)[0]
log_prob, entropy = (x[0] for x in toy.actor.evaluate(feature[:, :2], action))

actor_loss_by_hand, critic_loss_by_hand = 0.0, 0.0
for t, weight in enumerate([1.0, 0.5]):
    now = [t]
    seen = log_prob[now], entropy[now], returns[now], values[now]
    both = critic_loss_slow(logits[now], returns[now])
    both = both + critic_loss_slow(logits[now], torch.zeros(1))
    actor_loss_by_hand += weight * actor_loss_slow(*seen, scale=1.0) / 2
    critic_loss_by_hand += weight * both / 2

compare("actor", metrics["loss/actor"], actor_loss_by_hand, tolerance=1e-4)
compare("critic", metrics["loss/critic"], critic_loss_by_hand, tolerance=1e-4)


# %% [markdown]
# ## A world model of CartPole
#
# Now we need something to dream in. CartPole shows four numbers: place and speed of the
# cart, angle and angular speed of the pole. Each step pays 1. The episode ends when the pole
# leans more than 12 degrees or the cart leaves the track. Random buttons last about 22
# steps.
#
# Remember the lesson of notebook 06: a model keeps what its loss pays for. CartPole gives
# the angle in radians, and the pole has fallen at 0.2. Next to speeds of 2 and more, the
# squared error of such an angle is almost nothing. A model that is trained as briefly as
# ours ignores it, and then nobody can balance in its dreams.
#
# So we show angles in *degrees*. Keep this trick in mind. The *place* of the cart is a small
# number too. We could enlarge it in the same way, but here we leave it as it is, and you
# will see what comes of that.

# %%
class Degrees(gym.ObservationWrapper):
    """CartPole whose angle and angular speed are in degrees."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def observation(self, observation):
        return (observation * np.array([1, 1, 180 / np.pi, 180 / np.pi])).astype("f4")


# %% [markdown]
# We record random play. Each episode draws its own probability of switching to the other
# button at a step, so that the recording holds slow falls as well as fast ones.

# %%
replay, lengths = random_play(Degrees)
print("rows:", len(replay))
chance = np.mean(lengths)
claim("chance lasts between 18 and 30 steps", 18 < chance < 30)

# %% [markdown]
# The model is a small one of the kind from notebook 06. It has never seen a balanced pole.
# On Linux, `reuse_memory` makes a step a little faster by keeping freed memory in the
# process.

# %%
reuse_memory()
torch.manual_seed(0)
world_model = WorldModel(replay.obs_space, replay.action_space, sizes)


def train_world_model(updates=500, lr=2e-3):
    """Fit the model to the recording; returns the two losses of every update."""
    optimizer, curves = LaProp(world_model.parameters(), lr, warmup=50), []
    for i in progress(updates):
        optimizer.param_groups[0]["lr"] = lr * (1 - i / updates)
        loss, metrics, _ = world_model.loss(as_tensors(replay.sample(16, 16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curves.append([float(metrics[f"loss/{term}"]) for term in ("obs", "continue")])
    return np.array(curves)


# %%
curves = train_world_model()
world_model.requires_grad_(False)

fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.4))
names = {"observation": "1", "continue": "nats"}
for ax, curve, (name, unit) in zip(axes, curves.T, names.items()):
    ax.plot(curve, color=COLORS[name])
    ax.set(title=name, xlabel="update [1]", ylabel=f"loss [{unit}]")
    ax.set(ylim=(0, np.percentile(curve, 98)))
show(fig, alt="Reconstruction and continue loss of the CartPole model fall.")
claim(
    "the reconstruction error has fallen to less than a tenth",
    curves[-50:, 0].mean() < curves[0, 0] / 10,
)


# %% [markdown] tags=["predict"]
# ### Check: before the first update
#
# A new actor and a new critic have no opinion yet. So we know what their first numbers must
# be, and a mistake in the losses would show here.
#
# **Predict.** The world model already predicts a reward of 1 per step. Which of these are 0
# before the first update: the critic's values, the returns, the advantages? What does a
# step with weight 1 cost the critic? And which rows of a real episode cost it nothing?
#
# <details><summary>Answer</summary>
#
# Only the values are 0. The returns hold the model's rewards, and so the advantages are not
# 0 either. The critic pays two cross entropies over 255 equal bins, $2 \ln 255 = 11.08$.
# In the dreams this is multiplied by the weight of each step, so the code divides that loss
# by the mean weight. Real rows have no such weight, but the last row of an episode costs
# nothing, because no return follows it. So the code divides the loss on real rows by the
# share of the other rows.
#
# </details>

# %%
def imagined_states(batch, model=world_model):
    """Posterior states of replayed rows: where dreams begin."""
    with torch.no_grad():
        return model.loss(batch)[2]


torch.manual_seed(0)
fresh = ActorCritic(world_model.rssm.feature_size, replay.action_space, sizes)
batch = as_tensors(replay.sample(16, 16))
states = imagined_states(batch)
torch.manual_seed(1)
metrics = fresh.loss(states, world_model, batch)[1]
torch.manual_seed(1)  # the same dreams again
cont = fresh._imagine(states, world_model)[3]
weight, two = torch.cumprod(cont, 1)[:, :-1].mean(), 2 * math.log(255)

compare("value", metrics["value/mean"], 0.0, tolerance=0)
claim("return: above 1", metrics["return/mean"] > 1)
claim("entropy: ln 2", abs(metrics["actor/entropy"] - math.log(2)) < 1e-3)
claim("mean weight: above 0.5", weight > 0.5)
compare("critic / weight", metrics["loss/critic"] / weight, two, tolerance=1e-3)
ends = batch["is_last"][:, :-1].float().mean()
share = metrics["loss/replay_critic"] / (1 - ends)
compare("replay critic / share of rows that are not last", share, two, tolerance=1e-3)


# %% [markdown] tags=["aside"]
# ### Aside: where the gradients go
#
# The actor's loss must reach the actor alone, and the critic's loss the critic alone. We
# call `backward` on each and look which parts got a gradient. In the cell, the actor's loss
# leaves out the advantage, which `loss` computes under `torch.no_grad()`: it is a plain number.
# And `_imagine` is under `no_grad` as a whole, so nothing reaches the world model.

# %%
def touched(loss):
    """Parts of actor and critic that get a gradient from a loss."""
    fresh.zero_grad(set_to_none=True)
    loss.backward()
    parts = {"actor": fresh.actor, "critic": fresh.critic, "slow": fresh.slow_critic}
    return [
        n for n, p in parts.items() if any(w.grad is not None for w in p.parameters())
    ]


feature, action, _, _ = fresh._imagine(imagined_states(batch), world_model)
seen = feature[:, :-1]
log_prob, entropy = fresh.actor.evaluate(seen, action)
print("actor's loss  ->", touched(-(log_prob + 3e-4 * entropy).mean()))
zeros = torch.zeros(seen.shape[:2])
critic_loss = fresh._critic_loss(fresh.critic(seen), seen, zeros).mean()
print("critic's loss ->", touched(critic_loss))


# %% [markdown] tags=["predict"]
# ## Dream of balancing
#
# From here on the world model stays as it is. Actor and critic dream from 256 states per
# update, 15 steps each. The real CartPole is not touched. We also leave out the loss on
# real rows, by passing no `batch`, so that everything they learn comes from dreams.
#
# **Predict.** Draw four curves over 150 updates: how likely the dreamed life continues, the
# actor's entropy, the critic's mean value, and the return scale $S$. Which rise, and which
# fall?
#
# <details><summary>Answer</summary>
#
# Only the entropy falls, because the actor begins to prefer buttons. The pole falls more
# rarely, so the probability that life continues rises. The critic begins at 0, far below the
# returns, so its value rises. The curve of the scale shows $\max(1, S)$. It stays at 1 for
# about ten updates, while $S$ is still below 1. Then it rises, mostly because the moving
# average begins at 0 (notebook 07).
#
# </details>

# %%
def dream_training(agent, updates=150, lr=6e-4):
    """Train inside the frozen model; one row of metrics, as in `keys`, an update."""
    groups = [
        # twice the actor's rate: the judge should not lag behind the player
        {"params": list(agent.critic.parameters()), "lr": 2 * lr},
        {"params": list(agent.actor.parameters()), "lr": lr},
    ]
    optimizer, curves = LaProp(groups, warmup=20), []
    first = [group["lr"] for group in groups]
    for i in progress(updates):
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = rate * (1 - i / updates)
        states = imagined_states(as_tensors(replay.sample(16, 16)))
        loss, metrics = agent.loss(states, world_model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.update_slow()
        keys = ("imagined/continue", "actor/entropy", "value/mean", "return/scale")
        curves.append([float(metrics[key]) for key in keys])
    return np.array(curves)


# %%
torch.manual_seed(0)
agent = ActorCritic(world_model.rssm.feature_size, replay.action_space, sizes)
curves = dream_training(agent)

titles = {
    "continue": "dreamed continue [1]",
    "entropy": "actor's entropy [nats]",
    "value": "critic's value [1]",
    "return": "return scale S [1]",
}
fig, axes = plt.subplots(1, 4, figsize=(8, 2.3))
for ax, curve, (name, title) in zip(axes, curves.T, titles.items()):
    ax.plot(curve, color=COLORS[name])
    ax.set(xlabel="update [1]")
    ax.set_title(title, fontsize=8.5)
show(fig, alt="Continue, value and scale rise in the dream while the entropy falls.")
claim("the critic expects more than 5", curves[-1, 2] > 5)
claim("entropy below 0.6, not yet below 0.01", 0.01 < curves[-1, 1] < 0.6)


# %% [markdown]
# In a longer run you would watch exactly these four numbers. The page
# [metrics](reference/metrics.md) shows how each looks in a healthy run and in a sick one.
#
# ## Waking up
#
# Does it work outside? To act in the real game, the agent needs what it had in the dream:
# the model's state. So at each step the world model updates its state with the real
# observation, as `observe` did in notebook 06. The actor draws an action from that state,
# and the action becomes the model's previous action at the next step.
# Notebook 09 turns this into the method `act`.

# %%
@torch.no_grad()
def play(policy, episodes=20, seed=100):
    """Lengths of real episodes, how many leave the track, and what the first saw."""
    torch.manual_seed(seed)
    envs = [Degrees() for _ in range(episodes)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    state, action = world_model.rssm.initial(episodes), torch.zeros(episodes, 2)
    alive, lengths, seen = np.ones(episodes, bool), np.zeros(episodes), []
    first = torch.ones(episodes, 1, dtype=torch.bool)
    while alive.any():
        seen.append(obs[0].copy())
        embed = world_model.encoder({"obs": torch.as_tensor(obs)})[:, None]
        states = world_model.rssm.observe(embed, action[:, None], first, state)[0]
        state, first = states.map(lambda x: x[:, 0]), torch.zeros_like(first)
        action = policy(state)
        for i in np.flatnonzero(alive):
            obs[i], _, fell, cut, _ = envs[i].step(int(action[i].argmax()))
            lengths[i] += 1
            alive[i] = not (fell or cut)
    left_track = int((np.abs(obs[:, 0]) > 2.4).sum())
    return lengths, left_track, seen[: int(lengths[0])]


untrained = ActorCritic(world_model.rssm.feature_size, replay.action_space, sizes)
before, _, seen_before = play(untrained.policy)
after, left_track, seen_after = play(agent.policy)

# %% [markdown] tags=["predict"]
# **Predict.** An episode can end in three ways: the pole falls, the cart leaves the track,
# or 500 steps are over. The model has only seen short episodes, in which the cart stayed
# near the middle. How will most episodes of the trained actor end?
#
# <details><summary>Answer</summary>
#
# The cart leaves the track, with the pole still up. In our run all 20 episodes ended like
# this. The check below asks for only a quarter of them, because a short training turns out
# differently from one machine to another. The dreams have taught the actor to balance.
# They never showed it that the track has an end.
#
# </details>

# %%
fig, ax = plt.subplots(figsize=(7.2, 2.4))
ax.scatter(before, np.full(20, 0.0), color=COLORS["random"], marker="x", label=None)
ax.scatter(after, np.full(20, 1.0), color=COLORS["actor"], marker="^", label=None)
ax.axvline(chance, **line("threshold"), label="mean of the recorded random play")
ax.set(yticks=[0, 1], yticklabels=["untrained", "after dreaming"], ylim=(-0.6, 1.9))
ax.set(xlabel="length of an episode on the real CartPole [steps, cut off at 500]")
ax.legend()
show(fig, alt="Real episodes before and after dreaming: those after last far longer.")
claim("untrained, it lasts as long as chance (less than 40 steps)", before.mean() < 40)
claim(
    "after dreaming it lasts more than three times as long as chance",
    after.mean() > 3 * chance,
)
claim("at least a quarter of these episodes end off the track", left_track >= 5)


# %% [markdown]
# The actor balances a pole that it had never seen balanced. What it has not learnt is to
# stay on the track. To see why, let us look into its dream.
#
# The dream starts from the same observation as the real episode. After that first look the
# model sees nothing more. Actor and model take turns until the model says that the episode
# is over.

# %%
@torch.no_grad()
def dreamed(policy, obs, length=240):
    """What the model dreams after one real observation, until it says: over."""
    torch.manual_seed(0)
    embed = world_model.encoder({"obs": torch.as_tensor(obs)[None]})[:, None]
    first = torch.ones(1, 1, dtype=torch.bool)
    states = world_model.rssm.observe(embed, torch.zeros(1, 1, 2), first)[0]
    start = states.map(lambda x: x[:, 0])
    feature = world_model.rssm.imagine(start, policy, length - 1)[0].feature
    over = (world_model.predict_continue(feature)[0] < 0.5).tolist()
    seen = symexp(world_model.decoder(feature)["obs"])[0].numpy()
    return seen[: over.index(True) + 1 if True in over else length]


start = seen_after[0]
dream_before, dream_after = (dreamed(a.policy, start) for a in (untrained, agent))


# %% tags=["hide-input"]
def film(observations, label):
    """Every third step of an episode, so that 240 steps take 80 pictures."""
    return cart_film(observations[:240:3], label, length=80)


rows = [
    side_by_side(film(dream, "dreamed"), film(real, "real"))
    for dream, real in ((dream_before, seen_before), (dream_after, seen_after))
]
show_gif(
    np.concatenate(rows, 1),
    alt="Above, untrained, the pole falls at once, dreamed and real. Below, after "
    "dreaming, it stands in both; the dreamed cart stays near the middle, the real one "
    "wanders off.",
    caption="above: untrained, below: after dreaming | left: dreamed, right: real | "
    "three times as fast",
    fps=12,
)
far = [np.abs(np.array(seen)[:, 0]).max() for seen in (dream_after, seen_after)]
claim("the dreamed cart stays where the recording was (below 1.2)", far[0] < 1.2)
claim("the real cart gets further than the dreamed one", far[1] > far[0])

# %% [markdown]
# Compare the two films in the lower row. Both poles stand. But the dreamed cart stays near
# the middle, while the real one slowly wanders off.
#
# We suspect that the model has hardly learnt to follow the place of the cart. In the
# recording this number has a standard deviation of only 0.1, so the loss hardly pays for it.
# The films alone do not prove it, because different buttons are pressed in them, too. What
# is certain is that the model has never seen the edge of the track: the recorded cart gets
# no further than 1.1 from the middle, and the track ends at 2.4. In the model's dreams there
# is nothing to fear.
#
# ### Why is a minute enough?
#
# Because we ask for little. This actor lasts a few hundred steps and then leaves the track.
# In notebook 09 the goal is a mean of 475 of 500 steps, so the agent must stay on the track
# as well, and it learns its own model along the way. That takes several minutes.
#
# Would more dreams have been better? We once let them continue, at a constant learning rate
# instead of a falling one. The mean length of an episode was 321 steps after 75 updates, 247
# after 150, 474 after 300 and 352 after 600. So more practice is sometimes better and
# sometimes not, even in a model that never changes. And not one pole fell: an episode ended
# at the edge of the track, or it lasted for 500 steps. We will meet both again in notebook
# 09: a mean length that goes up and down, and the edge of the track.
#
# ## What the scale does
#
# The actor's loss has two parts, advantage and entropy, and the weight of the entropy is
# fixed. So the size of the advantages decides how much the entropy counts. This is what the
# scale $\max(1, S)$ is for.
#
# Move the slider. It shows the same dreams with rewards that are worth a hundredth to a
# hundred times as much. Large advantages come down to size. Small ones are left small on
# purpose: tiny differences are often noise, and blown up to full size they would outweigh
# the entropy that keeps the actor curious.

# %% tags=["hide-input"]
with torch.no_grad():
    feature, action, reward, cont = agent._imagine(imagined_states(batch), world_model)
    value = agent.two_hot.mean(agent.critic(feature))
    returns = lambda_return(reward, value, cont)
    gap = (returns - value[:, :-1]).flatten()
    spread = torch.quantile(returns, torch.tensor([0.05, 0.95]))


def draw(exponent):
    """Advantages before and after the division, for rewards of another size."""
    worth = 10.0**exponent
    scale = max(1.0, worth * float(spread[1] - spread[0]))
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.5), sharey=True)
    for ax, advantage, name in (
        (axes[0], worth * gap, "as it is"),
        (axes[1], worth * gap / scale, f"divided by {scale:.3g}"),
    ):
        ax.hist(
            advantage.clamp(-6, 6),
            bins=np.linspace(-6, 6, 61),
            color=COLORS["advantage"],
        )
        ax.set(xlabel="advantage, cut at 6 [1]", title=name)
    axes[0].set(ylabel="dreamed steps [1]")
    return fig


explore(
    draw,
    alt=lambda exponent: (
        f"Advantages for rewards of size {10**exponent:.3g}, plain and divided by the "
        "scale; nearly all are positive."
    ),
    exponent=Slider(-2.0, 2.0, 0.25, value=0.0, label="log10 of the reward's size"),
)

# %% [markdown]
# ### Why are nearly all advantages positive?
#
# Look at the picture again: there is almost nothing left of 0. Did every button do better
# than expected?
#
# In a way, yes, because this critic expects far too little. With our discount a pole that
# never falls is worth $1 / (1 - 0.997) = 333$. The critic began at 0 and says about 7 after
# 150 updates.
#
# Each return is made of dreamed rewards and of the critic's own guess of what follows them.
# So while the pole stands, the return is above the guess by several rewards of 1. You can
# see them in the left histogram at size 1: the peaks near 1, 2 and 3 are steps with one, two
# or three rewards left before the dream ends.
#
# The critic then moves up towards the return. But the next return is built on the higher
# guess and moves up as well, and the slow critic adds its brake. We gave the critic twice the
# actor's learning rate so that the judge would not lag behind the player. It lags all the
# same, because its target keeps moving away.

# %%
claim("more than 85 % of the advantages are positive", (gap > 0).float().mean() > 0.85)
claim("the critic's mean value is below 20 of 333", value.mean() < 20)
claim("the returns are at least 2 higher on average", gap.mean() > 2)

# %% [markdown]
# Does that harm the actor? On average no. What all actions have in common may be added or
# subtracted, as we saw above. The actor learns from the *differences*: some buttons are
# further above the critic's guess than others. But in a single estimate the common part is
# noise, as with the pays of 10 and 11, and a better critic would remove much of it.
#
# How long does the critic lag? We once froze the actor and trained only the critic for 500
# more updates. Its value rose from 7 to 47, and still 92 % of the advantages were positive.
# The advantages gather around 0 only when the critic has caught up.

# %% [markdown] tags=["aside"]
# ### Aside: two decisions, trained in three ways
#
# What if the scale is missing? Imagine a game with two small decisions, each with two
# buttons. In the first a lot is at stake, 0 against 1,000. In the second next to nothing is,
# 500 against 500.1. Over all returns of this game the scale is $S = 1000$.
#
# A good actor commits itself in the first decision. In the second it stays curious, because
# trying costs nothing there. We train an actor for each decision in three ways:
#
# * **ours**: advantages are divided by $S$;
# * **not normalised**: the advantage is used as it is. In more than one
#   [published port](https://github.com/pytorch/rl/pull/4125) the scale never reached the
#   actor's loss;
# * **no log-prob**: the sampled button is treated as if it had a gradient, which leaves only
#   the entropy in the loss.

# %%
STAKES = {"0 or 1,000": [0.0, 1000.0], "500 or 500.1": [500.0, 500.1]}


def decide(pay, mistake, updates=120):
    """Entropy of an actor that learns one decision, at every update."""
    torch.manual_seed(0)
    actor, state = (
        Actor(1, gym.spaces.Discrete(2), units=16, unimix=0.01),
        torch.ones(256, 1),
    )
    optimizer, curve = LaProp(actor.parameters(), lr=3e-3), []
    for _ in range(updates):
        button = actor.sample(state)
        returns = button @ torch.tensor(pay)
        scale = 1.0 if mistake == "not normalised" else 1000.0
        advantage = (returns - returns.mean()) / scale  # the critic knows the mean
        log_prob, entropy = actor.evaluate(state, button)
        if mistake == "no log-prob":
            log_prob = torch.zeros(())
        loss = -(log_prob * advantage + 3e-4 * entropy).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(entropy.mean().item())
    return curve


# %%
looks = {
    "ours": line("ours"),
    "not normalised": line("error"),
    "no log-prob": line("random") | {"linestyle": "--"},
}
curves = {
    (mistake, name): decide(pay, mistake)
    for mistake in looks
    for name, pay in STAKES.items()
}

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
for ax, name in zip(axes, STAKES):
    for mistake, look in looks.items():
        ax.plot(curves[mistake, name], **look, label=mistake)
    ax.set(title=f"pays {name}", xlabel="update [1]", ylim=(0, 0.75))
axes[0].set(ylabel="actor's entropy [nats]")
axes[1].legend(loc="center right")
show(fig, alt="Only the normalised actor is decided on the left, curious on the right.")

# %%
end = {key: curve[-1] for key, curve in curves.items()}
most, least = STAKES
claim("ours: decided where it matters (entropy below 0.1)", end["ours", most] < 0.1)
claim("ours: curious where it does not (above 0.6)", end["ours", least] > 0.6)
claim(
    "not normalised: decided everywhere (below 0.2)",
    max(end["not normalised", name] for name in STAKES) < 0.2,
)
claim(
    "no log-prob: random everywhere, to the end (above 0.69)",
    min(end["no log-prob", name] for name in STAKES) > 0.69,
)


# %% [markdown]
# ## Exercise: find the bug
#
# ### Exercise 8.3: Weights that look right
#
# *easy, about 10 minutes, one planted bug*
#
# An agent that trains with these weights looks healthy, but some of its values slowly creep
# upwards although they should stay at 0. Find the bug.

# %% tags=["exercise-8.3"]
def dream_weights(cont):
    """Weights of the first H states of dreams: cont [N, H+1] -> [N, H].

    cont[:, t] is the model's probability that life goes on at state t, discount inside.
    """
    return torch.cumprod(torch.cat([torch.ones_like(cont[:, :1]), cont[:, 1:-1]], 1), 1)


# %%
check("8.3", dream_weights)
# solution("8.3")

# %% [markdown]
# ## What breaks
#
# None of these raises an error, and you hardly see them in the losses. Look at the entropy, the
# returns and the values.
#
# * **No log-probability.** Only the entropy trains, and the policy stays random.
# * **No normalisation.** The entropy's weight then means nothing beside large advantages,
#   and the actor stops exploring.
# * **$c_0$ forgotten.** Dreams that begin in a *terminal* row are trained on as if they were
#   life. The value of terminal states creeps up from 0.
#   ([TorchRL had this](https://github.com/pytorch/rl/pull/4128).)
# * **A gradient of the dreamed returns into the model.** The returns then improve because
#   the model flatters itself: it learns to dream of rewards.
# * **Actor too fast.** With the world model's learning rate on an immature model the entropy
#   collapses within a few hundred updates. From notebook 09 on the actor gets a fifth of
#   that rate.
#
# The page [troubleshooting](reference/troubleshooting.md) lists more, sorted by symptom.
#
# ## What we built
#
# An actor and a critic that learn without acting. Three things made it work: probabilities
# of sampled actions instead of gradients through them, a critic that is subtracted, and a
# scale that keeps large advantages from drowning the entropy.
#
# What is still missing is experience of places that only a better player reaches. In
# notebook 09 everything meets: play, record, learn, dream.

# %%
what_we_built("08_actor_critic")
