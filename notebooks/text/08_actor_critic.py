# %% [markdown]
# # 08 Actor and critic: learning to act without acting
#
# **The question.** A world model can dream what would happen. How does one become *good* at
# something by dreaming alone, and does it still work after waking up?
#
# An *actor* chooses actions, a *critic* says how good a state is. Both are small networks on
# top of the model's states. The actor plays in the dream; what went better than the critic
# thought, it does more often. No frame is drawn and no environment is asked.
#
# **At the end** you have trained both inside a frozen world model of CartPole, a pole that
# wants to fall off a cart, and they balance the real one several times longer than chance.
#
# **You need** notebook 06 (world model: states, predicted reward and continue) and 07
# (lambda-return and its scale $S$). What a policy gradient is, is explained here.
#
# *Measured: 0.9 minutes on two CPU cores, 0.5 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np

from course import COLORS, Slider, behaviour_phase, check, claim, compare
from course import dreamer_map, explore, hint, line, progress, show, show_gif
from course import side_by_side, solution, use_style, what_we_built
from dreamer_lite.replay import Replay
from dreamer_lite.speed import reuse_memory
from dreamer_lite.symlog import symlog
from dreamer_lite.world_model import LaProp, as_tensors

use_style()


# %% [markdown]
# ## The goal
#
# CartPole has two buttons, push left and push right. Here are two players. On the left the
# buttons are pressed at random. The right-hand player is a rule written by a human, who knows
# which number is the angle and which way to push. At the end of the notebook you will see
# this picture again, and then the player on the right is an actor that was told nothing of
# the kind and has practised in dreams only.

# %%
def draw_cart(place, degrees, height=48, width=128):
    """A picture of the cart and its pole, [height, width, 3] uint8."""
    picture = np.full((height, width, 3), 255, np.uint8)
    colours = [
        tuple(int(COLORS[n][i : i + 2], 16) for i in (1, 3, 5))
        for n in ("neutral", "real", "action")
    ]
    picture[40] = colours[0]
    middle = int(width / 2 + place / 2.4 * width / 2)
    picture[36:40, max(middle - 7, 0) : middle + 8] = colours[1]
    for along in np.linspace(0, 28, 60):
        x = int(middle + along * np.sin(np.radians(degrees)))
        y = int(35 - along * np.cos(np.radians(degrees)))
        picture[y, np.clip([x, x + 1], 0, width - 1)] = colours[2]
    return picture


def standing(frames, length=60):
    """The first frames of a film; if it is shorter, its last one stays."""
    return np.array((frames + [frames[-1]] * length)[:length])


# %%
def watch(press, seed=3):
    """What the real CartPole shows in 60 steps, until the pole falls."""
    env, frames, fell = gym.make("CartPole-v1"), [], False
    (place, _, angle, turning), _ = env.reset(seed=seed)
    while not fell and len(frames) < 60:
        frames.append(draw_cart(place, np.degrees(angle)))
        (place, _, angle, turning), _, fell, _, _ = env.step(press(angle, turning))
    return standing(frames)


coin = np.random.default_rng(3)
by_chance = watch(lambda angle, turning: int(coin.integers(2)))
by_rule = watch(lambda angle, turning: int(angle + 0.3 * turning > 0))
show_gif(
    side_by_side(by_chance, by_rule),
    alt="Left random buttons drop the pole, right a rule written by hand balances it.",
    caption="real CartPole, first 60 steps: random buttons | a rule written by hand",
    fps=12,
)

# %%
#| default_exp actor_critic
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
# ## The whole picture
#
# The world model is frozen here. Dreaming starts in states that it has seen; actor, model
# and critic then take turns. The arrows show what is computed from what. Gradients do not
# follow them all the way: they stay inside the actor and inside the critic, and none of them
# enters the model. The shape is that of the dreams of this notebook: from
# each of 256 states 15 steps on, the start included 16, in every one of them $h$ with 128
# numbers and $z$ with 16 x 8. (Side by side these are 256 numbers, by chance as many as
# there are dreams.)

