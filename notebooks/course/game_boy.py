"""Pokemon Red as a Gymnasium environment: a screen, a map of visits, text, numbers.

The emulator is PyBoy; the game is yours to bring. `free_rom` writes a cartridge
with which everything can be tried without one. From the folder notebooks:

    python -m dreamer_lite train --logdir ../runs/red \\
        --env "course.game_boy:make(rom='red.gb', state='red.gb.state')"
"""

import io
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np

BUTTONS = ("a", "b", "start", "up", "down", "left", "right")
GAME = "POKEMON RED"
STEP, HOLD = 24, 8  # frames of a step; for how many of them the button is held
LENGTH = 200  # characters of text

# Where the game keeps what in memory. Party members lie 44 bytes apart.
FONT, BOX, TEXTS = 0xCFC4, 0xD125, (0xCD3D, 0xCE9D)
MAP, Y, X = 0xD35E, 0xD361, 0xD362
PARTY, HP, LEVEL, MAX_HP = 0xD163, 0xD16C, 0xD18C, 0xD18D
BADGES, BATTLE, EVENTS = 0xD356, 0xD057, (0xD747, 0xD887)

LETTERS = dict(enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ():;[]", 0x80))
LETTERS |= dict(enumerate("abcdefghijklmnopqrstuvwxyz", 0xA0))
LETTERS |= dict(enumerate("0123456789", 0xF6))
LETTERS |= {0x4E: "\n", 0x4F: "\n", 0x7F: " ", 0xE0: "'", 0xE3: "-", 0xE6: "?"}
LETTERS |= {0xE7: "!", 0xE8: ".", 0xF3: "/", 0xF4: ","}
ENDS = (0x00, 0x50)


def decode(codes):
    """Return the text of the game's own character codes, up to its end."""
    letters = []
    for code in codes:
        if code in ENDS:
            break
        letters.append(LETTERS.get(code, "?"))
    return "".join(letters).strip()


class PokemonRed(gym.Env):
    """Press one button in each step of 24 frames, see what is on the screen.

    Observations are a dictionary of
        screen: uint8 [72, 80, 1], grey, half the size of the Game Boy's.
        visited: uint8 [72, 80, 1], 1 where the player has stood in this episode.
        text: what the game is saying, at most 200 characters.
        state: float [18], numbers from memory, each scaled to 0..1 by its range.
    The reward is 0.02 for each new place, 1 for each new event of the story and 5 for
    each new badge.

    Args:
        rom: file of the game.
        state: file with the moment at which every episode begins, as PyBoy saves it.
            Without it that is the moment at which the console is switched on.

    Raises:
        ValueError: without PyBoy, without the file, or for another game.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, rom="red.gb", state=None, render_mode="rgb_array"):
        try:
            with warnings.catch_warnings(action="ignore"):  # which SDL it has found
                from pyboy import PyBoy
        except ImportError as error:
            raise ValueError(
                f"This world needs PyBoy ({error}): pip install pyboy"
            ) from None
        for file in filter(None, (rom, state)):
            if not Path(file).is_file():
                raise ValueError(
                    f"There is no file {file}. Give your own copy of the game as rom, "
                    "and a moment that PyBoy has saved (its key Z) as state."
                )
        self.console = PyBoy(str(rom), window="null", sound_emulated=False)
        self.console.set_emulation_speed(0)
        if self.console.cartridge_title != GAME:
            title = self.console.cartridge_title
            self.console.stop(save=False)
            raise ValueError(
                f"Expected the game {GAME}, but {rom} is {title!r}; give another rom."
            )
        self.start = io.BytesIO()
        if state:
            self.start.write(Path(state).read_bytes())
        else:
            self.console.save_state(self.start)
        self.render_mode = render_mode
        self.action_space = gym.spaces.Discrete(len(BUTTONS))
        picture = gym.spaces.Box(0, 255, (72, 80, 1), np.uint8)
        letters = "".join(sorted({*LETTERS.values(), "?"}))
        self.observation_space = gym.spaces.Dict(
            screen=picture,
            visited=gym.spaces.Box(0, 1, picture.shape, np.uint8),
            text=gym.spaces.Text(LENGTH, min_length=0, charset=letters),
            state=gym.spaces.Box(0, 1, (18,), np.float32),
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start.seek(0)
        self.console.load_state(self.start)
        self.console.tick(1, True)
        self.text, self.places = "", {self.place()}
        self.best = self.progress()
        return self.observe(), {"places": 1}

    def step(self, action):
        self.console.button_press(BUTTONS[action])
        self.console.tick(HOLD, False)
        self.console.button_release(BUTTONS[action])
        self.console.tick(STEP - HOLD, True)
        before, reached = len(self.places), self.progress()
        self.places.add(self.place())
        gained = np.maximum(reached - self.best, 0)
        self.best = np.maximum(self.best, reached)
        reward = 0.02 * (len(self.places) - before) + gained @ [1.0, 5.0]
        return self.observe(), float(reward), False, False, {"places": len(self.places)}

    def render(self):
        """Return the whole screen, uint8 [144, 160, 3]."""
        return self.console.screen.ndarray[..., :3].copy()

    def close(self):
        self.console.stop(save=False)

    def place(self):
        """Return where the player stands: (map, x, y)."""
        return tuple(self.console.memory[address] for address in (MAP, X, Y))

    def progress(self):
        """Return how many events have happened and how many badges are won, [2]."""
        memory = self.console.memory
        events = sum(byte.bit_count() for byte in memory[slice(*EVENTS)])
        return np.array([events, memory[BADGES].bit_count()])

    def observe(self):
        """Return the observation of this moment."""
        grey = self.render().astype(np.float32).mean(-1)
        halves = grey.reshape(72, 2, 80, 2).mean((1, 3)).round().astype(np.uint8)
        seen, text, state = self.visits(), self.read(), self.numbers()
        return dict(screen=halves[..., None], visited=seen, text=text, state=state)

    def visits(self):
        """Return the map of visits; the player is in column 4 and row 4 of 10 x 9."""
        here, x, y = self.place()
        fields = [
            [(here, x + column - 4, y + row - 4) in self.places for column in range(10)]
            for row in range(9)
        ]
        return np.kron(fields, np.ones((8, 8))).astype(np.uint8)[..., None]

    def read(self):
        """Return the text on the screen.

        A text stays in memory after it has left the screen, so only the flags say
        whether it is there. While the game writes the next page, its memory is empty
        for a moment: the last page counts until then.
        """
        memory = self.console.memory
        if not (memory[FONT] & 1 and memory[BOX]):
            self.text = ""
            return self.text
        found = (decode(memory[start : start + LENGTH]) for start in TEXTS)
        self.text = next(filter(None, found), self.text)
        return self.text

    def numbers(self):
        """Return the numbers of the game's state, each from 0 to 1, [18]."""
        memory, members = self.console.memory, range(0, 6 * 44, 44)
        word = lambda address: 256 * memory[address] + memory[address + 1]  # noqa: E731
        levels = [memory[LEVEL + member] / 100 for member in members]
        health = [
            word(HP + member) / max(word(MAX_HP + member), 1) for member in members
        ]
        found = [memory[MAP] / 255, memory[X] / 255, memory[Y] / 255]
        found += [memory[PARTY] / 6, memory[BADGES].bit_count() / 8, memory[BATTLE] / 2]
        return np.clip(found + levels + health, 0, 1).astype(np.float32)


def make(rom="red.gb", state=None, steps=2048):
    """Return the environment with episodes of `steps` steps."""
    return gym.wrappers.TimeLimit(PokemonRed(rom, state), steps)


# 16 pixels to the right or down are one place; every second one reads "HELLO 1".
PROGRAM = """
F3 F0 44 FE 90 38 FA AF E0 40
21 00 80 7D 22 7C FE A0 20 F9
21 3D CD 3E 87 22 3E 84 22 3E 8B 22 22 3E 8E 22 3E 7F 22 3E F7 22 3E 50 22
3E 91 E0 40 3E E4 E0 47
F0 44 FE 90 20 FA
3E 20 E0 00 F0 00 F0 00 47
CB 40 20 05 F0 43 3C E0 43
CB 48 20 05 F0 43 3D E0 43
CB 50 20 05 F0 42 3D E0 42
CB 58 20 05 F0 42 3C E0 42
F0 42 CB 37 E6 0F EA 61 D3
F0 43 CB 37 E6 0F EA 62 D3
E6 01 EA C4 CF EA 25 D1
F0 44 FE 90 28 FA 18 AB
"""


def free_rom(path, title=GAME):
    """Write a cartridge of our own: a pattern that the arrows move, and a greeting.

    It bears the title of the game, and tells place and text at the game's addresses.
    """
    rom = bytearray(32_768)
    rom[0x100:0x104] = bytes.fromhex("00 C3 50 01")  # jump to the program
    rom[0x134 : 0x134 + len(title)] = title.encode()
    program = bytes.fromhex(PROGRAM)
    rom[0x150 : 0x150 + len(program)] = program
    rom[0x14D] = (-sum(rom[0x134:0x14D]) - 25) % 256  # the header's checksum
    Path(path).write_bytes(rom)
    return Path(path)
