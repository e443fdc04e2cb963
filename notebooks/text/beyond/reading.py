# %% [markdown]
# # Beyond: an agent that reads
#
# **The question.** All our agents so far were told what to do by their rewards alone. Can one be told
# in words, and does it then really read them?
#
# **At the end** you know how a sentence gets into the model and out of it again, how to prove that an
# agent reads, and what happens in its dream when the sentence changes.
#
# **You need** notebooks 04 and 09. The rooms come from the package MiniGrid. If it is missing:
# `pip install minigrid`. The runs are stored, so this page only plays and looks.
#
# *Measured: 0.2 minutes on two CPU cores, 0.4 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
import json

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from minigrid.core.constants import COLOR_NAMES

from course import COLORS, claim, data_path, show, use_style
from course.reading import facing, make_doors, words
from dreamer_lite.dreamer import Dreamer, evaluate

use_style()
torch.manual_seed(0)
folder = data_path("reading")

# %% [markdown]
# ## Four doors and one sentence
#
# The world is *GoToDoor* from MiniGrid, a library of small rooms. Each room has four doors of
# different colours, and a mission. The agent, the red arrow, turns left or right, or walks ahead.
# Walking against a door is its *answer*, and it ends the episode: with a reward of 1 at the right
# door, and with 0 at another. After 30 steps without an answer the episode ends with 0 as well.

# %% tags=["hide-input"]
env = make_doors(render_mode="rgb_array")
fig, axes = plt.subplots(1, 4, figsize=(9, 2.9))
missions = []
for seed, ax in enumerate(axes):
    obs, _ = env.reset(seed=seed)
    missions.append(obs["mission"])
    ax.imshow(env.unwrapped.get_frame(highlight=False))
    ax.set_title(f"go to the\n{obs['mission']}")
    ax.set(xticks=[], yticks=[])
show(
    fig,
    alt="Four small rooms, each with four doors of different colours. "
    f"Above them the missions: {', '.join(missions)}.",
)

# %%
obs, _ = env.reset(seed=0)
for key, space in env.observation_space.items():
    print(f"{key:10} {type(space).__name__:9} {space.shape}")
print("mission:", repr(obs["mission"]))

# %% [markdown]
# The agent sees nine cells (`view`): the row in which it is and the two rows ahead. For each cell it
# gets two whole numbers. One says what is there, one of 11 things. The other says its colour, one of 6.
# These are names, not amounts, so their space is a *MultiDiscrete*, and the model predicts each of them
# as a class. `direction` says which of four ways the agent looks. `mission` is the sentence. Its
# beginning "go to the" is the same in every room, so we drop it: every character costs computing time.
#
# We changed MiniGrid's rules in one place: how an agent gives its answer. The section *What did not
# work* says why.

# %% [markdown] tags=["predict"]
# ## What is possible without reading?
#
# **Predict:** somebody sees the whole room but not the mission. In how many of 100 rooms
# can such a player find the right door, at best?
#
# <details><summary>Answer</summary>
#
# In 25 on average. MiniGrid first builds the room and then draws one of its four doors, each with the same
# probability. So nothing in the room tells which one it is, and only one answer is allowed.
#
# </details>

# %%
WALLS = [(2, 0), (4, 2), (2, 4), (0, 2)]  # top, right, bottom, left


def door_colours(env):
    """The colours of a room's doors, clockwise from the top."""
    return [env.unwrapped.grid.get(*wall).color for wall in WALLS]


rooms, place, colour = 1_000, np.zeros(4), dict.fromkeys(COLOR_NAMES, 0)
for seed in range(rooms):
    env.reset(seed=seed)
    room = env.unwrapped
    place[WALLS.index(tuple(room.target_pos))] += 1
    for name in set(door_colours(room)):
        colour[name] += (name == room.target_color) / (rooms * 4 / 6)

bound = 0.25
claim(
    "each wall has the right door in 21 to 29 % of the rooms",
    (abs(place / rooms - bound) < 0.04).all(),
)
claim(
    "a door of each colour is the right one in 19 to 31 % of its rooms",
    all(abs(share - bound) < 0.06 for share in colour.values()),
)

# %% [markdown]
# ## How a sentence gets in, and out again
#
# A text is a row of bytes, one for each character, and the rest of the row is zeros. The encoder (an
# aside of notebook 04) first gives each byte a vector. Then these vectors look at one another in a
# small transformer. At last it takes their mean, so that a text of any length becomes 128 numbers.
# They are put beside those of the view.
#
# On the way back, the decoder predicts each character. It has 256 logits for it, one for each possible
# byte. So the model is trained to keep the sentence, just as it is trained to keep the view.
#
# Here is an agent that was trained with the text. We show it one room with six different missions.

# %%
reader = Dreamer.load(folder / "text.safetensors", device="cpu", precision="fp32")

NAMES = [f"{name} door" for name in COLOR_NAMES]
obs, _ = env.reset(seed=0)
batch = {key: np.stack([obs[key]] * 6) for key in ("view", "direction")}
state = reader.observe(batch | {"mission": np.array(NAMES)})
decoded = reader.world_model.decoder(state.feature)["mission"]
print("logits of the mission:", list(decoded.shape))
print("read back:", words(decoded))
claim("the model tells all six missions apart", words(decoded) == NAMES)

# %% [markdown]
# ## Two agents, three seeds each
#
# Both kinds of agent have the same size, the same world and the same 48,000 steps. One gets the
# mission, the other an empty text. One command trained all six, one after the other. It skips
# every run that is stored already, so give it another folder to train them again:
#
#     python tools/reading.py --data runs/doors
#
# Afterwards each agent plays 200 episodes with random numbers that no training used. That does not
# make the rooms new: there are only 360 ways to colour four doors, and an agent meets thousands of
# episodes. So the evaluation says whether an agent reads. It does not say how well it would do in
# rooms that were never seen.
#
# In the figure, each line is one run, and the dotted line is what is possible without reading.

# %% tags=["hide-input"]
runs = [
    json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*_seed*.json"))
]
fig, ax = plt.subplots(figsize=(7, 3))
looks = {
    "text": dict(color=COLORS["ours"]),
    "blank": dict(color=COLORS["naive"], linestyle="--"),
}
for about in runs:
    step, right = np.array(about["curve"]).T
    label = f"mission: {about['kind']}" if about["seed"] == 0 else None
    ax.plot(step, 100 * right, label=label, **looks[about["kind"]])
label = "possible without reading"
ax.axhline(100 * bound, color=COLORS["ink"], linestyle=":", linewidth=1, label=label)
ax.set(xlabel="agent step", ylabel="right doors [% of 100 episodes]", ylim=(0, 103))
ax.legend()
show(
    fig,
    alt="Learning curves of six runs. Those with the text stay near 25 percent for "
    "20,000 steps and then climb far above it; those without it stay there.",
)

# %%
print("                right doors in                  left to know [nats]")
print("mission  seed     200 episodes  steps  minutes  view  direction  mission")
for about in runs:
    nats = about["nats"]
    print(
        f"{about['kind']:8} {about['seed']:4}  {about['right']:15.0f}  "
        f"{about['steps']:5.1f}  {about['minutes']:7.1f}  {nats['view']:4.2f}  "
        f"{nats['direction']:9.2f}  {nats['mission']:7.2f}"
    )

share = {
    kind: [a["right"] / a["episodes"] for a in runs if a["kind"] == kind]
    for kind in ("text", "blank")
}
claim("each run with the text is above 55 %", min(share["text"]) > 0.55)
claim("no run without it is above 35 %", max(share["blank"]) < 0.35)


# %% [markdown]
# Each row of the table is one run. Its first number says in how many of 200 episodes the agent went to
# the right door. Guessing gives about 50. The three runs with the text are far above that, and the three
# without it are close to it.
#
# The last three columns are losses of the decoder at the end of training. They say how much the model
# still fails to read back from its state, in nats. At 0 it would know the view, the direction or the
# mission exactly. We come back to these columns at the end of the page.