# %%
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
# Two buttons. One pays, the other pays nothing. The policy is a pair of logits, and it likes
# the left button better: $(1, 0)$. Let us do what one does everywhere else in deep learning:
# run it forward, compute what we want to be large, and call `backward`. Like every real
# agent, ours should also keep a little *entropy*, so that the policy stays curious.

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
# Three different games, one gradient. Not a digit of it comes from the pay. Drawing a sample
# cuts the graph: a button is a whole number, and whole numbers have no gradient. What is
# left is the entropy's part. So the loss moves, training "runs", and the policy becomes
# nothing but more random. This has happened in
# [published code](https://github.com/epignatelli/navix/pull/152).
#
# ### The way around it
#
# > **[The paper](https://arxiv.org/abs/2301.04104) says** (equation 6, section "Actor
# > learning"). The actor is trained with the Reinforce estimator for discrete and continuous actions alike:
# >
# > $$\mathcal{L}(\theta) = - \sum_t \left[ \mathrm{sg}\!\left(\frac{R^\lambda_t - v(s_t)}
# > {\max(1, S)}\right) \ln \pi_\theta(a_t \mid s_t) + \eta\, \mathrm{H}[\pi_\theta(a_t
# > \mid s_t)] \right]$$
# >
# > with an entropy bonus of weight $\eta = 3 \times 10^{-4}$.
#
# Our words. $\pi_\theta(a_t \mid s_t)$ is the probability that the actor gives to the
# action it took; the upright $\mathrm{H}$ is its entropy (the italic $H$ stays the
# horizon), and $\eta$ the entropy's weight, not the learning rate of notebook 06. We cannot
# differentiate the button, but we can differentiate that probability. If the outcome was
# better than expected, make the button more likely; if worse, less. This estimate is called
# *REINFORCE*; a gradient that is estimated from the policy's own samples is a *policy
# gradient*. The fraction is the *advantage*: return $R^\lambda_t$ minus what the critic
# expected, $v(s_t)$, divided by the scale $\max(1, S)$ of notebook 07. It is a plain number
# here: $\mathrm{sg}$ stops every gradient into it.
#
# For two buttons we can check that this is right *on average*. With probabilities $p$, the
# expected pay is $\sum_a p_a r_a$, and its true gradient with respect to the logits is
# $p_a (r_a - \sum_b p_b r_b)$.

# %% [markdown] tags=["predict"]
# **Predict.** The left button pays 0, the right one 1, and both logits are 0. What is the
# true gradient of the expected pay with respect to the two logits? And what single estimate
# does REINFORCE give if the right button was drawn and nothing is subtracted, with $\nabla
# \ln p_a = \mathrm{onehot}(a) - p$?
#
# <details><summary>Answer</summary>
#
# $p = (0.5, 0.5)$, expected pay 0.5: the gradient is $(0.5 \times -0.5,\; 0.5 \times 0.5) =
# (-0.25, 0.25)$. The estimate for the right button is $1 \times (-0.5, 0.5)$, for the left
# one $(0, 0)$; each is drawn half the time, so the mean is $(-0.25, 0.25)$. Right on
# average, never right in a single draw.
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

# %% [markdown]
# ### Why subtract the critic
#
# Add 10 to every pay. Nothing has changed about which button is better. But what happens to
# the estimates?

# %% [markdown] tags=["predict"]
# **Predict.** The buttons pay 10 and 11. What are the two estimates for the right button's
# logit, if nothing is subtracted? And if the expected pay, 10.5, is subtracted?
#
# <details><summary>Answer</summary>
#
# $10 \times (-0.5) = -5$ and $11 \times 0.5 = 5.5$: on average 0.25, but the signal drowns in
# the noise. With 10.5 subtracted: $-0.5 \times -0.5 = 0.25$ and $0.5 \times 0.5 = 0.25$.
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
# Anything that does not depend on the action may be subtracted: on average it changes
# nothing. The expected return is a good choice, because then only the surprise is left. It
# is not always the best one. For two equally likely buttons it removes all the noise, as you
# just saw. For buttons with probabilities 0.9 and 0.1 that pay 0 and 1, subtracting the
# expected pay of 0.1 leaves a variance of 0.058, and subtracting 0.9 would leave none. But
# the best number differs from state to state and is hard to know, while the expected return
# is exactly what a critic learns to predict.
#
# ## The actor
#
# For buttons the actor is a categorical, mixed with 1 % of the uniform distribution as the
# latents in 05 are: no button ever becomes impossible, and no log-probability infinite.
#
# For joysticks it is a normal distribution for each axis, with bounds that keep it tame:
#
# $$\mu = \tanh(m), \qquad \sigma = 0.9\; \mathrm{sigmoid}(s + 2) + 0.1$$
#
# where the network gives $m$ and $s$. The sample itself is *not* clipped: only the
# environment clips it to $[-1, 1]$. The log-probability must be that of the number that was
# drawn, and this is the simplest way to keep it so.

# %% [markdown] tags=["predict"]
# **Predict.** The last layer starts with weights a hundredth of the usual size, so at first
# $m \approx s \approx 0$. What is $\sigma$ then? What is the entropy of a normal with this
# $\sigma$, $\tfrac12 \ln(2 \pi e\, \sigma^2)$? And that of five equally likely buttons?
#
# <details><summary>Answer</summary>
#
# $\sigma = 0.9 \times 0.881 + 0.1 = 0.893$; the entropy is $1.419 + \ln 0.893 = 1.305$ nats
# per axis. Five buttons: $\ln 5 = 1.609$.
#
# </details>

