# %% [markdown]
# # Beyond: a Game Boy
#
# **The question.** Mario gave us one picture at a time. What if a world has a screen, a map, a
# written text and a handful of numbers, all at once?
#
# **At the end** you have an environment for Pokemon Red, and you have seen one model learn all four
# kinds of observation together.
#
# **You need** notebooks 04 and 09. A copy of the game is not needed: we use a tiny cartridge of our
# own that behaves like it where it matters here. The console comes from the package PyBoy. If it is
# missing: `pip install pyboy`.
#
# *Measured: 0.7 minutes on two CPU cores, 0.7 GB memory, no GPU.*

# %% tags=["setup"]
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path

where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course

# %%
import functools
import inspect
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from course import claim, game_boy, show, use_style
from dreamer_lite.dreamer import Collector, Config, Dreamer
from dreamer_lite.envs import make_vector
from dreamer_lite.replay import Replay

use_style()
torch.manual_seed(0)
folder = tempfile.TemporaryDirectory()
rom = game_boy.free_rom(Path(folder.name) / "free.gb")

# %% [markdown]
# ## Four things to look at
#
# A Game Boy's screen is 160 pixels wide and 144 high. We shrink it to half of that size
# and make it grey. Every detail that matters is still there.
#
# Let us switch the console on, walk to the right for a while, and then down. Our cartridge shows a
# striped pattern that the arrows move; 16 pixels are one place, and every second place says
# "HELLO 1". One step is 24 frames of the console, and the button is held for the first eight. A new
# place pays 0.02. In the real game an event of the story pays 1, and a badge 5.

# %%
env = game_boy.make(rom)
obs, _ = env.reset(seed=0)
env.unwrapped.console.tick(300, True)  # the console's own greeting takes five seconds
for button in ["right"] * 6 + ["down"] * 4:
    obs, reward, *_ = env.step(game_boy.BUTTONS.index(button))

for key, space in env.observation_space.items():
    print(f"{key:8} {type(space).__name__:5} {space.shape}")
print("text:", repr(obs["text"]))
print("reward:", round(reward, 2))

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 4, figsize=(9, 2.4), width_ratios=[1, 1, 0.8, 1.1])
axes[0].imshow(obs["screen"][..., 0], cmap="gray")
axes[1].imshow(obs["visited"][..., 0], cmap="gray")
axes[2].text(0.5, 0.5, obs["text"] or "(nothing)", ha="center", va="center")
axes[3].bar(range(18), obs["state"])
axes[3].set(ylim=(0, 1), xlabel="number", ylabel="value [0..1]")
for ax, title in zip(axes, ("screen", "visited", "text", "state")):
    ax.set_title(title)
    if ax is not axes[3]:
        ax.set(xticks=[], yticks=[])
show(
    fig,
    alt="One observation: a striped screen, a map with a white path to the right and "
    f"down, the text {obs['text']!r} and a bar for each of the 18 numbers.",
)

# %% [markdown]
# Why a map of visits, when the screen already shows the place? The screen cannot say where the player
# *has been*. The reward pays for new places, so two equal screens can lead to different
# rewards. Without the map the model would have to remember every visit. The map is drawn
# around the player,
# who is always at the same spot of it; the white path is where he has been.
#
# The numbers are there for the same reason: which part of the game's world it is and
# the place in it, how many members the team has, their levels, their health. All of it
# is in the game's memory, and little of it is on the screen.

# %% [markdown]
# ## Reading the game's mind
#
# The emulator lets us read each byte of the console's memory. Fans of the game have found out
# what lies where, and have written it down.
#
# The text needs the most care. The game stores its letters with codes of its own, and the text
# stays in memory after it has left the screen.

# %%
print(inspect.getsource(game_boy.PokemonRed.read))

# %% [markdown]
# Two flags say whether a text is really on the screen. We can play the game's part: write a
# sentence into the memory in its own letters, and see what the environment makes of it.

# %%
world = env.unwrapped
codes = {letter: code for code, letter in game_boy.LETTERS.items()}
start = game_boy.TEXTS[0]
sentence = [codes[letter] for letter in "OAK: Hello there!"] + [0x00]
world.console.memory[start : start + len(sentence)] = sentence