# %% [markdown] tags=["predict"]
# ## Your turn: a liar
#
# The agent must use its mission, or it could not be far above 25 %. A lie is a sharper test: does it go
# where the *sentence* sends it? Below is a wrapper that changes nothing yet. Make it name **another door
# of the same room**: `doors` holds the four names, such as "red door", and the true one is in
# `obs["mission"]`. Our version is in the next cell.
#
# **Predict:** how often will the agent that reads find the right door when it is lied to:
# about as often as before, in 25 %, or almost never?
#
# <details><summary>Answer</summary>
#
# Almost never. An agent that believes the sentence goes to the named door, and that is wrong each time.
# 25 % would mean that it does not listen.
#
# </details>

# %%
class Liar(gym.ObservationWrapper):
    """Names a wrong door of the room."""

    def observation(self, obs):
        doors = [f"{name} door" for name in door_colours(self)]
        # Your change goes here.
        return obs


# %% tags=["hide-input"]
class OurLiar(gym.ObservationWrapper):
    """Names the door after the right one, clockwise."""

    def observation(self, obs):
        doors = [f"{name} door" for name in door_colours(self)]
        wrong = doors[(doors.index(obs["mission"]) + 1) % 4]
        return obs | {"mission": wrong}


# %%
def success(agent, wrap=lambda env: env, blank=False, episodes=80):
    """Share of right doors in episodes of random numbers that no training used."""

    def make_env():
        return wrap(make_doors(blank))

    played = evaluate(agent, make_env, episodes, envs=8, seed=7, track=["right"])
    return np.mean([episode["right"] for episode in played])


told, lied = success(reader), success(reader, OurLiar)
untold = success(reader, blank=True)
yours = success(reader, Liar)
if yours > 0.5:
    print("Liar tells the truth so far. Make it lie.")
else:
    claim("your liar: less than 15 %", yours < 0.15)
claim("told the truth: more than 55 %", told > 0.55)
claim("told a lie: less than 15 %", lied < 0.15)
claim("told nothing: between them", lied < untold < told)  # it never met that


# %% [markdown]
# ## What does it expect of a door?
#
# The actor learnt in dreams only. So the world model itself must know which door pays. We ask it: we
# put it in front of a door, give it one of six missions, and let it *dream* one step ahead
# against the door. The reward head says what it expects.

# %%
@torch.no_grad()
def ahead(agent, state, steps=1):
    """Dream of walking `steps` cells: the state at the end."""
    walk = torch.zeros(len(state.h), steps, 3)
    walk[..., 2] = 1.0  # forward
    states, _ = agent.world_model.rssm.imagine(state, walk, steps)
    return states.map(lambda x: x[:, -1])


@torch.no_grad()
def expectations(agent, blank=False, rooms=40):
    """Reward and continue head [door, mission] after a step against a door."""
    cases = [(seed, mission) for seed in range(rooms) for mission in NAMES]
    seen = [facing(seed, mission) for seed, mission in cases]
    obs = {key: np.stack([o[key] for o, _ in seen]) for key in ("view", "direction")}
    told = np.array(["" if blank else mission for _, mission in cases])
    after = ahead(agent, agent.observe(obs | {"mission": told})).feature
    model = agent.world_model
    heads = model.predict_reward(after), model.predict_continue(after)
    table, count = np.zeros((2, 6, 6)), np.zeros((6, 6))
    for (_, mission), (_, door), *values in zip(cases, seen, *heads):
        i = COLOR_NAMES.index(door), NAMES.index(mission)
        table[:, *i] += [float(v) for v in values]
        count[i] += 1
    return table / count