# %%
sigma = 0.9 / (1 + math.exp(-2)) + 0.1
print(f"deviation {sigma:.3f}")
print(f"entropy of an axis {0.5 * math.log(2 * math.pi * math.e * sigma**2):.3f}")
print(f"entropy of five buttons {math.log(5):.3f}")


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
joystick = Actor(32, gym.spaces.Box(-1, 1, (2,)), units=32, unimix=0.01)

for name, actor in {"buttons": buttons, "joystick": joystick}.items():
    drawn = actor.sample(feature)
    log_prob, entropy = actor.evaluate(feature, drawn)
    print(f"{name:8} action {list(drawn.shape)}  log-prob {list(log_prob.shape)}")

entropy = buttons.evaluate(feature, buttons.sample(feature))[1]
claim("buttons start within 0.001 of ln 5", (entropy - math.log(5)).abs().max() < 1e-3)
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
# Some environments ask for several choices at once: a gear and a steering wheel with three
# positions. Each is a categorical of its own, and they are drawn independently. So the
# probability of the whole action is a product, and its logarithm a sum.

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
# Notice the pair `sample` and `evaluate`. The dream draws actions without keeping any graph,
# which saves most of the memory and time. Afterwards `evaluate` computes the probabilities
# of all those actions at once, with a graph. Only REINFORCE allows this: it never looks
# back through the dream. (DreamerV1 and V2 sent gradients back through the dreamed states
# for continuous actions, and the first version of V3 still did. By its
# [author's account](https://github.com/danijar/dreamerv3/issues/168) that learns a little
# faster there; REINFORCE everywhere is simpler, cheaper and nearly as good.)
#
# ## The critic
#
# The critic is the two-hot head of notebook 02 on top of an MLP. It predicts a distribution
# of returns and starts at exactly 0 everywhere.

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


# %%
torch.manual_seed(0)
critic, two_hot = Critic(32, units=32), TwoHot()
compare("first value", two_hot.mean(critic(feature)), torch.zeros(1000), tolerance=0)


# %% [markdown]
# > **The paper says** (equation 5, section "Critic learning"). The critic learns the
# > distribution of the lambda-returns by maximum likelihood:
# >
# > $$\mathcal{L}(\psi) = - \sum_t \ln p_\psi(R^\lambda_t \mid s_t)$$
# >
# > Because its targets depend on its own predictions, it is also pulled towards the
# > predictions of a slowly moving average of its own weights. On replayed rows it is trained
# > as well, with weight 0.3.
#
# Our words. $p_\psi$ are the probabilities of the 255 bins that the critic with weights
# $\psi$ gives to state $s_t$. A return between two bins is shared by them, as in 02, and
# $-\ln p_\psi$ becomes the cross entropy to its two-hot target.
#
# ### Both equations, term by term
#
# Here is exactly the code of the two equations, with the sum as a loop. The actor's first.

# %%
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


# %% [markdown]
# A dream with two states. The returns are 5 and 0, the critic expected 1 both times, and the
# scale is 4. In the first state the actor took a button to which it gave probability
# $\tfrac12$, in the second one with $\tfrac14$.

# %% [markdown] tags=["predict"]
# **Predict.** What are the two advantages, and the actor's loss without its entropy?
#
# For the critic's equation, take another critic: in the first state it finds all 255 bins
# alike, in the second it gives half of its probability to the bin of 0. What is its loss?
#
# <details><summary>Answer</summary>
#
# The advantages are $(5 - 1) / 4 = 1$ and $(0 - 1) / 4 = -\tfrac14$. The actor's loss is
# $-(1 \cdot \ln\tfrac12 - \tfrac14 \ln\tfrac14) = \ln 2 - \tfrac12 \ln 2 = 0.3466$. (Do not
# read strength from the two terms: what trains is the gradient with respect to $\ln \pi$,
# which is the advantage. The praise pulls four times as hard as the blame.) The critic's
# loss is $\ln 255 + \ln 2 = 6.234$.
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

# %% [markdown]
# An action that did worse than expected is made less likely, one that did better more
# likely; the entropy matters only in the fourth digit. Three things are still missing:
# something that keeps the critic calm, a weight for each state, and a form for a thousand
# dreams at once.
#
# ### A slow critic keeps it calm
#
# The target of the critic is built from the critic. If it raises all its values by mistake,
# its targets rise too. The *slow critic* is a copy that follows by 2 % after each update.
# It is no target network: returns are computed with the fast critic. The slow one only
# adds a second cross entropy to the fast one's loss, whose target is the slow one's value.

