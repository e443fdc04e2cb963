"""Videos as GIFs, and the pictures in them: real, dreamed, error."""

import functools
import importlib
import warnings

import numpy as np

WRONG = (136, 34, 85)  # the colour of an error in pictures: red, green, blue


@functools.cache
def optional(name, package):
    """Import the module `name` of an optional package.

    Returns:
        The module; None if the package is not installed, and, with one warning, if it
        is broken.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken installation raises anything
        if getattr(error, "name", None) not in (package, name):
            warnings.warn(f"{package} cannot be used ({error}).", stacklevel=2)
        return None


def write_gif(path, frames, fps=15):
    """Write a looping GIF.

    One palette serves all frames, chosen from some of them: a palette for each frame
    takes longer than the training between two videos.

    Args:
        path: of the file, or an open file.
        frames: [T, H, W, C] uint8; without three channels the first is shown in grey.
        fps: frames per second.
    """
    image = importlib.import_module("PIL.Image")
    if fps > 50:  # a frame is shown for whole hundredths of a second, at least two
        kept = np.arange(round(len(frames) * 50 / fps)) * fps / 50
        frames, fps = frames[kept.astype(int)], 50
    frames = np.ascontiguousarray(in_colour(frames))
    some = frames[:: max(1, len(frames) // 8), ::2, ::2]
    palette = image.fromarray(np.concatenate(some)).quantize(256)
    first, *rest = (
        image.fromarray(f).quantize(palette=palette, dither=0) for f in frames
    )
    times = np.round(np.arange(len(frames) + 1) * 100 / fps)
    durations = (np.diff(times) * 10).astype(int).tolist()  # PIL counts milliseconds
    first.save(
        path, "GIF", save_all=True, append_images=rest, duration=durations, loop=0
    )


def in_colour(frames):
    """Pictures [..., C] as [..., 3]: without three channels, the first in grey."""
    return frames if frames.shape[-1] == 3 else frames[..., :1].repeat(3, -1)


def error_frames(real, dreamed):
    """How far two clips uint8 [..., C] differ, as [..., 3]: white where they do not.

    The colour follows the root of the mean difference, so that small errors show.
    """
    gap = np.abs(real.astype(np.float32) - dreamed).mean(-1, keepdims=True) / 255
    white = np.float32(255)
    return np.round(white + np.sqrt(gap) * (np.float32(WRONG) - white)).astype(np.uint8)


def compare_frames(real, dreamed, axis=1):
    """Real, dreamed and error as one video.

    Args:
        real, dreamed: [T, H, W, C] uint8.
        axis: 1 to stack them, 2 to put them side by side.

    Returns:
        [T, 3H, W, 3] or [T, H, 3W, 3].
    """
    real, dreamed = np.asarray(real), np.asarray(dreamed)
    error = error_frames(real, dreamed)
    return np.concatenate([in_colour(real), in_colour(dreamed), error], axis)


def dream_videos(agent, replay, seed, context=5, length=40):
    """Dreams of stored rows, as videos real / dreamed / error.

    Args:
        agent: dreams without seeing what follows the first `context` rows.
        replay: the rows; there are no videos until it holds `length` of them.
        seed: of the choice of rows.
        context: rows that are seen.
        length: rows in total.

    Yields:
        Key and frames [T, 3H, 4W, 3] for each picture of an observation.
    """
    import torch

    from dreamer_lite.networks import keys_of, scale_picture

    fields = agent.world_model.fields
    images = keys_of(fields, "picture")
    if not images or replay.size.max() < length:
        return
    batch = replay.sample(32, length, np.random.default_rng(seed))
    # A dream cannot know of a reset: prefer windows that dream of one episode only.
    broken = batch["is_first"][:, context:].any(1)
    chosen = np.argsort(broken, kind="stable")[:4]
    batch = {key: rows[chosen] for key, rows in batch.items()}
    dream = agent.dream(batch, context)
    for key in images:
        real = scale_picture(fields[key], torch.as_tensor(batch[key]))
        clips = (real, dream[key].cpu().clamp(0, 1))
        pairs = zip(*((255 * clip).round().byte().numpy() for clip in clips))
        yield key, np.concatenate([compare_frames(*pair) for pair in pairs], 2)
