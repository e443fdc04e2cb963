"""Videos as GIFs, and the pictures in them: real, dreamed, error."""

import functools
import importlib
import warnings

import numpy as np

WRONG = (136, 34, 85)  # the colour of an error in pictures: red, green, blue


@functools.cache
def optional(name, package):
    """Import the module `name` of an optional package.

    Returns: None if the package is not installed, or does not work: then with one
    warning.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken installation raises anything
        if getattr(error, "name", None) not in (package, name):
            warnings.warn(f"{package} cannot be used ({error}).", stacklevel=2)
        return None


def write_gif(path, frames, fps=15):
    """Write frames [T, H, W, C] uint8 as a looping GIF; `path` may be an open file.

    Any C but 3 is shown as `in_colour` does. One palette for all frames, chosen from
    some of them: a palette for each takes longer than the training between two videos.
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
    """Pictures [..., C] as [..., 3]: without three channels the first one in grey."""
    return frames if frames.shape[-1] == 3 else frames[..., :1].repeat(3, -1)


def error_frames(real, dreamed):
    """Return how far two clips uint8 [..., C] differ, [..., 3]: white is right.

    The colour follows the root of the mean difference, so that small errors show.
    """
    gap = np.abs(real.astype(np.float32) - dreamed).mean(-1, keepdims=True) / 255
    white = np.float32(255)
    return np.round(white + np.sqrt(gap) * (np.float32(WRONG) - white)).astype(np.uint8)


def compare_frames(real, dreamed, axis=1):
    """Real, dreamed and error as one video: two [T, H, W, C] -> [T, 3H, W, 3].

    Args: axis, 1 for one above the other, 2 for side by side.
    """
    real, dreamed = np.asarray(real), np.asarray(dreamed)
    error = error_frames(real, dreamed)
    return np.concatenate([in_colour(real), in_colour(dreamed), error], axis)


def dream_videos(agent, replay, seed, context=5, length=40):
    """Open-loop videos of stored rows, real / dreamed / error: (key, frames) for each.

    Without pictures, or rows enough, there are none.
    """
    import torch

    from dreamer_lite.networks import keys_of, scale_picture

    fields = agent.world_model.fields
    images = keys_of(fields, "picture")
    if not images or replay.size.max() < length:
        return
    batch = replay.sample(32, length, np.random.default_rng(seed))
    # A dream knows of no reset: better windows that dream of one episode only.
    broken = batch["is_first"][:, context:].any(1)
    chosen = np.argsort(broken, kind="stable")[:4]
    batch = {key: rows[chosen] for key, rows in batch.items()}
    dream = agent.dream(batch, context)
    for key in images:
        real = scale_picture(fields[key], torch.as_tensor(batch[key]))
        clips = (real, dream[key].cpu().clamp(0, 1))
        pairs = zip(*((255 * clip).round().byte().numpy() for clip in clips))
        yield key, np.concatenate([compare_frames(*pair) for pair in pairs], 2)