# %% [markdown] tags=["predict"]
# **Predict.** The critic's loss has two cross entropies over 255 bins. What do they sum to
# before the first update? And after the fast critic has jumped to a new place, how many
# updates does the slow one need for half of the way?
#
# <details><summary>Answer</summary>
#
# $2 \ln 255 = 11.08$. Half of the way: $0.98^n = 0.5$ gives $n = 34.3$, so 35 updates.
#
# </details>

# %%
print(f"two cross entropies: {2 * math.log(255):.2f}")
slow, updates = 0.0, 0
while slow < 0.5:
    slow, updates = slow + 0.02 * (1.0 - slow), updates + 1
print("updates to half of the way:", updates)

# %% [markdown]
# ### What counts, and how much
#
# The dream does not stop when Mario dies in it. Tensors have a fixed shape, so it rolls on
# to its last step, and everything after the end must count for nothing. The world model
# says how likely it is that life goes on, $c_t$, with the discount inside. So step $t$ gets
# the weight $w_t = c_0 c_1 \cdots c_t$ in both losses.
#
# Look at the first factor. Dreams begin at *replayed* states, and some of these are the last
# row of an episode: Mario is already in the pit. Its $c_0$ is near 0, and takes the whole
# dream out of the loss.

# %% [markdown] tags=["predict"]
# **Predict.** Three dreams of four states, with $c$ = (1, 1, 1, 1), (1, 0, 1, 1) and
# (0, 1, 1, 1). Which weights do the first three states get?
#
# <details><summary>Answer</summary>
#
# (1, 1, 1); (1, 0, 0), for after an end there is nothing, whatever the model says later; and
# (0, 0, 0), for this dream began in an end.
#
# </details>

# %%
cont = torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 1]])
print(torch.cumprod(cont, 1)[:, :-1].int().tolist())


# %% [markdown]
# ### Exercise 8.1: The actor's loss
#
# *medium, about 15 minutes*
#
# Before the class shows it: write the actor's loss for $N$ dreams at once, as in equation 6
# and in `actor_loss_slow`, without a loop, with the weight on every step and the plain mean
# over all $N \times H$ steps in place of the sum. (The stub raises `NotImplementedError`
# until you fill it; nothing after it depends on your answer. `solution("8.1")` prints one
# way to do it.)

# %% tags=["exercise-8.1"]
def actor_loss(log_prob, entropy, returns, value, weight, scale, eta):
    """The actor's loss, one number; log_prob, entropy [N, H] have gradients.

    returns, value, weight: [N, H]. scale: S of the return normaliser, a float that may
    still be below 1. eta: weight of the entropy. No gradient may reach returns and
    value.
    """
    raise NotImplementedError("exercise 8.1")


# %%
check("8.1", actor_loss)


# %%
# solution("8.1")

# %% [markdown]
# ## Build it yourself

# %% [markdown]
# ### Exercise 8.0: Write the losses of actor and critic
#
# *hard, about 60 minutes, 13 lines to write, 3 hints*
#
# Now put the pieces together: this is the heart of the notebook. The dreams are given, with
# everything that the world model predicts about them. You write what the actor and the critic
# learn from them.
#
# The agent that you get has these parts, and some of them you have just met:
#
# | part | what it does |
# |---|---|
# | `agent.critic(feature)`, `agent.slow_critic(feature)` | logits of the value, now and as the slow copy sees it |
# | `agent.two_hot.mean(logits)`, `.loss(logits, numbers)` | read a value; cross entropy to numbers (02) |
# | `agent.normalizer.update(returns)`, `.scale` | take in a batch of returns; the divisor (07) |
# | `agent.actor.evaluate(feature, action)` | log-probability and entropy of every step |
# | `agent.config.lam`, `agent.config.entropy` | lambda; the weight of the entropy |
#
# Think first about what must *not* have a gradient. The check begins with the form of your
# answer, continues with the losses of a new agent, which you can predict, then to the normaliser
# and to our own version, and ends with gradients on random dreams.

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


# %%
# hint("8.0", 1)
# solution("8.0")

# %% [markdown]
# ## Our version
#
# One method, `loss`, holds the whole behaviour phase. `_imagine` rolls all B x T replayed
# states forward without a graph; then actor and critic are evaluated once on all of them.
#
# One term is new. The *replay critic* looks at real rows, which have real rewards and real
# ends. In the lambda-return over real rows, each row's imagined return takes the place of the
# value, as in notebook 07. And here, and only here, the gradient goes into the world model:
# states that help to predict the return are good states.

