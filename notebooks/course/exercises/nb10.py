"""Exercises of notebook 10: reward, a buffer that changes, how an episode ends."""

import numpy as np

from course.exercises import Edit, exercise, require


def progress_reward(before, after, flag=False, dead=False, stuck=False, skip=4):
    """The reward of one step of Mario.

    Args: before, after, Mario's x in pixels; flag, dead, stuck, what this step brought;
    skip, frames in a step. He runs at most 3 pixels a frame, so a change of more than
    5 a frame, in either direction, is a pipe and counts as no progress.
    Returns: a sixteenth of the pixels moved, minus 0.02 for the time, plus 5 at the
    flag, minus 2 when he is lost: dead, or stuck.
    """
    moved = after - before  # solution
    if abs(moved) > 5 * skip:  # solution
        moved = 0  # solution
    lost = dead or stuck  # solution
    return moved / 16 - 0.02 + 5.0 * flag - 2.0 * lost  # solution


def close(a, b):
    """Whether two rewards are equal but for rounding."""
    return abs(a - b) < 1e-9


def draw_moves(rng):
    """Runs and pipes in both directions, with every way to end."""
    before, skip = int(rng.integers(2000)), int(rng.integers(1, 9))
    after = before + int(rng.integers(-12 * skip, 12 * skip + 1))
    flag, dead, stuck = (bool(b) for b in np.eye(4)[rng.integers(4), :3])
    return ((before, after, flag, dead, stuck, skip),)


@exercise(
    "10.1",
    "A reward for running to the right",
    "easy",
    10,
    [progress_reward],
    draw_moves,
)
def check_progress_reward(progress_reward):
    """Numbers by hand."""
    require(not close(progress_reward(40, 50), 10 - 0.02), "divide pixels by 16")
    require(
        not close(progress_reward(40, 40), 0.0), "standing still costs 0.02 a step too"
    )
    require(
        close(progress_reward(40, 40), -0.02)
        and not close(progress_reward(40, 50), 10 / 16),
        "every step costs 0.02 for the time, for any skip, also if he stands still",
    )
    require(
        close(progress_reward(40, 50), 10 / 16 - 0.02),
        "10 pixels to the right in 4 frames are a run: 10 / 16 - 0.02 = 0.605",
    )
    require(
        close(progress_reward(50, 40), -10 / 16 - 0.02),
        "walking back costs what walking there had earned",
    )
    require(
        close(progress_reward(2600, 900), -0.02), "a pipe back is no progress either"
    )
    require(
        close(progress_reward(300, 320), 20 / 16 - 0.02),
        "20 pixels in 4 frames are still a run",
    )
    require(
        close(progress_reward(300, 325), -0.02), "more than 5 pixels a frame is a pipe"
    )
    require(
        close(progress_reward(300, 325, skip=8), 25 / 16 - 0.02),
        "the limit grows with skip",
    )
    check_ends_of_a_run(progress_reward)


def check_ends_of_a_run(progress_reward):
    """What the flag and each way to lose add, alone and together."""
    require(
        close(progress_reward(310, 310, flag=True), 4.98)
        and close(progress_reward(310, 310, dead=True), -2.02),
        "the flag adds 5, and a death costs 2",
    )
    require(
        close(progress_reward(310, 310, stuck=True), -2.02), "stuck costs 2 as well"
    )
    require(
        close(progress_reward(300, 310, dead=True, stuck=True), -1.395),
        "dead and stuck at once: that is one loss, and it costs 2",
    )
    require(
        close(progress_reward(900, 2600, dead=True), -2.02)
        and close(progress_reward(900, 2600, flag=True), 4.98),
        "a pipe cancels only the progress: flag and death still count in that step",
    )


def maximum_of_two(emulator, buttons, skip=4):
    """Hold `buttons` for `skip` frames; the maximum of the last two screens.

    `emulator.step(buttons)` draws the next frame into `emulator.screen`, a uint8 array
    that lives as long as the emulator.
    """
    before = None
    for frame in range(skip):
        if frame == skip - 1:
            before = emulator.screen.copy()
        emulator.step(buttons)
    return np.maximum(before, emulator.screen)


class Blinking:
    """A stand-in for an emulator: a sprite that is drawn in every second frame only."""

    def __init__(self):
        self.screen, self.frame, self.pressed = np.zeros((4, 4), np.uint8), 0, []

    def step(self, buttons):
        """Draw the next frame into the same buffer."""
        self.frame += 1
        self.pressed.append(buttons)
        self.screen[:] = 0
        self.screen[0, min(self.frame, 3)] = 10 * self.frame
        self.screen[2, 2] = 200 * (self.frame % 2)


