"""Large data of one's own: COCO files of 100 MB, checks of 20,000 pictures, predictions on 10,000.

    python -m benchmarks.own_data [--parts coco check predict] [--small] --write

Each number is taken in a process of its own, in seconds of a core, which other work on the machine lengthens little;
memory is the peak above what the process held when it began. Of several repeats the least is told.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "own_data.md"
PARTS = ("coco", "check", "predict")
REPEATS = 3
Found = dict[str, float]


def make_coco(folder: Path, megabytes: float) -> Path:
    """A file like COCO's: seven objects a picture, outlines most of it."""
    draw = random.Random(0)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    bytes_an_image, path = 7 * 560 + 160, folder / "instances_large.json"
    for number in range(int(megabytes * 1e6 / bytes_an_image)):
        name = f"{number:012d}.jpg"
        places = {"file_name": name, "height": 480, "width": 640, "id": number, "license": 3, "date_captured": "2013"}
        images.append(places)
        for _ in range(7):
            x, y, width, height = (round(draw.uniform(1, 300), 2) for _ in range(4))
            outline = [round(draw.uniform(0, 600), 2) for _ in range(54)]
            objects.append({
                "segmentation": [outline], "area": width * height, "iscrowd": 0, "image_id": number,
                "bbox": [x, y, width, height], "category_id": draw.randrange(1, 91), "id": len(objects),
            })  # fmt: skip
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 91)]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return path


