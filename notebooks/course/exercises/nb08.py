"""Exercises of notebook 08: actor and critic."""

import types

import gymnasium as gym
import numpy as np
import torch

from course.exercises import Edit, exercise, in_stages, require
from dreamer_lite.actor_critic import ActorCritic
from dreamer_lite.config import Config
from dreamer_lite.lambda_returns import lambda_return


def my_losses(agent, feature, action, reward, cont):
    """What actor and critic learn from B dreams of H steps: equations 4 to 7.

    Args:
        agent: an `ActorCritic`, of which you may use everything but `loss`.
        feature [B, H+1, F] of the states s_0..s_H; action [B, H, A];
        reward, cont [B, H+1], predicted for the states; nothing here has a gradient.
    Returns: the actor's loss and the critic's loss, two tensors without dimensions.
    """
    # solution
    seen, logits = feature[:, :-1], agent.critic(feature)
    with torch.no_grad():
        value = agent.two_hot.mean(logits)
        returns = lambda_return(reward, value, cont, agent.config.lam)
        agent.normalizer.update(returns)
        advantage = (returns - value[:, :-1]) / agent.normalizer.scale
        weight = torch.cumprod(cont, 1)[:, :-1]
        slow = agent.two_hot.mean(agent.slow_critic(seen))
    log_prob, entropy = agent.actor.evaluate(seen, action)
    gain = log_prob * advantage + agent.config.entropy * entropy
    logits = logits[:, :-1]
    error = agent.two_hot.loss(logits, returns) + agent.two_hot.loss(logits, slow)
    return -(weight * gain).mean(), (weight * error).mean()
    # end of solution


def small_agent(seed=0, learnt=True):
    """An actor-critic of 6 features and 3 buttons, whose critics have opinions."""
    torch.manual_seed(seed)
    config = Config(units=8, entropy=0.1, lam=0.9)
    agent = ActorCritic(6, gym.spaces.Discrete(3), config)
    if learnt:
        for critic in (agent.critic, agent.slow_critic):
            torch.nn.init.normal_(critic[-1].weight, std=0.3)
            bins = torch.arange(255.0) - 127  # values of a few units, not of millions
            critic[-1].bias.data.copy_(-0.01 * bins.square())
        torch.nn.init.normal_(agent.actor.mlp[-1].weight)
        agent.normalizer.range.copy_(torch.tensor([-1.0, 4.0]))
    return agent


def dreams(batch=4, length=5):
    """Random dreams: feature, action, reward, cont."""
    feature, reward = torch.randn(batch, length + 1, 6), torch.randn(batch, length + 1)
    action = torch.eye(3)[torch.randint(3, (batch, length))]
    cont = 0.5 + 0.5 * torch.rand(batch, length + 1)
    cont[0, 1] = 0.0
    return feature, action, reward, cont


def check_form(my_losses):
    """Two numbers with gradients, for batches of any size."""
    for batch, length in ((1, 1), (4, 5)):
        found = my_losses(small_agent(), *dreams(batch, length))
        require(
            isinstance(found, (tuple, list)) and len(found) == 2,
            "return two losses: the actor's and the critic's",
        )
        for name, loss in zip(("actor", "critic"), found):
            require(
                torch.is_tensor(loss) and loss.dim() == 0,
                f"the {name}'s loss is one number: weigh every step, take the mean",
            )
            require(loss.requires_grad, f"the {name}'s loss has no gradient")


def check_first_losses(my_losses):
    """A new agent: value 0, a critic without opinion, nearly equal buttons."""
    agent = small_agent(learnt=False)
    feature, action, reward, _ = dreams()
    one = torch.ones(4, 6)
    actor, critic = my_losses(agent, feature, action, 0 * reward, one)
    right = -0.1 * np.log(3)
    require(
        abs(actor.item() - right) < 1e-3,
        "a new agent that is never rewarded has only the entropy bonus: its actor's "
        f"loss is -0.1 * ln 3 = {right:.4f}, yours is {actor.item():.4f}",
    )
    right = 2 * np.log(255)
    require(
        abs(critic.item() - right) < 1e-3,
        "a new critic pays ln 255 twice, for the return and for its slow copy: "
        f"{right:.3f}, yours is {critic.item():.3f}",
    )
    half = my_losses(agent, feature, action, 0 * reward, one / 2)[1].item()
    expected = right * np.mean(0.5 ** np.arange(1, 6))
    require(
        abs(half - expected) < 1e-3,
        "with cont = 0.5 everywhere the weights are 0.5, 0.25, ...: the state in which "
        f"the dream began counts, too; the loss is {expected:.3f}, not {half:.3f}",
    )


