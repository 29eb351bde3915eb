"""Small data sets, and the command run inside this process, for the tests in this folder."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

BOXES = ("ssd", "retinanet", "cornernet", "cornernet_squeeze", "cornernet_saccade", "centernet")
INSTANCES = ("weighted_unet", "deep_supervision")


@dataclass
class Result:
    """What a command did: its exit code, what it wrote, and what Python's warnings said."""

    code: int
    out: str
    err: str
    warned: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """Everything that a user sees."""
        return "\n".join([self.out, self.err, *(f"warning: {text}" for text in self.warned)])

    @property
    def warning_lines(self) -> list[str]:
        """The lines that are marked as warnings."""
        return [line for line in self.said.splitlines() if "warning" in line.lower()]

    @property
    def refused(self) -> bool:
        """Whether it ended as a user's mistake does: code 2, and one line on standard error that says so."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return self.code == 2 and bool(lines) and lines[-1].startswith("headwise: error: ") and not self.crashed

    @property
    def crashed(self) -> bool:
        """Whether a traceback reached the user."""
        return "Traceback (most recent call last)" in self.said


def headwise(*arguments) -> Result:
    """Run the command in this process."""
    from headwise.cli import main

    out, err = io.StringIO(), io.StringIO()
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("always")
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else (0 if end.code is None else 1)
        except Exception:
            err.write(traceback.format_exc())
            code = 1
    own = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    return Result(code, out.getvalue(), err.getvalue(), own)


def attempt(read):
    """Call it; return its result and "", or None and the message of the refusal."""
    try:
        return read(), ""
    except (OSError, ValueError) as error:
        return None, str(error)


def train(recipe, data, out, *more, steps=1) -> Result:
    """Train the small network of a recipe on a data set for a moment."""
    return headwise("train", recipe, "--data", data, "--size", "tiny", "--steps", steps, "--out", out, *more)


def help_of(*verb) -> str:
    """The text of ``--help``, without its line breaks."""
    return " ".join(headwise(*verb, "--help").out.split())


def option(text, *names):
    """The first of these options that a help text lists; None for none."""
    return next((name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)), None)


class Runs:
    """Runs of one step, on data that are whole."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def data(self, recipe: str) -> Path:
        """The data set of a recipe."""
        kind = "boxes" if recipe in BOXES else "instances" if recipe in INSTANCES else "text"
        folder = self.root / kind
        if not folder.exists():
            makers: dict[str, Callable[[Path], Path]] = {"boxes": coco, "instances": instances, "text": total_text}
            makers[kind](folder)
        return folder

    def __getitem__(self, recipe: str) -> Path:
        folder = self.root / f"run_{recipe}"
        if not folder.exists():
            result = train(recipe, self.data(recipe), folder)
            assert result.code == 0, result.said
        return folder

    def copy(self, recipe: str, to: Path) -> Path:
        """A copy of a run that a test may spoil."""
        shutil.copytree(self[recipe], to)
        return to


def drawn(rng, size, number=3):
    """A picture with rectangles and discs, and their (x, y, width, height, class)."""
    width, height = size
    image = Image.new("RGB", size, (rng.randint(60, 120),) * 3)
    pen, boxes = ImageDraw.Draw(image), []
    for _ in range(number):
        w, h = rng.randint(width // 6, width // 3), rng.randint(height // 6, height // 3)
        x, y, kind = rng.randint(0, width - w - 1), rng.randint(0, height - h - 1), rng.randint(0, 1)
        (pen.rectangle, pen.ellipse)[kind]((x, y, x + w, y + h), fill=((220, 60, 40), (40, 80, 220))[kind])
        boxes.append((x, y, w, h, kind))
    return image, boxes


def coco(root, splits=("train2017", "val2017"), number=6, size=(160, 120), *, change=None, names="p{:02d}.jpg", seed=0):
    """A COCO folder; ``change(content, split)`` may spoil the JSON before it is written."""
    root = Path(root)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in splits:
        rng, seed = random.Random(seed), seed + 1
        (root / split).mkdir(exist_ok=True)
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "square"}, {"id": 7, "name": "disc"}],
        }
        for index in range(number):
            image, boxes = drawn(rng, size)
            name = names.format(index)
            image.save(root / split / name)
            content["images"].append({"id": 10 + index, "file_name": name, "width": size[0], "height": size[1]})
            for x, y, w, h, kind in boxes:
                content["annotations"].append({
                    "id": len(content["annotations"]) + 1, "image_id": 10 + index, "category_id": (1, 7)[kind],
                    "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
                })  # fmt: skip
        if change is not None:
            change(content, split)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def split_folders(root, splits=("train", "valid"), **options):
    """The layout of one folder a split: pictures beside ``_annotations.coco.json``."""
    coco(root, splits, **options)
    for split in splits:
        (root / "annotations" / f"instances_{split}.json").rename(root / split / "_annotations.coco.json")
    (root / "annotations").rmdir()
    return root