# %% tags=["hide-input"]
#| export
class ActorCritic(nn.Module):
    """Actor, critic, the critic's slow copy and the return normaliser.

    Args: feature_size; action_space; config, of which it reads `units` and `unimix`,
    `horizon`, imagined steps, `lam` of the lambda-return, `discount` for real rows,
    `entropy`, weight of the actor's entropy, `slow_rate`, with which the slow critic
    follows, and `replay_scale`, weight of the critic's loss on real rows.
    Source: DreamerV3, equations 4 to 7.
    """

    def __init__(self, feature_size: int, action_space: gym.Space, config: Config):
        super().__init__()
        self.config, c = config, config
        self.actor = Actor(feature_size, action_space, units=c.units, unimix=c.unimix)
        self.critic = Critic(feature_size, units=c.units)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.two_hot = TwoHot(len(self.critic[-1].bias))
        self.normalizer = ReturnNormalizer()

    def policy(self, state: State, greedy: bool = False) -> Tensor:
        """Sample actions [B, A] for model states [B, ...], or the most likely ones."""
        return self.actor.sample(state.feature, greedy)

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
            last = self.two_hot.mean(self.critic(feature[:, -1:]))
            value = torch.cat([self.two_hot.mean(value_logits.detach()), last], 1)
            returns = lambda_return(reward, value, cont, self.config.lam)
            self.normalizer.update(returns)
            scale = self.normalizer.scale
            advantage = (returns - value[:, :-1]) / scale
            weight = torch.cumprod(cont, 1)[:, :-1]  # also of the state it began in
        log_prob, entropy = self.actor.evaluate(seen, action)
        bonus = self.config.entropy * entropy
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
            slow = self.two_hot.mean(self.slow_critic(feature))
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


# %% [markdown]
# ### The class against the equations
#
# Is this still what the paper's equations say? We replace the dream by one that we make up,
# with two states to act in, and compare with the slow code: the mean of its two terms, each
# with its weight, and for the critic a second cross entropy towards the slow critic, which
# still says 0.

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
# Now a body to learn with. CartPole's observation is four numbers (place and speed of the
# cart, angle and angular speed of the pole), its two buttons push left or right, and each
# step pays 1 until the pole leans more than 12 degrees or the cart leaves the track. Random
# buttons last about 22 steps.
#
# Remember the lesson of 06: a model keeps what its loss pays for. CartPole gives angles in
# radians, and the pole falls at 0.2. Against speeds of 2 and more, the squared error of
# such an angle is nothing, and a model that ignores it, as one trained as briefly as ours
# does, cannot balance. So we show angles in *degrees*. (In radians, when we tried, the
# actor trained below dropped the pole much sooner.)

# %%
class Degrees(gym.ObservationWrapper):
    """CartPole whose angle and angular speed are in degrees."""

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def observation(self, observation):
        return (observation * np.array([1, 1, 180 / np.pi, 180 / np.pi])).astype("f4")


# %% [markdown]
# We record random play. Each episode gets its own restlessness, the chance to press the other
# button, so that the recording has slow and fast falls in it (they take about 25 steps).

# %%
def record(rows=1500, envs=4, seed=0):
    """Random CartPole play as a Replay, and the lengths of the episodes."""
    rng = np.random.default_rng(seed)
    copies = [Degrees() for _ in range(envs)]
    space = gym.spaces.Dict(obs=copies[0].observation_space)
    replay = Replay(rows * envs, space, copies[0].action_space, envs, seed)
    lengths = []
    for i, env in enumerate(copies):
        last = True
        for row in range(rows):
            first = last
            if first:
                (obs, _), reward = env.reset(seed=seed + 1000 * i + row), 0.0
                last = terminal = False
                action, restless, begin = rng.integers(2), rng.uniform(0.3, 0.9), row
            else:
                obs, reward, terminal, cut, _ = env.step(action)
                last = terminal or cut
                if rng.random() < restless:
                    action = 1 - action
            replay.add(i, {"obs": obs}, action, reward, first, last, terminal)
            if last:
                lengths.append(row - begin)
    return replay, lengths


# %%
replay, lengths = record()
print("rows:", len(replay))
chance = np.mean(lengths)
claim("chance lasts between 18 and 30 steps", 18 < chance < 30)

# %% [markdown]
# The model is a small one of the kind from 06. It has never seen a balanced pole.
# (`reuse_memory` keeps freed memory in the process; on Linux a step is faster with it.)

# %%
reuse_memory()
torch.manual_seed(0)
world_model = WorldModel(replay.obs_space, replay.action_space, sizes)


TERMS = ("obs", "reward", "continue", "dyn", "rep")


