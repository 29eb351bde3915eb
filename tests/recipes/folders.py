"""Small folders of real files, one of each kind that a recipe reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headwise.recipes.run import Recipe


def folder_of(recipe: Recipe[Any], folder: Path) -> Path:
    """Make the folder that a recipe reads, of four pictures."""
    preset = type(recipe.sizes["full"]).__name__
    make = {"TextConfiguration": total_text, "PixelConfiguration": instances, "DeepConfiguration": instances}
    make.get(preset, coco)(folder)
    return folder


def picture(seed: int, size: tuple[int, int] = (120, 100)) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def coco(folder: Path) -> None:
    """COCO: two splits of two pictures with two boxes each."""
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": 1, "name": "square"}, {"id": 7, "name": "disc"}]
    for start, split in ((0, "train2017"), (2, "val2017")):
        (folder / split).mkdir()
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for number in range(2):
            picture(start + number).save(folder / split / f"p{number}.jpg")
            images.append({"id": number + 1, "file_name": f"p{number}.jpg", "width": 120, "height": 100})
            for place, category in enumerate((1, 7)):
                box = [10 + 40 * place, 20, 30, 40]
                row = {"id": len(boxes) + 1, "image_id": number + 1, "category_id": category, "bbox": box}
                boxes.append({**row, "area": 1200, "iscrowd": 0})
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def instances(folder: Path) -> None:
    """Pictures and label maps of three objects."""
    for start, split in ((0, "train"), (2, "held_out")):
        for name in ("pictures", "labels"):
            (folder / split / name).mkdir(parents=True)
        for number in range(2):
            picture(start + number).save(folder / split / "pictures" / f"i{number}.png")
            label = np.zeros((100, 120), np.uint16)
            label[10:30, 10:30], label[40:70, 40:70], label[70:90, 90:110] = 1, 2, 3
            Image.fromarray(label).save(folder / split / "labels" / f"i{number}.png")


def total_text(folder: Path) -> None:
    """Total-Text's textual format: a word a picture."""
    line = "x: [[10 70 70 10]], y: [[10 10 40 40]], ornt: [u'h'], transcriptions: [u'word']\n"
    for start, split in ((0, "Train"), (2, "Test")):
        (folder / "Images" / split).mkdir(parents=True)
        (folder / "Groundtruth" / "Polygon" / split).mkdir(parents=True)
        for number in range(2):
            picture(start + number).save(folder / "Images" / split / f"img{number}.jpg")
            (folder / "Groundtruth" / "Polygon" / split / f"poly_gt_img{number}.txt").write_text(line)