def check_normaliser(my_losses):
    """The normaliser takes in the returns once, and divides the advantage."""
    agent, given = small_agent(), dreams()
    before = agent.normalizer.range.clone()
    my_losses(agent, *given)
    with torch.no_grad():
        value = agent.two_hot.mean(agent.critic(given[0]))
    returns = lambda_return(given[2], value, given[3], agent.config.lam)
    after = torch.quantile(returns.flatten(), torch.tensor([0.05, 0.95]))
    require(
        torch.allclose(agent.normalizer.range, before.lerp(after, 0.01), atol=1e-5),
        "the normaliser must be updated once, with the lambda-returns of this batch",
    )


def check_ours(my_losses):
    """Values and gradients of our version, which agrees with the authors' code."""
    for seed in range(3):
        results = []
        for loss in (ours, my_losses):
            agent = small_agent(seed)
            found = loss(agent, *dreams())
            names = [name for name, p in agent.named_parameters() if p.requires_grad]
            weights = [p for p in agent.parameters() if p.requires_grad]
            grads = torch.autograd.grad(sum(found), weights, allow_unused=True)
            results.append(([x.item() for x in found], dict(zip(names, grads))))
        (right, true_grads), (mine, grads) = results
        for name, a, b in zip(("actor", "critic"), right, mine):
            require(
                abs(a - b) < 1e-4,
                f"the {name}'s loss of some dreams is {a:.4f}, yours is {b:.4f}",
            )
        for name, a in true_grads.items():
            b = grads[name]
            require(b is not None, f"no gradient reaches {name}")
            gap = (a - b).abs().max().item()
            require(
                gap < 1e-4,
                f"the gradient of {name} differs by up to {gap:.2g}: is the scale read "
                "after the update, and are returns and weights without gradient?",
            )


def ours(agent, feature, action, reward, cont):
    """The two losses of `ActorCritic.loss`, made to look at these dreams."""
    agent._imagine = lambda states, world_model: (feature, action, reward, cont)
    critic = agent._critic_loss
    kept = {}

    def watch(*given):
        kept["critic"] = critic(*given)
        return kept["critic"]

    agent._critic_loss = watch
    total, _ = agent.loss(None, types.SimpleNamespace())
    loss = (torch.cumprod(cont, 1)[:, :-1] * kept["critic"]).mean()
    return total - loss, loss


def draw_agents(rng):
    """Random agents and dreams of random size."""
    batch, length = (int(n) for n in rng.integers(1, 7, 2))
    agent = small_agent(int(rng.integers(100)))
    feature, action, reward, cont = dreams(batch, length)
    return ((agent, feature, action, reward * 10.0 ** int(rng.integers(3)), cont),)


exercise(
    "8.0",
    "Write the losses of actor and critic",
    "hard",
    60,
    [my_losses],
    draw_agents,
    hints=[
        "In this order: values of all states, lambda-returns, normaliser, advantage, "
        "weights; all of that without gradients. Then the two losses.",
        "The critic is asked about all H + 1 states, but only the first H have a "
        "return: cut values, logits and weights with [:, :-1]. The weights are a "
        "cumulative product of cont that includes cont of s_0.",
        "actor: minus the mean of weight * (log_prob * advantage + the entropy's "
        "weight * entropy). critic: the mean of weight * (two_hot.loss(logits, "
        "returns) + two_hot.loss(logits, what the slow critic says)).",
    ],
)(
    in_stages(
        form=check_form,
        first_losses=check_first_losses,
        the_normaliser=check_normaliser,
        our_version=check_ours,
    )
)


def bounded_normal(raw):
    """Mean and deviation of a continuous actor: raw [..., 2 A] -> two [..., A]."""
    mean, deviation = raw.chunk(2, -1)
    return torch.tanh(mean), 0.9 * torch.sigmoid(deviation + 2) + 0.1  # solution


def draw_raw(rng):
    """What an actor's last layer gives, of random size."""
    raw = 3 * torch.randn(int(rng.integers(1, 5)), 2 * int(rng.integers(1, 5)))
    return ((raw.requires_grad_(),),)