reward, goes_on = expectations(reader)
silent, _ = expectations(reader, blank=True)

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True)
for ax, table, title in zip(
    axes, (reward, silent), ("told the mission", "told nothing")
):
    mesh = ax.imshow(table, vmin=0, vmax=1, cmap="viridis")
    ax.set_xticks(range(6), COLOR_NAMES, rotation=45)
    ax.set_yticks(range(6), COLOR_NAMES)
    ax.set(title=title, xlabel="mission", ylabel="door ahead")
    ax.grid(visible=False)
fig.colorbar(mesh, ax=axes, label="expected reward")
show(
    fig,
    alt="Two tables of six doors by six missions. With the text the diagonal is bright "
    "where door and mission agree. Without a text it is no brighter than the rest.",
)

# %%
same = np.eye(6, dtype=bool)
claim(
    "right door: 0.4 more reward expected than at a wrong one",
    reward[same].mean() > reward[~same].mean() + 0.4,
)
claim(
    "told nothing: less than 0.15 between them",
    abs(silent[same].mean() - silent[~same].mean()) < 0.15,
)
claim("a door ends it: continue is below 0.1 on average", goes_on.mean() < 0.1)


# %% [markdown]
# Look at the left table first. Each row is a door, and each column is a mission. In each row the right
# mission, on the diagonal, promises most. It is not clean: at the purple door a wrong mission promises
# almost as much.
#
# Whether the episode ends is a different question, and the model answers it separately. It has learnt
# that each door ends the episode, the right one and the wrong ones.
#
# Now the right table, where the agent is told nothing. All six columns have the same input, so each row
# should have a single colour. The differences that you see within a row come from the latent, which is
# drawn anew each time. An empty text never occurred in this agent's training. It seems to take it for
# "purple door".

# %% [markdown] tags=["predict"]
# ## Another mission in the middle of a dream
#
# In no real episode does the mission change. Here we change it, in four steps:
#
# 1. The agent is in the middle of a room, looks at a door and is given a first mission.
# 2. In its dream it takes one step and is in front of the door. We decode the view that it dreamed.
# 3. We repeat this step from the same start. But now, at its end, we let the agent observe something: the
#    view that it dreamed, together with a second mission. This is either the old sentence or another one.
# 4. From there it dreams one more step, against the door.
#
# The old sentence is in the memory *h*, and the new one has just been seen. **Predict:** which of the two
# does the model name as its mission? And which one decides what reward it expects?
#
# <details><summary>Answer</summary>
#
# It names the new one more often than the old one. The reward that it expects lies between the cases
# without a change: less than with the right mission throughout, more than with a wrong one throughout.
# And it is about the same whether the right mission comes first or second.
#
# </details>

# %%
@torch.no_grad()
def exchanged(agent, before, after, rooms=240):
    """Dream to a door, and show it there with a mission.

    `before` and `after` turn the number of the door ahead into that of a mission.
    Returns the share of dreams that name each of the two, and the reward expected next.
    """
    seen = [facing(seed, distance=1) for seed in range(rooms)]
    obs = {key: np.stack([o[key] for o, _ in seen]) for key in ("view", "direction")}
    doors = [COLOR_NAMES.index(door) for _, door in seen]
    old, new = (np.array([NAMES[turn(i)] for i in doors]) for turn in (before, after))
    start = agent.observe(obs | {"mission": old})
    dreamed = agent.world_model.decoder(ahead(agent, start).feature)["view"]
    cells = dreamed.unflatten(-1, (3, 3, 17))  # 11 things, 6 colours
    view = torch.stack([cells[..., :11].argmax(-1), cells[..., 11:].argmax(-1)], -1)
    forward, goes_on = np.full(rooms, 2), np.zeros(rooms, bool)
    shown = obs | {"view": view.numpy(), "mission": new}
    there = agent.observe(shown, forward, start, goes_on)
    said = np.array(words(agent.world_model.decoder(there.feature)["mission"]))
    reward = agent.world_model.predict_reward(ahead(agent, there).feature)
    return (said == old).mean(), (said == new).mean(), float(reward.mean())


