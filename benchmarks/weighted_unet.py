"""Touching objects with and without border weights: the tiny recipe on the embedded coins, several seeds each.

``python benchmarks/weighted_unet.py --seeds 0 1 2`` prints the table of ``results/weighted_unet.md``. Everything but
the border weights is the same: network, data, class weights, the gap opened between touching objects, and the steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.measure import machine
from headwise.recipes.pixels.configuration import TINY
from headwise.recipes.pixels.weighted_unet import weighted_unet

COLUMNS = ("touching/separated", "touching/merged", "instances/ap", "instances/f", "pixels/dice")


def trained(seed: int, w0: float, changes: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """Train once; the held-out scores, and processor seconds."""
    start = os.times()
    with tempfile.TemporaryDirectory() as folder:
        outcome = weighted_unet(out=f"{folder}/run", size="tiny", seed=seed, w0=w0, num_workers=0, **changes)
    seconds = sum(os.times()[:4]) - sum(start[:4])
    scores = {
        f"{measure}/{name}": value
        for measure in ("touching", "instances", "pixels")
        for name, value in outcome.scores[measure].items()
    }
    return scores, seconds


def table(rows: list[tuple[float, int, dict[str, float], float]]) -> str:
    """All runs, then the medians."""
    lines = [f"| w0 | seed | {' | '.join(COLUMNS)} | CPU s |", f"| {' | '.join(['---'] * (len(COLUMNS) + 3))} |"]
    for w0, seed, scores, seconds in rows:
        numbers = " | ".join(f"{scores[column]:.3f}" for column in COLUMNS)
        lines.append(f"| {w0:g} | {seed} | {numbers} | {seconds:.0f} |")
    for w0 in dict.fromkeys(row[0] for row in rows):
        found = [row for row in rows if row[0] == w0]
        numbers = " | ".join(f"{statistics.median(row[2][column] for row in found):.3f}" for column in COLUMNS)
        lines.append(f"| {w0:g} | median | {numbers} | {statistics.median(row[3] for row in found):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--w0", type=float, nargs="+", default=[TINY.w0, 0.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    changes = {"steps": arguments.steps} if arguments.steps else {}
    rows = []
    for w0 in arguments.w0:
        for seed in arguments.seeds:
            rows.append((w0, seed, *trained(seed, w0, changes)))
            print(table(rows[-1:]), file=sys.stderr)
    print(machine())
    print(f"Touching pairs: {rows[0][2]['touching/pairs']:.0f}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