for flag in (0, 1):
    world.console.memory[game_boy.FONT] = flag
    world.console.memory[game_boy.BOX] = flag
    print(f"flags {flag}:", repr(world.read()))
env.close()

# %% [markdown]
# Without the flags the environment would keep reporting the last sentence, long after its box has
# closed. A model that believes it would learn that people never stop talking.

# %% [markdown]
# ## One model for all of it
#
# Nothing has to be written for this: the encoder of notebook 04 looks at the spaces. Each picture
# goes through convolutions, the text through a small transformer, the numbers through an MLP. The
# results are laid side by side.
#
# We record some play first. An arrow is held for a few steps, because that gets further
# than a new one in each step. (Without a saved moment each episode begins with the
# console's greeting, so in its first dozen steps the arrows do nothing. That does no
# harm here.)

# %%
make_env = functools.partial(game_boy.make, rom, steps=100)
envs = make_vector(make_env, num_envs=1)
spaces = envs.single_observation_space, envs.single_action_space
replay = Replay(1_000, *spaces)
collector = Collector(envs, replay)
rng = np.random.default_rng(0)


def hold(longest=6):
    """Yield random arrows, each for a few steps."""
    while True:
        arrow = rng.choice(["up", "down", "left", "right"])
        action = game_boy.BUTTONS.index(arrow)
        yield from [np.array([action])] * rng.integers(1, longest)


fingers = hold()
for _ in range(800):
    collector.tick(lambda obs, is_first: next(fingers))
envs.close()
print(f"{len(replay)} rows")

# %% [markdown] tags=["predict"]
# ## What will be learnt first?
#
# The next cell trains for 120 updates. We compare each loss with its own first value. **Predict:**
# which one has fallen most after these updates, that of the screen, the map, the text or the
# numbers? And which one has fallen least?
#
# <details><summary>Answer</summary>
#
# The numbers come first, since 16 of the 18 never change here. The text follows: it has room for 200
# characters, nearly all of which are always empty, and that is learnt long before the letters of
# "HELLO 1". The two pictures are last, because what they show moves with the player. The screen
# is the very last, probably because its stripes are finer than the fields of the map.
#
# </details>

# %%
config = Config.preset("1m", deter=128, units=64, depth=4, batch=4, length=8, warmup=50)
agent = Dreamer(*spaces, config)
history = []
for _ in range(120):
    metrics = agent.train_step(replay.sample(config.batch, config.length))
    history.append({key: float(value) for key, value in metrics.items()})

# %% tags=["hide-input"]
losses = {
    key: np.array([row[f"loss/{key}"] for row in history]) for key in spaces[0].spaces
}
fig, ax = plt.subplots(figsize=(7, 3))
for key, loss in losses.items():
    smooth = np.convolve(loss / loss[:5].mean(), np.ones(10) / 10, "valid")
    ax.plot(smooth, label=key)
ax.set(xlabel="update", ylabel="loss / first loss", yscale="log")
ax.legend()
show(
    fig,
    alt="Four falling curves, the losses of screen, map, text and numbers as shares of "
    "their first values, on a logarithmic scale.",
)

# %%
bounds = {"state": 0.1, "text": 0.2, "visited": 0.8, "screen": 0.95}
for key, bound in bounds.items():
    left = losses[key][-20:].mean() / losses[key][0]
    claim(f"{key}: less than {bound} of the first loss is left", left < bound)

# %% [markdown]
# Every loss falls, and that is all this page shows. A hundred and twenty updates are
# far too few for a good dream.

# %% [markdown]
# ## With your own game
#
# You need your own copy of the game, here `red.gb`. An episode should not begin with
# the title screen. So first play up to the moment at which you want it to begin:
#
#     python -m pyboy red.gb
#
# The key Z saves the moment in `red.gb.state`. Then train, from the folder `notebooks`:
#
#     python -m dreamer_lite train --preset 12m --logdir ../runs/red \
#         --env "course.game_boy:make(rom='red.gb', state='red.gb.state')"
#
# We have not done this, because we had no copy of the game. The addresses are those that
# its fans have published. Our tests only check, on the real emulator, that what is written
# to these addresses is read correctly. How far an agent gets is not known. Count on days
# rather than hours, on a GPU.
