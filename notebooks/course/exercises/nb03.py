"""Exercises of notebook 03: replay."""

import numpy as np

from course.exercises import Edit, exercise, require


def time_order(head, size, rows):
    """Places of a ring's stored rows from the oldest to the newest: [size] integers.

    Args: head, where the next row goes; size, how many rows are stored; rows, places.
    """
    return (head - size + np.arange(size)) % rows  # solution


def draw_ring(rng):
    """A ring that is filling up, or full with its head anywhere."""
    rows = int(rng.integers(2, 12))
    size = int(rng.integers(1, rows + 1))
    return ((int(rng.integers(rows)) if size == rows else size, size, rows),)


@exercise(
    "3.1", "From the oldest row to the newest", "easy", 5, [time_order], draw_ring
)
def check_time_order(time_order):
    """Check rings that are partly filled, just full, and wrapped around."""
    wrapped = np.asarray(time_order(2, 5, 5))
    require(wrapped.shape == (5,), "one place for each stored row: the shape is [size]")
    require(wrapped.dtype.kind in "iu", "places are whole numbers: an integer dtype")
    require(
        (wrapped >= 0).all(),
        "a place is between 0 and rows - 1: take the remainder (% rows)",
    )
    require(
        wrapped[0] != 0, "the ring has wrapped around: the oldest row is not at place 0"
    )
    require(wrapped[-1] == 1, "the newest row lies just before head: place 1 of 5")
    half = list(time_order(3, 3, 5))
    require(max(half) < 3, "of 5 places only 3 are filled: this reads an empty one")


def episode_rows(actions, rewards, terminated):
    """The columns of the L + 1 rows of an episode of L steps.

    Args: actions [L, A], one-hot, in the order they were chosen; rewards [L], what each
    step returned; terminated, whether the game itself ended the episode.
    """
    steps, size = actions.shape
    columns = {
        "action": np.zeros((steps + 1, size), np.float32),
        "reward": np.zeros(steps + 1, np.float32),
        "is_first": np.zeros(steps + 1, bool),
        "is_last": np.zeros(steps + 1, bool),
        "is_terminal": np.zeros(steps + 1, bool),
    }
    columns["action"][:-1] = actions  # solution
    columns["reward"][1:] = rewards  # solution
    columns["is_first"][0] = True  # solution
    columns["is_last"][-1] = True  # solution
    columns["is_terminal"][-1] = terminated  # solution
    return columns


def draw_episode(rng):
    """An episode of random length."""
    steps, size = rng.integers(1, 9), rng.integers(2, 6)
    actions = np.eye(size, dtype=np.float32)[rng.integers(size, size=steps)]
    rewards = rng.normal(size=steps).astype(np.float32)
    return ((actions, rewards, bool(rng.integers(2))),)


@exercise("3.2", "The rows of an episode", "medium", 10, [episode_rows], draw_episode)
def check_episode_rows(episode_rows):
    """Check the walk to the flag, and the same walk cut off by a time limit."""
    actions = np.eye(2, dtype=np.float32)[[0, 0, 1, 0, 0]]
    rewards = np.array([1, 1, 2, 1, 6], np.float32)
    got = episode_rows(actions, rewards, True)
    require(len(got["reward"]) == 6, "five steps give six rows")
    require(
        got["reward"][0] == 0 and got["reward"][-1] == 6,
        "a reward arrives with the frame AFTER its action: row 0 has none, row 5 has 6",
    )
    require(
        not got["action"][-1].any(), "nothing is chosen after the last frame: zeros"
    )
    require(
        got["action"][0].any(), "row 0 holds the action that was chosen after its frame"
    )
    require(
        list(got["is_first"]) == [True] + 5 * [False], "is_first is True in row 0 only"
    )
    for key, hint in {
        "is_last": "nothing comes after row 5, and only after it",
        "is_terminal": "the game ended there, and did not before",
    }.items():
        require(
            list(got[key]) == 5 * [False] + [True],
            f"{key} is True in the last row only: {hint}",
        )
    cut = episode_rows(actions, rewards, False)
    require(cut["is_last"][-1], "an episode that was cut off still has a last row")
    require(
        not cut["is_terminal"].any(),
        "a last row that was cut off by a time limit is not terminal",
    )


def random_window(ring, head, size, length, rng):
    """`length` consecutive rows of a ring, all possible windows equally likely."""
    rows = len(ring)
    start = head - size + rng.integers(size - length + 1)
    return ring[(start + np.arange(length)) % rows]


@exercise(
    "3.3",
    "A spike in the loss, now and then",
    "medium",
    10,
    [random_window],
    lambda rng: ((np.arange(8), 0, 8, 3, rng),),
    bug=Edit("head - size + rng", "rng"),
    random=True,
)
def check_random_window(random_window):
    """Draw from a full ring that wrapped around and from one that is half full."""
    rng = np.random.default_rng(0)
    full, half = np.array([8, 9, 10, 3, 4, 5, 6, 7]), np.array([0, 1, 2, 3, -1, -1])
    old = np.array([random_window(full, 3, 8, 3, rng) for _ in range(600)])
    require(old.shape == (600, 3), "a window has `length` rows")
    require((np.diff(old) != 2).all(), "rows follow one another, none is left out")
    require(
        (np.diff(old) == 1).all(),
        "some windows run from the newest row into the oldest: count from the oldest",
    )
    require((old[:, 0] == 8).any(), "the newest possible window, 8 to 10, never comes")
    require((old[:, 0] == 3).any(), "the oldest possible window, 3 to 5, never comes")
    starts = np.bincount(old[:, 0], minlength=9)[3:]
    require(
        starts.max() < 2 * starts.min(),
        "some windows come far more often than others: make every start equally likely",
    )
    young = np.array([random_window(half, 4, 4, 2, rng) for _ in range(300)])
    require((young >= 0).all(), "in a half full ring this reads an empty place")