def train_world_model(updates=500, lr=2e-3):
    """Fit the model to the recording; returns the losses of every update."""
    optimizer, curves = LaProp(world_model.parameters(), lr, warmup=50), []
    for i in progress(updates):
        optimizer.param_groups[0]["lr"] = lr * (1 - i / updates)
        loss, metrics, _ = world_model.loss(as_tensors(replay.sample(16, 16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curves.append([float(metrics[f"loss/{term}"]) for term in TERMS])
    return np.array(curves)


# %% [markdown] tags=["predict"]
# **Predict.** This model has five losses. What are they before the first update?
#
# * reward: all 255 bins are alike;
# * continue: what would it be if the head said $\tfrac12$?
# * dyn and rep: in 05, two random heads with 32 latents of 8 classes disagreed by about 9
#   nats. How much is it with 16?
# * observation: what does a decoder pay that says 0, if the squares of the four numbers,
#   after symlog, add up to $q$?
#
# <details><summary>Answer</summary>
#
# $\ln 255 = 5.541$ exactly. About $\ln 2 = 0.693$: a new head is a little sure of itself
# here and there, and may start between 0.4 and 1.2. Half of 9, so 4.5, the same number
# twice. About $q$: an untrained decoder does not say 0 but small random numbers, which
# changes it a little. The next cell trains the model and looks at the losses of its first
# update.
#
# </details>

# %%
curves = train_world_model()

first = dict(zip(TERMS, curves[0]))
recorded = torch.as_tensor(replay.data["obs"])
square = float(symlog(recorded).square().sum(-1).mean())
print(f"predicted: reward {math.log(255):.3f}, continue {math.log(2):.3f}, ", end="")
print(f"dyn = rep = 4.5, observation q = {square:.0f}")
print(f"measured: reward {first['reward']:.3f}")
claim("continue: between 0.5 and 1.2", 0.5 < first["continue"] < 1.2)
claim("dyn: between 3 and 7 nats", 3 < first["dyn"] < 7)
compare("dyn and rep", first["dyn"], first["rep"], tolerance=0)
claim("observation: within 40 % of q", abs(first["obs"] / square - 1) < 0.4)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.4))
for ax, term, name, unit in (
    (axes[0], "obs", "observation", "1"),
    (axes[1], "continue", "continue", "nats"),
):
    curve = curves[:, TERMS.index(term)]
    ax.plot(curve, color=COLORS[name])
    ax.set(title=name, xlabel="update [1]", ylabel=f"loss [{unit}]")
    ax.set(ylim=(0, np.percentile(curve, 98)))
show(fig, alt="Reconstruction and continue loss of the CartPole model fall.")
world_model.requires_grad_(False)
claim(
    "the reconstruction error has fallen to less than a tenth",
    curves[-50:, 0].mean() < curves[0, 0] / 10,
)


# %% [markdown]
# ## Check: the first losses
#
# As always, first by hand, and first for a newborn agent in the dreams of a newborn world
# model, which is how notebook 09 begins. Its reward head says 0 and so does the critic:
# all returns and all advantages are 0, and the actor's loss is nothing but the entropy.

# %% [markdown] tags=["predict"]
# **Predict.** The newborn continue head says about $\tfrac12$, so the weights of the 15
# states are about $\tfrac12, \tfrac14, \tfrac18, \ldots$ What is their mean? What are then
# the first losses of the actor (two even buttons) and of the critic?
#
# <details><summary>Answer</summary>
#
# The weights sum to nearly 1: mean $1 / 15 = 0.067$. The actor's loss is $-0.0003 \cdot \ln 2
# = -0.00021$ times that, $-0.000014$. The critic's is $2 \ln 255 = 11.08$ times that, 0.74.
# So at first it *rises*, while the model learns that life goes on.
#
# </details>

# %%
def imagined_states(batch, model=world_model):
    """Posterior states of replayed rows: where dreams begin."""
    with torch.no_grad():
        return model.loss(batch)[2]


def first_losses(model):
    """Metrics of a new agent in the dreams of a model, and their mean weight."""
    states = imagined_states(batch, model)
    torch.manual_seed(1)
    metrics = fresh.loss(states, model, batch)[1]
    torch.manual_seed(1)  # the same dreams again
    cont = fresh._imagine(states, model)[3]
    return metrics, torch.cumprod(cont, 1)[:, :-1].mean()


torch.manual_seed(0)
fresh = ActorCritic(world_model.rssm.feature_size, replay.action_space, sizes)
newborn = WorldModel(replay.obs_space, replay.action_space, sizes)
batch = as_tensors(replay.sample(16, 16))

weight, bonus, two = 1 / 15, 3e-4 * math.log(2), 2 * math.log(255)
print(f"mean weight {weight:.3f}, ", end="")
print(f"actor {-bonus * weight:.6f}, critic {two * weight:.2f}")
metrics, weight = first_losses(newborn)
claim("mean weight: between 0.02 and 0.12", 0.02 < weight < 0.12)
compare("actor / weight", metrics["loss/actor"] / weight, -bonus)
compare("critic / weight", metrics["loss/critic"] / weight, two, tolerance=1e-3)
compare("return", metrics["return/mean"], 0.0, tolerance=0)
compare("scale S, at least 1", metrics["return/scale"], 1.0, tolerance=0)

# %% [markdown]
# In the dreams of our *trained* model life mostly goes on. The weights are many times as
# large, and so is the critic's loss. The actor's own loss can no longer be predicted: this
# model foresees a reward of 1 per step, so that returns, and with them advantages, are not
# 0. On real rows the critic's loss is $2 \ln 255$ times the share of rows that are not the
# last of an episode.

# %%
metrics, weight = first_losses(world_model)
claim("mean weight: above 0.5", weight > 0.5)
compare("critic / weight", metrics["loss/critic"] / weight, two, tolerance=1e-3)
ends = batch["is_last"][:, :-1].float().mean()
share = metrics["loss/replay_critic"] / (1 - ends)
compare("replay critic / share of rows that are not last", share, two, tolerance=1e-3)
claim("entropy: ln 2", abs(metrics["actor/entropy"] - math.log(2)) < 1e-3)
compare("value", metrics["value/mean"], 0.0, tolerance=0)


# %% [markdown]
# And where the gradients go: the actor's loss into the actor, the critic's into the critic.

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


# %% [markdown]
# ## Dream of balancing
#
# The world model stays as it is from here on. Actor and critic dream from 256 states per
# update, 15 steps each. The real CartPole is not touched, and the loss on real rows is left
# out as well (no `batch` is passed): all that they learn, they learn in dreams.

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

# %%
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
claim(
    "the critic has learnt that balancing is worth more than 5 steps",
    curves[-1, 2] > 5,
)
claim(
    "the actor prefers some buttons: entropy below 0.6, not yet below 0.01",
    0.01 < curves[-1, 1] < 0.6,
)


# %% [markdown]
# ## Waking up
#
# Does it work outside? For that the agent needs what it has in the dream, the model state.
# The world model filters the real observations into one, the actor samples an action, and
# the action becomes the model's previous action. (Notebook 09 turns this into `act`.)

# %%
@torch.no_grad()
def play(policy, episodes=20, seed=100):
    """Lengths of real episodes, and the observations of the first."""
    torch.manual_seed(seed)
    envs = [Degrees() for _ in range(episodes)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    state, action = world_model.rssm.initial(episodes), torch.zeros(episodes, 2)
    alive, lengths, film = np.ones(episodes, bool), np.zeros(episodes), []
    first = torch.ones(episodes, 1, dtype=torch.bool)
    while alive.any():
        film.append(obs[0].copy())
        embed = world_model.encoder({"obs": torch.as_tensor(obs)})[:, None]
        states = world_model.rssm.observe(embed, action[:, None], first, state)[0]
        state, first = states.map(lambda x: x[:, 0]), torch.zeros_like(first)
        action = policy(state)
        for i in np.flatnonzero(alive):
            obs[i], _, fell, cut, _ = envs[i].step(int(action[i].argmax()))
            lengths[i] += 1
            alive[i] = not (fell or cut)
    return lengths, np.array(film[: int(lengths[0])])


untrained = ActorCritic(world_model.rssm.feature_size, replay.action_space, sizes)
before, film_before = play(untrained.policy)
after, film_after = play(agent.policy)

# %%
fig, ax = plt.subplots(figsize=(7.2, 2.6))
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

# %% tags=["hide-input"]
films = [
    standing([draw_cart(o[0], o[2]) for o in observations])
    for observations in (film_before, film_after)
]
show_gif(
    side_by_side(*films),
    alt="Left the untrained actor's pole falls at once, right the trained one stands.",
    caption="real CartPole, first 60 steps: untrained | after dreaming",
    fps=12,
)

# %% [markdown]
# The actor has balanced a pole that it had never seen balanced. It does not play perfectly
# (500 steps, where CartPole cuts an episode off, would be perfect): the recording holds no
# long episodes, so the model knows little about the places to which only a good player
# gets. The remedy is to play, record, and dream again. That loop is notebook 09.
#
# Why does a minute of dreams do here what takes many minutes there, with setbacks? Because
# this page made the task easier three times. The model is frozen, so nothing moves under the
# actor's feet. It has only seen poles that fall early, in the middle of the track, and there
# balancing is all that matters. And it sees degrees, so that the decoder's loss pays for the
# angle. In notebook 09 the model learns while the actor changes, and the cart's place, a small
# number that the loss hardly pays for, decides whether a good episode lasts.
#
# ## What the scale does
#
# Turn the knob below: the same dreams, with rewards that are worth a hundredth to a hundred
# times as much. The actor's loss has two parts, advantage and entropy, and the entropy's
# weight is fixed. Divided by $\max(1, S)$, advantages of large rewards come down to size.
# Small ones are left small on purpose.
#
# Notice that nearly all advantages are positive. An advantage compares a return with what
# the critic expected, and this critic expects too little: it began at 0, the returns have
# grown with every update, and the critic follows them with a delay. So here almost any
# action counts as "better than expected", and what teaches the actor is that some are *more*
# so than others. Once the critic has caught up, the advantages gather around 0.

# %%
with torch.no_grad():
    feature, action, reward, cont = agent._imagine(imagined_states(batch), world_model)
    value = agent.two_hot.mean(agent.critic(feature))
    returns = lambda_return(reward, value, cont)
    gap = (returns - value[:, :-1]).flatten()
    spread = torch.quantile(returns, torch.tensor([0.05, 0.95]))


def draw(exponent):
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
        "scale."
    ),
    exponent=Slider(-2.0, 2.0, 0.25, value=1.0, label="log10 of the reward's size"),
)


