"""Makes the pages that docs/gallery.md lists, for the site: ``make gallery``, some minutes on two cores."""

import re
import runpy
import shutil
import sys
from pathlib import Path

from headwise.cli import main as headwise
from headwise.report import write_report

DOCS = Path(__file__).parent
PRESETS = DOCS.parent / "examples" / "presets"
STEPS = {"retinanet": 60, "textsnake": 60, "weighted_unet": 40, "deep_supervision": 40}
"""The recipes that the gallery shows, and how long each trains."""


def train(name: str, folder: Path) -> None:
    """One run: of a recipe on embedded pictures, or of an example of a preset.

    Args:
        name: The recipe, or the file in examples/presets.
        folder: Where the run goes.
    """
    if name in STEPS:
        steps = str(STEPS[name])
        if headwise(["train", name, "--size", "tiny", "--steps", steps, "--out", str(folder)]):
            sys.exit(f"gallery: the recipe {name} did not train")
    else:
        runpy.run_path(str(PRESETS / f"{name}.py"))["main"](out=str(folder))


def main(runs: Path) -> None:
    """Train what the page lists, as far as it is not there yet, and write the pages."""
    pages = DOCS / "_gallery" / "gallery"
    pages.mkdir(parents=True, exist_ok=True)
    for name in re.findall(r'<a href="gallery/(\w+)\.html">', (DOCS / "gallery.md").read_text(encoding="utf-8")):
        page = pages / f"{name}.html"
        if not page.exists():
            shutil.rmtree(runs / name, ignore_errors=True)
            train(name, runs / name)
            page.write_text(write_report(runs / name, png=False).read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    main(Path("runs/gallery"))