@exercise("8.1", "A joystick that stays tame", "easy", 5, [bounded_normal], draw_raw)
def check_bounded_normal(bounded_normal):
    """Check start and bounds of both numbers."""
    mean, deviation = bounded_normal(torch.zeros(3, 4))
    require(
        mean.shape == deviation.shape == (3, 2), "two tensors [..., A]: half of raw"
    )
    require(
        not torch.allclose(mean, torch.tensor(0.8927), atol=1e-3),
        "the first result is 0.893 for zeros, which is the deviation: mean first",
    )
    extreme = torch.tensor([[50.0, -50.0, 50.0, -50.0]])
    mean_far, deviation_far = bounded_normal(extreme)
    require(mean_far.abs().max() <= 1, "the mean stays in [-1, 1]: tanh")
    require(
        mean_far[0, 1] == -1,
        "the mean reaches from -1 to 1, not from 0: tanh, no sigmoid",
    )
    require(
        deviation_far.max() < 1.01,
        "the deviation is at most 1: 0.9 times a sigmoid + 0.1",
    )
    require(
        deviation_far.min() > 0.09,
        "the deviation is at least 0.1, or the actor stops exploring for ever",
    )
    require(
        abs(deviation[0, 0] - 0.893) < 1e-3,
        "at first the deviation is 0.893: shift the sigmoid by 2",
    )
    require(
        abs(bounded_normal(torch.tensor([0.5, 0.0]))[0] - 0.462) < 1e-3,
        "the mean is tanh(m): tanh(0.5) = 0.462",
    )
    require(
        abs(bounded_normal(torch.tensor([0.0, 1.0]))[1] - 0.957) < 1e-3,
        "the deviation comes from the second half: 0.9 sigmoid(1 + 2) + 0.1 = 0.957",
    )


def actor_loss(log_prob, entropy, returns, value, weight, scale, eta):
    """The actor's loss, one number; log_prob, entropy [N, H] have gradients.

    returns, value, weight: [N, H]. scale: S of the return normaliser, a float that may
    still be below 1. eta: weight of the entropy. No gradient may reach returns and
    value.
    """
    # solution
    advantage = ((returns - value) / max(1.0, scale)).detach()
    gain = log_prob * advantage + eta * entropy
    return -(weight * gain).mean()
    # end of solution


def draw_dreams(rng):
    """Dreams of random size; the first four inputs have gradients, as in training."""
    shape = tuple(rng.integers(1, 6, 2))
    size = 10.0 ** rng.integers(-1, 3)
    log_prob, entropy = -torch.rand(2, *shape) * 5
    returns, value = size * torch.randn(2, *shape)
    inputs = [log_prob, -entropy, returns, value]
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    scale, eta = float(10.0 ** rng.uniform(-2, 2)), float(rng.uniform(0, 1))
    return ((*inputs, torch.rand(shape), scale, eta),)


@exercise("8.2", "The actor's loss", "medium", 15, [actor_loss], draw_dreams)
def check_actor_loss(actor_loss):
    """Check each factor with numbers that are easy to work out in the head."""
    one = torch.ones(1, 1)
    log_prob, value = -one.clone(), 2 * one
    value.requires_grad_(True)
    log_prob.requires_grad_(True)
    loss = actor_loss(log_prob, 0 * one, 5 * one, value, one, 1.0, 0.1)
    require(loss.shape == (), "the loss is one number: take the mean")
    require(
        loss.requires_grad, "the log-probability trains the actor: do not detach it"
    )
    require(
        loss.item() != -3.0,
        "a good action must become likelier: minimise minus log-probability times "
        "advantage",
    )
    require(
        abs(loss.item() - 3.0) < 1e-6,
        "minus -1 times (5 - 2) is 3: the log-probability itself times the advantage, "
        "which is the return minus the value",
    )
    require(
        torch.autograd.grad(loss, value, allow_unused=True)[0] is None,
        "the advantage is a plain number here: detach it, or the critic learns from "
        "the actor's loss",
    )
    zero = torch.zeros(1, 1)
    curious = actor_loss(zero, one, zero, zero, one, 1.0, 0.1)
    require(
        abs(curious.item() + 0.1) < 1e-6,
        "more entropy must make the loss smaller: add eta times entropy to the gain",
    )
    check_scale(actor_loss, one, zero)
    check_entropy_and_weight(actor_loss, one, zero)
    check_two_steps(actor_loss)