def right(door):
    return door


def wrong(door):
    return (door + 1) % 6


cases = {
    "right, shown again": (right, right),
    "right, then wrong": (right, wrong),
    "wrong, then right": (wrong, right),
    "wrong, shown again": (wrong, wrong),
}
found = {name: exchanged(reader, *case) for name, case in cases.items()}

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
old, new, expected = np.array(list(found.values())).T
place = np.arange(len(cases))[::-1]
axes[0].barh(place + 0.2, old, 0.4, color=COLORS["naive"], label="the first mission")
axes[0].barh(place - 0.2, new, 0.4, color=COLORS["dreamed"], label="the second one")
axes[1].barh(place, expected, color=COLORS["return"])
axes[0].set(xlim=(0, 1), xlabel="share of dreams that say", yticks=place)
axes[0].set_yticklabels(cases)
axes[1].set(xlim=(0, 1), xlabel="expected reward")
fig.legend(loc="outside upper left", ncols=2)
show(
    fig,
    alt="Two bar charts for four cases: the mission fits the door or not, and it is "
    "shown again or changed. Left: how many dreams name each. Right: the reward.",
)

# %%
again, changed = [0, 3], [1, 2]
claim("shown again: nine of ten dreams say so", new[again].min() > 0.9)
claim(
    "changed: the new mission is named twice as often as the old one",
    (new[changed] > 2 * old[changed]).all(),
)
claim(
    "changed: less reward expected than where the right one is shown again",
    expected[0] > expected[changed].max() + 0.05,
)
claim(
    "in both orders about the same, within 0.15",
    abs(np.diff(expected[changed])).item() < 0.15,
)

# %% [markdown]
# The left chart says how often the model names each of the two missions. Where a mission was shown again
# both are the same, so the two bars are equally long. The right chart says what reward it expects next.
#
# Even with the right mission all the time it is less than half of a reward, where the left table above
# had 0.8 or more for five of the six doors. There the model looked at a real view of the door; here it is
# shown one that it has dreamed. That may be why, but we have not tested it. So compare these four bars
# with one another.
#
# After a change the model follows more what it saw last. But the two bars do not add up to 1: many dreams
# name a third door, which is in neither mission. The expected reward lies between that of the right and
# that of the wrong mission.
#
# One reading is that *h* still holds the old sentence and *z* the new one, and that the heads look
# at both. We have not tested that. Nothing in its training could tell the model which of them counts, because
# they never disagreed. If missions change in your world, let them change in training.
#
# ## What did not work
#
# * **MiniGrid's own answer.** There the agent says "done" where it thinks it is at the right door, anywhere
#   in the room. In a run of 10 minutes it learnt that this hardly ever pays, and stopped saying it: after
#   13,000 steps 2 of 100 episodes ended at the right door. Without answers there was nothing to learn from.
# * **Names as numbers.** At first the view was a vector of one-hots, and a vector is judged by its squared
#   error. That error is small here: a wrong colour cost less than the nats that are needed to store the
#   right one (notebook 09). So we gave vectors eight times the weight. Then the model learnt the view, but
#   the sentence only after 800 updates. We stopped after 1,650 updates, when 49 of 200 answers were right,
#   which is chance. The stored runs were hardly better at that point. So this does not show that storing
#   names as choices made the difference in the end. It only made the extra weight unnecessary.
# * **The direction waits.** Look at the column "direction" of the table above. With the text it ends where
#   it began, at 1.39 nats. That is ln 4, so the model only guesses among the four directions. Without the
#   text the direction is being learnt, and a model that learns nothing else has it after 200 updates. So
#   one key can crowd out another one for thousands of updates. Here it does no harm: an agent that sees its
#   doors does not need a compass.
# * **Patience.** For some 20,000 steps, almost half of its training, an agent looks like one that cannot
#   read. First the model must learn to remember the view and the sentence. Only then can the reward head
#   compare them, and only then can the actor learn from dreams. At the end the curves still rise.
