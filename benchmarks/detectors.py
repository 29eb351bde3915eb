"""Average precision and time of the tiny detectors on the embedded digits, over seeds; the corner papers' ablations.

    python benchmarks/detectors.py cornernet cornernet_squeeze --seeds 0 1 2 --out runs/detectors
    python benchmarks/detectors.py --ablations --out runs/detectors
    python benchmarks/detectors.py --table --out runs/detectors

A run that is there is not run again, so that several processes may share the work.
"""

import argparse
import json
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import machine, markdown
from headwise.recipes import RECIPES

SYSTEMS = ("cornernet", "cornernet_squeeze", "cornernet_saccade", "centernet", "retinanet", "ssd")
LARGE: dict[str, Any] = {
    "image_size": 127,
    "picture_size": 127,
    "min_side": 60,
    "max_side": 120,
    "steps": 1600,
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "without push": {"push_weight": 0.0},
    "without Gaussian": {"gaussian": False},
    "on large digits": LARGE,
    "on large digits without Gaussian": {**LARGE, "gaussian": False},
}
ABLATED = "cornernet"


def folder_of(out: Path, system: str, seed: int, ablation: str = "") -> Path:
    return out / "_".join([system, *ablation.split(), str(seed)])


def run(out: Path, system: str, seed: int, ablation: str = "") -> None:
    folder = folder_of(out, system, seed, ablation)
    if not (folder / "config.json").is_file():
        RECIPES[system](out=folder, size="tiny", seed=seed, **ABLATIONS.get(ablation, {}))


def last_line(path: Path) -> dict[str, Any]:
    lines = path.read_text().splitlines() if path.is_file() else []
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def is_finished(folder: Path) -> bool:
    scores = last_line(folder / "evaluation.jsonl")
    return bool(scores) and scores["step"] == json.loads((folder / "config.json").read_text())["steps"]


def table(out: Path, seeds: list[int]) -> str:
    rows = []
    for system, seed in product(SYSTEMS, seeds):
        folder = folder_of(out, system, seed)
        if is_finished(folder):
            scores, log = last_line(folder / "evaluation.jsonl"), last_line(folder / "log.jsonl")
            numbers = [f"{scores['coco'][name]:.3f}" for name in ("ap", "ap50", "ap75")]
            rows.append([system, seed, scores["step"], *numbers, f"{log['time'] / 60:.1f}"])
    return markdown(["system", "seed", "steps", "AP", "AP50", "AP75", "minutes"], rows)


def embeddings(folder: Path) -> tuple[float, float]:
    """Mean distance of an object's two embeddings, and of two objects of a picture, over the saved samples."""
    within, between = [], []
    for path in sorted((folder / "samples").glob("*.npz")):
        with np.load(path) as sample:
            first, second = sample["pairs_0_first"], sample["pairs_0_second"]
        within += list(abs(first - second))
        middle = (first + second) / 2
        between += [abs(a - b) for a, b in combinations(middle, 2)]
    return float(np.mean(within)), float(np.mean(between))


def ablation_table(out: Path, seeds: list[int]) -> str:
    rows = []
    for ablation, seed in product(("", *ABLATIONS), seeds):
        folder = folder_of(out, ABLATED, seed, ablation)
        if is_finished(folder):
            coco, log = last_line(folder / "evaluation.jsonl")["coco"], last_line(folder / "log.jsonl")
            numbers = (coco["ap"], coco["ap50"], log["terms"]["push"]["value"], *embeddings(folder))
            rows.append([f"{ABLATED} {ablation}".strip(), seed, *(f"{number:.3f}" for number in numbers)])
    columns = ["push in the last log line", "embeddings: two corners apart", "two objects apart"]
    return markdown(["system", "seed", "AP", "AP50", *columns], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", choices=[*SYSTEMS, []])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/detectors"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for seed in options.seeds:
        for system in options.systems:
            run(options.out, system, seed)
        for ablation in ABLATIONS if options.ablations else ():
            run(options.out, ABLATED, seed, ablation)
    if options.table:
        print(machine())
        print(table(options.out, options.seeds))
        print(ablation_table(options.out, options.seeds))


if __name__ == "__main__":
    main()