# %% [markdown]
# ## Exercises
#
# Exercise 8.1, the actor's loss, stood before the class. Here are two more.

# %% [markdown]
# ### Exercise 8.2: A dream that begins in a pit
#
# *easy, about 10 minutes, one planted bug*
#
# These weights train a healthy-looking agent whose value of dead states creeps upwards. Find
# the bug.

# %% tags=["exercise-8.2"]
def dream_weights(cont):
    """Weights of the first H states of dreams: cont [N, H+1] -> [N, H].

    cont[:, t] is the model's probability that life goes on at state t, discount inside.
    """
    return torch.cumprod(torch.cat([torch.ones_like(cont[:, :1]), cont[:, 1:-1]], 1), 1)


# %%
check("8.2", dream_weights)


# %%
# solution("8.2")

# %% [markdown]
# ### Exercise 8.3: A joystick that stays tame
#
# *easy, about 5 minutes*
#
# From the two halves of `raw`, make mean and deviation of the continuous actor. (The answer
# stands in `Actor` above. Try without it.)

# %% tags=["exercise-8.3"]
def bounded_normal(raw):
    """Mean and deviation of a continuous actor: raw [..., 2 A] -> two [..., A]."""
    mean, deviation = raw.chunk(2, -1)
    raise NotImplementedError("exercise 8.3")