def make_pictures(folder: Path, number: int, size: tuple[int, int]) -> list[str]:
    """JPEGs of rectangles, no two alike."""
    from PIL import Image

    folder.mkdir(parents=True)
    names = [f"{index:06d}.jpg" for index in range(number)]
    for index, name in enumerate(names):
        picture = Image.new("RGB", size, (index % 251, index // 251 % 251, 90))
        picture.paste((220, 60, 40), (2, 3, size[0] // 2, size[1] // 2))
        picture.save(folder / name)
    return names


def make_boxes(root: Path, number: int, size: tuple[int, int] = (64, 48)) -> Path:
    """A COCO folder of so many training pictures and 100 held-out ones, a box on each."""
    (root / "annotations").mkdir(parents=True)
    for split, count, side in (("train2017", number, size), ("val2017", 100, (size[0] + 1, size[1]))):
        names = make_pictures(root / split, count, side)
        images = [{"id": i, "file_name": each, "width": side[0], "height": side[1]} for i, each in enumerate(names)]
        box = [2, 3, size[0] // 2 - 2, size[1] // 2 - 3]
        objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i in range(count)]
        content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "red"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def read_json(path: str) -> Found:
    """What json.loads takes."""
    return measured(lambda: json.loads(Path(path).read_bytes()))


def read_file(path: str) -> Found:
    """What our reader takes, checks included."""
    from headwise.data.coco import content, entries

    entries._msgspec()
    return measured(lambda: content.parse_coco(Path(path)))


def read_file_without_msgspec(path: str) -> Found:
    """The same, as where msgspec is not installed."""
    sys.modules["msgspec"] = None  # type: ignore[assignment]
    return read_file(path)


def check(folder: str, small: str) -> Found:
    """What `headwise check` takes, how many processes help it, and how often it says where it is."""
    from headwise.cli import main

    def run(data: str) -> int:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = main(["check", data, "--recipe", "ssd", "--pictures", "0"])
        assert code == 0, said.getvalue()
        return said.getvalue().replace("\r", "\n").count("\n")

    run(small)  # whatever is loaded once
    seen, over, lines = [0], threading.Event(), []

    def count() -> None:
        while not over.wait(0.05):
            seen.append(sum(len(file.read_text().split()) for file in Path("/proc/self/task").glob("*/children")))

    threading.Thread(target=count).start()
    found = measured(lambda: lines.append(run(folder)))
    over.set()
    return {**found, "helpers": float(max(seen)), "lines": float(lines[0])}


def predict(checkpoint: str, folder: str, small: str, out: str) -> Found:
    """What a prediction takes."""
    import torch

    from headwise.recipes import prediction

    torch.set_num_threads(1)
    prediction.predict(checkpoint, [small], f"{out}small", batch_size=8)  # whatever is loaded once
    return measured(lambda: prediction.predict(checkpoint, [folder], out, batch_size=8))


CHILDREN: dict[str, Callable[..., Found]] = {
    each.__name__: each for each in (read_json, read_file, read_file_without_msgspec, check, predict)
}


def measured(function: Callable[[], object]) -> Found:
    """Seconds of cores, of this process and its children, seconds of the clock, and MB above what was held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held, began, clock = _memory("VmRSS"), _cores(), time.monotonic()
    result = function()
    del result
    return {"cores": _cores() - began, "clock": time.monotonic() - clock, "MB": _memory("VmHWM") - held}


def _cores() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1000 for line in lines if line.startswith(name))


def in_a_process(function: Callable[..., Found], *words: object, repeats: int = 1) -> Found:
    """The least of several calls in new processes."""
    command = [sys.executable, "-m", "benchmarks.own_data", "--child", function.__name__, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    texts = [
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        for _ in range(repeats)
    ]
    found: list[Found] = [json.loads(text.splitlines()[-1]) for text in texts]
    return {key: min(each[key] for each in found) for key in found[0]}


def measure_coco(place: Path, share: float) -> str:
    path = make_coco(place, 100 * share)
    size = path.stat().st_size / 1e6
    plain = in_a_process(read_json, path, repeats=REPEATS)
    rows = []
    for name, way in (("json.loads", read_json), ("with msgspec", read_file), ("without", read_file_without_msgspec)):
        found = plain if way is read_json else in_a_process(way, path, repeats=REPEATS)
        ratio, memory = found["cores"] / plain["cores"], found["MB"] / size
        rows.append(f"| {name} | {found['cores']:.2f} | {ratio:.2f} | {found['MB']:.0f} | {memory:.2f} |")
    return _section(
        f"A COCO file of {size:.0f} MB, read and checked",
        "| | seconds of a core | of json.loads | MB | of the file's size |\n| --- | --- | --- | --- | --- |", rows,
    )  # fmt: skip


def measure_check(place: Path, share: float) -> str:
    number, rows = int(20_000 * share), []
    folder, warm = make_boxes(place / "boxes", number), make_boxes(place / "small", 100, (80, 48))
    os.environ["HEADWISE_CACHE"] = str(place / "cache")
    for name in ("first", "again, from the cache"):
        found = in_a_process(check, folder, warm)
        cells = [f"{found[key]:.1f}" for key in ("cores", "clock")]
        cells += [f"{found[key]:.0f}" for key in ("helpers", "MB", "lines")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return _section(
        f"`headwise check` on {number:,} pictures",
        "| | seconds of cores | of the clock | processes that help | MB, of its own process | lines said |\n"
        "| --- | --- | --- | --- | --- | --- |", rows,
    )  # fmt: skip


def measure_predict(place: Path, share: float) -> str:
    from headwise.recipes import RECIPES

    numbers, rows = [int(number * share) for number in (1000, 3000, 10_000)], []
    data = make_boxes(place / "data", 20)
    small: dict[str, Any] = {"image_size": 32, "batch_size": 2, "num_workers": 0}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run = RECIPES["ssd"](data, out=place / "run", size="tiny", steps=1, **small).folder
    for number in numbers:
        make_pictures(place / f"pictures{number}", number, (32, 24))
        found = in_a_process(predict, run, place / f"pictures{number}", data / "val2017", place / f"out{number}")
        each = 1000 * found["cores"] / number
        rows.append(f"| {number:,} | {found['cores']:.1f} | {each:.2f} | {found['MB']:.0f} |")
    return _section(
        "`headwise predict`, an untrained SSD of 32 pixels",
        "| pictures | seconds of a core | milliseconds a picture | MB |\n| --- | --- | --- | --- |", rows,
    )  # fmt: skip


def _section(title: str, head: str, rows: list[str]) -> str:
    return f"## {title}\n\n{head}\n" + "\n".join(rows) + "\n\n"


MEASURES = {"coco": measure_coco, "check": measure_check, "predict": measure_predict}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--small", action="store_true", help="a hundredth of everything")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    if arguments.child:
        name, *words = arguments.child
        print(json.dumps(CHILDREN[name](*words)))
        return 0
    import platform

    import torch

    text = (
        "# Large data of one's own\n\n`python -m benchmarks.own_data --write`: each number in a process of its own.\n\n"
    )
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as place:
            text += MEASURES[part](Path(place), 0.01 if arguments.small else 1.0)
    text += (
        f"{platform.machine()}, {os.cpu_count()} CPU cores, shared with other work (load {os.getloadavg()[0]:.1f}); "
        f"Python {platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}.\n"
    )
    print(text)
    if arguments.write:
        RESULT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