@exercise(
    "10.2",
    "The sprite that blinks",
    "medium",
    15,
    [maximum_of_two],
    lambda rng: ((Blinking(), int(rng.integers(256)), int(rng.integers(2, 7))),),
    bug=Edit("emulator.screen.copy()", "emulator.screen"),
)
def check_maximum_of_two(maximum_of_two):
    """The sprite must be there whichever frame is the last one."""
    four = Blinking()
    out = maximum_of_two(four, 128, 4)
    require(four.frame == 4 and four.pressed == [128] * 4, "hold the buttons 4 frames")
    require(
        out[0, 3] == 40 or out[2, 2] == 200,
        "both pictures lost something: take the maximum, not the minimum",
    )
    require(
        out[2, 2] == 200,
        "the sprite that blinks is gone: were the two pictures really two?",
    )
    require(out[0, 3] == 40, "the newest frame belongs to the maximum")
    require(out[0, 1] == 0, "only the last two frames, not the first one")


def how_it_ends(xs, flag=False, dead=False, patience=120, limit=3000):
    """Whether an episode is over, and why.

    Args: xs, Mario's x at the reset and after each step so far; flag, dead, whether the
    last step brought it; patience, steps without a new largest x after which he is
    stuck, which the rules of this game count as a death; limit, steps after which *we*
    stop.
    Returns: (terminated, truncated). Terminated: nothing comes after it. Truncated: we
    stopped looking, but life would have gone on. At most one of them is true.
    """
    # solution
    best, idle = xs[0], 0
    for x in xs[1:]:
        idle = 0 if x > best else idle + 1
        best = max(best, x)
    steps = len(xs) - 1
    terminated = flag or dead or idle >= patience
    truncated = steps >= limit and not terminated
    return bool(terminated), bool(truncated)
    # end of solution


def draw_run(rng):
    """A walk that may stop, turn back, end or reach its limit."""
    patience, limit = int(rng.integers(1, 7)), int(rng.integers(3, 20))
    xs, steps = [40], int(rng.integers(1, 20))
    while len(xs) <= steps and not any(how_it_ends(xs, False, False, patience, limit)):
        xs.append(xs[-1] + int(rng.integers(-2, 4)))
    flag, dead = (bool(b) for b in rng.random(2) < 0.15)
    return ((xs, flag, dead, patience, limit),)


@exercise("10.3", "Over, or only stopped?", "medium", 15, [how_it_ends], draw_run)
def check_how_it_ends(how_it_ends):
    """Small episodes by hand."""
    run = list(range(40, 60, 2))
    require(
        isinstance(how_it_ends(run), tuple), "return a tuple: (terminated, truncated)"
    )
    require(how_it_ends(run, flag=True) == (True, False), "the flag terminates")
    ended = how_it_ends(run, patience=3, limit=9)
    require(ended[1], "after `limit` steps the episode is truncated: count the steps")
    require(
        how_it_ends(run, limit=10) == (False, False),
        "9 steps are fewer than limit=10: the x at the reset is no step",
    )
    for how in ("dead", "flag"):
        require(
            how_it_ends(run, limit=9, **{how: True}) == (True, False),
            f"{how} in the last step that is allowed: that terminates, nothing else",
        )
    check_when_he_is_stuck(how_it_ends)


def check_when_he_is_stuck(how_it_ends):
    """Episodes in which he stands, goes back, or begins anew."""
    require(
        how_it_ends([40] * 5, patience=4) == (True, False),
        "4 steps without a new largest x at patience=4: he is stuck, which terminates",
    )
    require(
        how_it_ends([40, 60, 40, 45, 50, 55], patience=4) == (True, False),
        "coming back to where he was is no progress: compare with the largest x",
    )
    require(
        how_it_ends([40, 40, 40, 60, 60, 60], patience=3) == (False, False),
        "a new largest x begins the count anew",
    )
    require(
        how_it_ends([40] * 4, patience=4) == (False, False),
        "3 idle steps are fewer than patience=4: the x at the reset is no step",
    )
    require(
        how_it_ends([40, 60, 40, 40], patience=3) == (False, False),
        "the count begins at the newest largest x: 60, two steps ago, no matter "
        "what came after it",
    )
    require(
        how_it_ends([40] * 4, patience=3, limit=3) == (True, False),
        "stuck in the last step that is allowed: that terminates, nothing else",
    )