def discs(rng, size):
    """A picture with four discs, and their numbers at each pixel."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    label, image = np.zeros((height, width), np.uint16), np.full((height, width, 3), 70, np.uint8)
    for number in range(1, 5):
        radius = rng.integers(8, 15)
        inside = (y - rng.integers(20, height - 20)) ** 2 + (x - rng.integers(20, width - 20)) ** 2 < radius**2
        label[inside], image[inside] = number, rng.integers(120, 250, 3)
    return image, label


def instances(root, splits=("train", "held_out"), number=4, size=(140, 120), *, change=None, seed=0):
    """A folder of instances; ``change(label)`` may return another map."""
    for split in splits:
        for name in ("pictures", "labels"):
            (Path(root) / split / name).mkdir(parents=True)
        for index in range(number):
            rng, seed = np.random.default_rng(seed), seed + 1
            image, label = discs(rng, size)
            Image.fromarray(image).save(Path(root) / split / "pictures" / f"i{index}.png")
            label = label if change is None else change(label)
            Image.fromarray(label).save(Path(root) / split / "labels" / f"i{index}.png")
    return Path(root)


def word_line(xs, ys, word="word"):
    """A line of Total-Text's textual format."""
    x, y = (" ".join(map(str, values)) for values in (xs, ys))
    return f"x: [[{x}]], y: [[{y}]], ornt: [u'c'], transcriptions: [u'{word}']\n"


def total_text(root, splits=("Train", "Test"), number=4, size=(240, 200), *, word="word", seed=0):
    """A Total-Text folder in the textual format."""
    for split in splits:
        pictures, truth = Path(root) / "Images" / split, Path(root) / "Groundtruth/Polygon" / split
        pictures.mkdir(parents=True)
        truth.mkdir(parents=True)
        for index in range(number):
            rng, seed = random.Random(seed), seed + 1
            image, lines = Image.new("RGB", size, (40, 60, 80)), []
            for row in range(2):
                x, y = rng.randint(5, 80), 20 + 90 * row + rng.randint(0, 20)
                xs, ys = [x, x + 65, x + 130, x + 130, x + 65, x], [y + 8, y, y + 8, y + 40, y + 32, y + 40]
                ImageDraw.Draw(image).polygon(list(zip(xs, ys, strict=True)), fill=(200, 190, 90))
                lines.append(word_line(xs, ys, word))
            image.save(pictures / f"img{index}.jpg")
            (truth / f"poly_gt_img{index}.txt").write_text("".join(lines))
    return Path(root)


def turned(path, orientation, size=(160, 100), place=(20, 10, 60, 30)):
    """Save a black picture with one white rectangle and an EXIF orientation; return the rectangle as it is displayed.

    The rectangle is x1, y1, x2, y2 in pixel edges of the raw and of the returned, displayed picture; with it, the
    displayed picture's (width, height).
    """
    raw = np.zeros((size[1], size[0], 3), np.uint8)
    raw[place[1] : place[3], place[0] : place[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    more: dict[str, Any] = {"quality": 95} if Path(path).suffix in (".jpg", ".jpeg") else {}
    Image.fromarray(raw).save(path, exif=exif, **more)
    with Image.open(path) as stored:
        shown = np.asarray(ImageOps.exif_transpose(stored).convert("L")) > 128
    rows, columns = np.nonzero(shown.any(1))[0], np.nonzero(shown.any(0))[0]
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return box, (shown.shape[1], shown.shape[0])


def white_inside(image, box):
    """The share of white in a box, and the share of all white that the box holds."""
    x1, y1, x2, y2 = (round(float(edge)) for edge in box)
    white = np.asarray(image)[..., 0] > 128
    inside = white[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    return (float(inside.mean()) if inside.size else 0.0), float(inside.sum() / max(white.sum(), 1))


def held_out_images(run):
    """The pictures on which a run was evaluated, as it saved them."""
    return [np.load(path, allow_pickle=False)["image"] for path in sorted((Path(run) / "samples").glob("*.npz"))]


def pixels(path):
    """A picture file's pixels."""
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def broken_header(path, width=20_000, height=10_000):
    """A PNG whose header promises 200 million pixels, and which holds nearly none."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def snapshot(folder):
    """Relative path -> bytes of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }
