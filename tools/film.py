"""Make data/mario.gif: the shipped agent on the real game, its dream, the difference.

    python tools/film.py [--seed 23]

Films what `python -m dreamer_lite.mario play --dream` does, but keeps every fourth
frame, so that the page that shows it loads quickly. An episode that does not end at the
flag is refused: the README says that this one does.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from command import run  # noqa: E402
from dreamer_lite import playing, video  # noqa: E402

DATA = ROOT / "data"
EVERY, FRAMES, FPS = 4, 160, 15


def main():
    """Play one episode and film it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=23, help="of the episode")
    seed = parser.parse_args().seed
    agent = playing.load_agent(DATA / "mario_agent.safetensors")
    played = playing.play_episode(agent, seed, noops=0)
    if not played.info["flag_get"]:
        sys.exit(f"With seed {seed} this agent takes no flag; try another seed.")
    real = played.rows["obs"]
    frames = playing.beside(real, playing.dream_beside(agent, played.rows))
    target = DATA / "mario.gif"
    video.write_gif(target, frames[::EVERY][:FRAMES], FPS / EVERY)
    print(f"wrote {target.name}, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
