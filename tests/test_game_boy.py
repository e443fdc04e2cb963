"""Pokemon Red: the emulator is the real one, the cartridge is ours."""

import numpy as np
import pytest

from course import game_boy


@pytest.fixture(scope="module")
def rom(tmp_path_factory):
    """A cartridge of our own with the game's title."""
    return game_boy.free_rom(tmp_path_factory.mktemp("rom") / "free.gb")


@pytest.fixture
def env(rom):
    """The environment, a few seconds after the start."""
    env = game_boy.PokemonRed(rom)
    env.reset(seed=0)
    env.console.tick(300, True)
    yield env
    env.close()


def write(env, address, codes):
    """Write bytes into the emulator's memory."""
    env.console.memory[address : address + len(codes)] = codes


def codes(text):
    """Return the game's character codes of a text, with the end."""
    known = {letter: code for code, letter in game_boy.LETTERS.items()}
    return [*(known[letter] for letter in text), 0x00]


def test_it_steps_renders_and_resets(env):
    moves = [game_boy.BUTTONS.index("right")] * 6 + [game_boy.BUTTONS.index("down")] * 6
    for action in moves:
        obs, reward, *_ = env.step(action)
        assert env.observation_space.contains(obs)
    assert env.place() == (0, 3, 3) and env.render().shape == (144, 160, 3)
    first, again = env.reset()[0], env.reset()[0]
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])


def test_new_places_pay_and_are_drawn(env):
    right = game_boy.BUTTONS.index("right")
    env.reset()
    env.console.tick(300, True)
    found = [env.step(right) for _ in range(4)]
    assert [reward for _, reward, *_ in found] == [0.0, 0.02, 0.0, 0.02]
    obs = found[-1][0]["visited"][..., 0]
    assert obs[32:40, 16:40].all() and obs.sum() == 3 * 64  # here and two to the left


def test_events_and_badges_pay_once(env):
    write(env, game_boy.EVENTS[0], [0b101])
    write(env, game_boy.BADGES, [1])
    a = game_boy.BUTTONS.index("a")
    rewards = [env.step(a)[1] for _ in range(2)]
    assert rewards == [2 + 5, 0]


@pytest.mark.parametrize("buffer", game_boy.TEXTS)
def test_bytes_in_memory_are_read_as_the_text(env, buffer):
    for start in game_boy.TEXTS:
        write(env, start, [0x00])
    write(env, buffer, codes("Hi, RED!\nItem 09?"))
    assert env.read() == ""  # neither font nor box: it is not on the screen
    write(env, game_boy.FONT, [1])
    write(env, game_boy.BOX, [1])
    assert env.read() == "Hi, RED!\nItem 09?"
    write(env, buffer, [0x00])  # the next page is being written
    assert env.read() == "Hi, RED!\nItem 09?"
    write(env, game_boy.FONT, [0])
    assert env.read() == ""
    write(env, game_boy.FONT, [1])
    assert env.read() == ""


def test_text_without_an_end_and_unknown_letters_fit_the_space(env):
    write(env, game_boy.TEXTS[0], [0x80, 0x01] * 300)
    write(env, game_boy.FONT, [1])
    write(env, game_boy.BOX, [1])
    found = env.read()
    assert found == "A?" * 100 and env.observation_space["text"].contains(found)


def test_numbers_are_scaled(env):
    write(env, game_boy.PARTY, [2])
    write(env, game_boy.LEVEL + 44, [50])
    write(env, game_boy.HP, [0, 10])
    write(env, game_boy.MAX_HP, [0, 40])
    found = env.numbers()
    assert found[3] == np.float32(2 / 6) and found[7] == 0.5 and found[12] == 0.25


def test_what_a_reader_may_forget_is_said_in_one_sentence(rom, tmp_path):
    with pytest.raises(ValueError, match="There is no file .*absent.gb"):
        game_boy.PokemonRed(tmp_path / "absent.gb")
    with pytest.raises(ValueError, match="There is no file .*absent.state"):
        game_boy.PokemonRed(rom, tmp_path / "absent.state")
    other = game_boy.free_rom(tmp_path / "other.gb", title="TETRIS")
    with pytest.raises(ValueError, match="POKEMON RED, but .*other.gb is 'TETRIS'"):
        game_boy.PokemonRed(other)


def test_an_episode_begins_at_a_saved_moment(env, rom, tmp_path):
    env.step(game_boy.BUTTONS.index("right"))
    env.step(game_boy.BUTTONS.index("right"))
    with open(tmp_path / "free.state", "wb") as file:
        env.console.save_state(file)
    begun = game_boy.make(rom, tmp_path / "free.state", steps=2)
    begun.reset()
    assert begun.unwrapped.place() == (0, 1, 0)
    assert [begun.step(0)[3] for _ in range(2)] == [False, True]