def check_scale(actor_loss, one, zero):
    """Check what is divided by the scale, and when."""
    small = actor_loss(-one, zero, one, zero, one, 0.01, 0.1).item()
    require(
        abs(small - 1) < 1e-6, "small returns stay small: never divide by less than 1"
    )
    large = actor_loss(-one, zero, 10 * one, zero, one, 10.0, 0.1).item()
    require(abs(large - 1) < 1e-6, "divide the advantage by the scale")
    both = actor_loss(-one, zero, 10 * one, 4 * one, one, 2.0, 0.1).item()
    require(
        abs(both - 3) < 1e-6,
        "divide the whole advantage: the value too, not the return alone",
    )


def check_entropy_and_weight(actor_loss, one, zero):
    """Check that the scale leaves the entropy alone, and what the weight does."""
    bonus = one.clone().requires_grad_(True)
    busy = actor_loss(zero, bonus, zero, zero, one, 10.0, 0.1)
    require(
        abs(busy.item() + 0.1) < 1e-6,
        "the scale divides the advantage alone: the entropy's weight is fixed",
    )
    require(busy.requires_grad, "the entropy trains the actor too: do not detach it")
    dead = actor_loss(-one, one, one, zero, zero, 1.0, 0.1).item()
    require(
        dead == dead, "take the plain mean: do not divide by the sum of the weights"
    )
    require(dead == 0, "what happens after the end counts for nothing: use the weight")


def check_two_steps(actor_loss):
    """Check the mean over steps that differ in sign and weight."""
    log_prob, returns = -torch.ones(1, 2), torch.tensor([[5.0, 1.0]])
    log_prob.requires_grad_(True)
    returns.requires_grad_(True)
    rest = 2 * torch.ones(1, 2), torch.tensor([[1.0, 0.5]]), 1.0, 0.1
    two = actor_loss(log_prob, torch.zeros(1, 2), returns, *rest)
    found = round(two.item(), 4)
    require(found != 2.5, "a loss must not grow with the number of steps: mean, no sum")
    require(found != 1.75, "an advantage keeps its sign: -1 makes an action rarer")
    require(found != 1.0, "a weight of 0.5 counts half: multiply by the weight itself")
    require(found == 1.25, "each step has its own weight: multiply before the mean")
    require(
        torch.autograd.grad(two, returns, allow_unused=True)[0] is None,
        "the returns are plain numbers here too: detach the whole advantage",
    )
    many = torch.ones(3, 2)
    half = actor_loss(-many, 0 * many, 2 * many, many, many / 2, 1.0, 0.1)
    require(
        half != 0.375, "the weights are products already: do not multiply them up again"
    )
    three = actor_loss(-many, 0 * many, 2 * many, many, many, 1.0, 0.1)
    require(three == 1, "the mean runs over the dreams too, not only over the steps")


def dream_weights(cont):
    """Weights of the first H states of dreams: cont [N, H+1] -> [N, H].

    cont[:, t] is the model's probability that life goes on at state t, discount inside.
    """
    return torch.cumprod(cont, 1)[:, :-1]


def draw_continues(rng):
    """Continue probabilities of dreams of random size, some of which end."""
    shape = tuple(rng.integers(2, 7, 2))
    return ((torch.rand(shape) * torch.tensor(rng.random(shape) < 0.8).float(),),)


@exercise(
    "8.3",
    "Weights that look right",
    "easy",
    10,
    [dream_weights],
    draw_continues,
    bug=Edit(
        "torch.cumprod(cont, 1)[:, :-1]",
        "torch.cumprod(torch.cat([torch.ones_like(cont[:, :1]), cont[:, 1:-1]], 1), 1)",
    ),
)
def check_dream_weights(dream_weights):
    """Check dreams that end at different places, one of them before it begins."""
    out = dream_weights(torch.tensor([[1.0, 1, 0, 1, 1], [0, 1, 1, 1, 1]]))
    require(
        out.shape == (2, 4), "one weight for each state that took an action: [N, H]"
    )
    require(
        out[1].tolist() == [0, 0, 0, 0],
        "the second dream begins in a dead state (c_0 = 0): nothing of it counts",
    )
    require(
        out[0, 3] == 0,
        "after an end nothing counts, no matter what the model says later",
    )
    require(
        out[0].tolist() == [1, 1, 0, 0],
        f"c = 1 1 0 1 1 gives the weights 1 1 0 0, yours are {out[0].tolist()}",
    )
    half = dream_weights(torch.full((1, 4), 0.5))[0].tolist()
    require(half == [0.5, 0.25, 0.125], "c = 0.5 everywhere gives 0.5, 0.25, 0.125")
