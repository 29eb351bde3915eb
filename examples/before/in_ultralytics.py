"""Ultralytics' own trainer on a small YOLO and drawn squares; run it with ``headwise run``."""

from pathlib import Path

import numpy as np
from PIL import Image
from ultralytics import YOLO


def squares(folder: Path) -> Path:
    """Pictures of red and green squares, in the folders that Ultralytics wants."""
    draw = np.random.default_rng(0)
    for split, number in (("train", 12), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            picture = draw.integers(0, 60, (96, 96, 3), dtype=np.uint8)
            rows = []
            for color in draw.integers(0, 2, 2):
                (x, y), half = draw.integers(20, 76, 2), draw.integers(8, 18)
                picture[y - half : y + half, x - half : x + half, color] = 220
                rows.append(f"{color} {x / 96:.5f} {y / 96:.5f} {half / 48:.5f} {half / 48:.5f}")
            Image.fromarray(picture).save(folder / f"images/{split}/{index}.png")
            (folder / f"labels/{split}/{index}.txt").write_text("\n".join(rows))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames: {{0: red, 1: green}}\n")
    return data


def main(folder: str = "yolo") -> None:
    """Train a little."""
    YOLO("yolov8n.yaml").train(
        data=str(squares(Path(folder) / "squares")), epochs=1, imgsz=96, batch=4, workers=0, device="cpu", plots=False,
        verbose=False, project=str(Path(folder).resolve()), name="run",
    )  # fmt: skip


if __name__ == "__main__":
    main()
