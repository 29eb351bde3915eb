"""A checkpoint with one bit flipped, or cut short: it must be refused by name, and the one before it used.

python -m benchmarks.damage --flips 2000 --cuts 400 --write
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from headwise.training.folder.checkpoints import newest_checkpoint, save_checkpoint

RESULT = Path(__file__).parent / "results" / "damage.md"


def state(seed: int) -> dict[str, object]:
    """Like that of a run, of a few thousand bytes, so that flips fall on its structure as well as on its numbers."""
    torch.manual_seed(seed)
    network = {f"layer{number}.weight": torch.randn(8, 8) for number in range(6)}
    moments = {number: {"step": torch.tensor(5.0), "exp_avg": torch.randn(8, 8)} for number in range(6)}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(range(6))}]}
    return {"preset": "p", "run": "r", "network": network, "optimizer": optimizer, "scores": {"ap": 0.5}}


def fell_back(folder: Path, path: Path, content: bytes) -> bool:
    """Whether the damaged newest checkpoint is named and the one before it is used."""
    path.write_bytes(content)
    said: list[str] = []
    found = newest_checkpoint(folder, "p", said.append, run="r")
    return found is not None and found["step"] == 5 and len(said) == 1 and path.name in said[0] and "\n" not in said[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--cuts", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    draw, began = random.Random(arguments.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_checkpoint(folder, 5, state(0))
        path = save_checkpoint(folder, 10, state(1))
        good = path.read_bytes()
        silent = 0
        for _ in range(arguments.flips):
            content = bytearray(good)
            content[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
            silent += not fell_back(folder, path, bytes(content))
        cut = sum(not fell_back(folder, path, good[: draw.randrange(len(good))]) for _ in range(arguments.cuts))
    text = (
        "# Damaged checkpoints\n\n"
        f"`python -m benchmarks.damage --flips {arguments.flips} --cuts {arguments.cuts} --seed {arguments.seed} "
        f"--write`: a checkpoint of {len(good):,} bytes, the newest of two.\n\n"
        "| | tried | not named, or the one before it not used |\n| --- | --- | --- |\n"
        f"| one bit flipped | {arguments.flips} | {silent} |\n| cut short | {arguments.cuts} | {cut} |\n\n"
        f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, {time.monotonic() - began:.0f} s.\n"
    )
    print(text)
    if arguments.write:
        RESULT.write_text(text)
    return int(silent + cut > 0)


if __name__ == "__main__":
    sys.exit(main())
