"""Run folders as `headwise train` leaves them, made of plausible curves and a photograph that ships in scikit-image."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from headwise.runs.samples import Instances, PointPairs, SampleMap, Shapes, save_sample

TERMS = ("text_region", "center_line", "radius", "sin", "cos")
READS = {
    "text_region": ["maps[:, 0:2]"],
    "center_line": ["maps[:, 2:4]"],
    "radius": ["maps[:, 6]"],
    "sin": ["maps[:, 4:6]"],
    "cos": ["maps[:, 4:6]"],
}
START = {"text_region": 0.92, "center_line": 1.05, "radius": 2.3, "sin": 0.34, "cos": 0.31}
FLOOR = {"text_region": 0.14, "center_line": 0.21, "radius": 0.09, "sin": 0.03, "cos": 0.028}
CARD = """TextSnake (Long et al., ECCV 2018)
term         loss                          normalizer        weight  source      differs
text_region  hard_negative_cross_entropy   mined(ratio=3)    1       eq. 9       one choice per step, not per picture
center_line  cross_entropy                 count             1       eq. 9       -
radius       smooth_l1, relative           count             1       eq. 10      -
sin, cos     smooth_l1                     count             1       eq. 10      -"""


def config(terms=TERMS, **changes: Any) -> dict[str, Any]:
    return {
        "recipe": "textsnake",
        "preset": "textsnake",
        "seed": 7,
        "steps": 2000,
        "arguments": {"batch_size": 4, "size": 256, "as_published": False, "backbone": "resnet18"},
        "versions": {"python": "3.11.2", "torch": "2.15.0", "headwise": "0.1.0"},
        "terms": list(terms),
        "card": CARD,
        **changes,
    }


def line(step: int, num_steps: int, rng: np.random.Generator, terms=TERMS) -> dict[str, Any]:
    """One logged step: values decay with noise, norms fall more slowly, sin and cos quarrel early on."""
    values = {}
    for name in terms:
        speed = 3.0 + 2.0 * (len(name) % 3)
        decayed = FLOOR.get(name, 0.1) + START.get(name, 1.0) * math.exp(-speed * step / num_steps)
        values[name] = float(decayed * rng.lognormal(0.0, 0.16))
    total = sum(values.values())
    entries = {}
    for name in terms:
        norm = float(0.4 * values[name] ** 0.8 * rng.lognormal(0.0, 0.22))
        outputs = {path: {"grad_norm": norm, "finite": True} for path in READS.get(name, [f"out.{name}"])}
        entries[name] = {
            "value": values[name],
            "weight": 1.0,
            "weighted": values[name],
            "share": values[name] / total,
            "grad_norm": norm,
            "finite": True,
            "outputs": outputs,
        }
    quarrel = float(np.clip(-0.35 * math.exp(-2 * step / num_steps) + 0.12 + rng.normal(0, 0.12), -1, 1))
    cosines: dict[str, float | None] = {f"{a}|{b}": None for i, a in enumerate(terms) for b in terms[i + 1 :]}
    cosines["sin|cos"] = quarrel
    return {
        "step": step,
        "time": 0.41 * step + 3.0,
        "images_per_second": float(9.6 + rng.normal(0, 0.35)),
        "learning_rate": 1e-3 * 0.5 * (1 + math.cos(math.pi * step / num_steps)),
        "total": total,
        "terms": entries,
        "cosine": cosines,
    }


def evaluation(step: int, num_steps: int) -> dict[str, Any]:
    grown = 1.0 - math.exp(-3.2 * step / num_steps)
    precision, recall = 0.88 * grown, 0.83 * grown**1.3
    f = 2 * precision * recall / (precision + recall)
    scores = {"precision": precision, "recall": recall, "f": f}
    return {
        "step": step,
        "iou50": scores,
        "deteval": {name: min(1.0, 1.05 * score) for name, score in scores.items()},
        "num_images": 16,
    }


def build_run(folder: Path, *, num_lines: int = 200, every: int = 10, terms=TERMS, samples: int = 2) -> Path:
    """A whole run folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    last = num_lines * every
    (folder / "config.json").write_text(json.dumps(config(terms, steps=last)))
    lines = [line(step, last, rng, terms) for step in range(every, last + 1, every)]
    write_lines(folder / "log.jsonl", lines)
    write_lines(folder / "evaluation.jsonl", [evaluation(last * k // 8, last) for k in range(1, 9)])
    for index in range(samples):
        save_sample(folder / "samples", index, **sample(rng, index))
    return folder


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def sample(rng: np.random.Generator, index: int, size: int = 256) -> dict[str, Any]:
    """A photograph with bent bands standing for words, maps that nearly agree with their targets."""
    from skimage import data, transform

    photograph = (data.chelsea, data.coffee, data.astronaut)[index % 3]()
    image = (255 * transform.resize(photograph[..., :3], (size, size), anti_aliasing=True)).astype(np.uint8)
    targets = {
        name: np.zeros((size, size), np.float32) for name in ("text_region", "center_line", "sin", "cos", "radius")
    }
    polygons, detections = [], []
    for word in range(2):
        xs = np.linspace(30, size - 40 - 30 * word, 24)
        ys = size * (0.3 + 0.42 * word) + 22 * np.sin(xs / 38 + index + word)
        radius = 15.0 - 3 * word
        _paint_band(targets, xs, ys, radius)
        polygons.append(_band(xs, ys, radius))
        detections.append(_band(xs[1:-1] + rng.normal(0, 0.7, 22), ys[1:-1] + rng.normal(0, 0.7, 22), radius * 0.95))
    return {
        "image": image,
        "annotated": Shapes(polygons, ["harbour", "café"], [False, True]),
        "found": Shapes(detections, scores=[0.93, 0.81]),
        "maps": _maps(targets, rng),
        "outline": targets["text_region"] > 0,
        "note": "The line is the border of the annotated text.",
        **(others(targets, rng) if index % 2 else {}),
    }


def others(targets, rng) -> dict[str, Any]:
    """What other systems save: pairs of embeddings, and objects as label maps."""
    from skimage.measure import label

    first = np.array([-1.5, 0.2, 2.0])
    pairs = PointPairs("embeddings, last stack", first, first + rng.normal(0, 0.1, 3), ["cat", "dog", "cup"])
    known = label(targets["text_region"] > 0)
    return {"pairs": [pairs], "instances": Instances(known, known[::2, ::2] > 0)}


def _band(xs, ys, radius):
    return np.concatenate([np.stack([xs, ys - radius], 1), np.stack([xs, ys + radius], 1)[::-1]])


def _paint_band(targets, xs, ys, radius):
    size = targets["sin"].shape[0]
    row, column = np.mgrid[:size, :size]
    line_y = np.interp(column, xs, ys)
    slope = np.interp(column, xs, np.gradient(ys, xs))
    inside = (np.abs(row - line_y) < radius) & (column > xs[0]) & (column < xs[-1])
    length = np.hypot(1.0, slope)
    targets["text_region"][inside] = 1
    targets["center_line"][inside & (np.abs(row - line_y) < radius * 0.35)] = 1
    targets["sin"][inside] = (slope / length)[inside]
    targets["cos"][inside] = (1 / length)[inside]
    targets["radius"][inside] = radius


def _maps(targets, rng):
    from skimage.filters import gaussian

    size = targets["sin"].shape[0]
    noise = [gaussian(rng.normal(0, 1, (size, size)), 5) for _ in range(5)]
    region = 9 * gaussian(targets["text_region"], 2) - 4.5 + 9 * noise[0]
    center = 9 * gaussian(targets["center_line"], 1.5) - 4.5 + 9 * noise[1]
    shown = {"text_region": 1 / (1 + np.exp(-region)), "center_line": 1 / (1 + np.exp(-center))}
    for k, (name, scale) in enumerate((("sin", 1.4), ("cos", 1.4), ("radius", 9.0))):
        shown[name] = gaussian(targets[name], 2) + scale * noise[2 + k]
    spans = {"sin": (-1.0, 1.0), "cos": (-1.0, 1.0), "radius": None}
    colors: dict[str, Any] = {"sin": "RdBu", "cos": "RdBu", "radius": "viridis"}
    return [
        SampleMap(name, values.astype(np.float16), targets[name], spans.get(name, (0, 1)), colors.get(name, "magma"))
        for name, values in shown.items()
    ]