# %%
check("8.3", bounded_normal)

# %%
# solution("8.3")

# %% [markdown]
# ## What breaks
#
# Two small decisions, each with two buttons. In the first a lot is at stake: 0 against 1,000.
# In the second next to nothing: 500 against 500.1. A good actor is decided in the first and
# stays curious in the second, where trying costs nothing. Over all returns of this game the
# scale is $S = 1000$. We train an actor for each decision, in three ways:
#
# * **ours**: advantages divided by $S$;
# * **not normalised**: the advantage as it is. In more than one
#   [published port](https://github.com/pytorch/rl/pull/4125) the scale never reached the
#   actor's loss;
# * **no log-probability**: the sampled button is treated as if it had a gradient, which leaves
#   only the entropy in the loss.

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
    "no log-prob: random everywhere, for ever (above 0.69)",
    min(end["no log-prob", name] for name in STAKES) > 0.69,
)

# %% [markdown]
# Also possible, and some of it seen in the wild:
#
# * **$c_0$ forgotten.** Dreams that begin in a *terminal* row are trained on as if they were
#   life.
#   The value of terminal states creeps up from 0.
#   ([TorchRL had this](https://github.com/pytorch/rl/pull/4128).)
# * **A gradient of the dreamed returns into the model.** The returns then improve because
#   the model flatters itself: it learns to dream of rewards.
# * **Actor too fast.** With the world model's learning rate on an immature model the entropy
#   collapses within a few hundred updates. From notebook 09 on we give it a fifth of that
#   rate.
#
# ## What we built
#
# An actor and a critic that learn without acting. Three things made it work: probabilities
# of sampled actions instead of gradients through them, a critic that is subtracted, and a
# scale that makes one entropy weight fit every game. In 09 everything meets: play, record,
# learn, dream.

# %%
what_we_built("08_actor_critic")
