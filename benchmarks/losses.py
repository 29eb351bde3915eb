"""TextSnake's whole loss, forward and backward, against the formulation of its authors.

    python benchmarks/losses.py [--repeats 15] [--threads 2] [--clock wall|cpu] [--write benchmarks/results/losses.md]

Maps of 4 x 7 x 512 x 512 float32, about 10 % text and 4 % center line. Both are checked to be equal in value and
gradient first. Runs are interleaved; each ratio is the median of the ratios of neighboring runs. Memory is the peak of
torch's CPU allocator during one forward and backward pass, the gradient of the maps included (see `measure.py`). On a
machine that others use, `--threads 1 --clock cpu` counts processor time instead.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import headwise as hw
from benchmarks.authors.textsnake import textsnake_loss
from benchmarks.measure import Options, markdown, milliseconds, peak_memory, times_faster
from headwise import losses, normalizers

Targets = dict[str, Tensor]
Total = Callable[[Tensor, Targets], Tensor]


def batch(num_images: int = 4, size: int = 512) -> tuple[Tensor, Targets]:
    """Random maps, and targets of eight waving words an image, one corner ignored."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, size, size)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    text, line = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for image in range(num_images):
        for center_x, center_y in torch.randint(40, size - 40, (8, 2), generator=generator).tolist():
            off_axis = (y - center_y - 20 * torch.sin((x - center_x) / 30.0)).abs()
            along = (x - center_x).abs() < 70
            text[image] |= along & (off_axis < 13)
            line[image] |= along & (off_axis < 4.5)
    valid = torch.ones(shape, dtype=torch.bool)
    valid[:, size - 40 :, :60] = False
    angle = 2 * math.pi * torch.rand(shape, generator=generator)
    radius = 8 + 8 * torch.rand(shape, generator=generator)
    targets = {"text_region": text, "center_line": line & valid, "valid": valid}
    on_line = {"sin": angle.sin(), "cos": angle.cos(), "radius": radius}
    targets |= {name: torch.where(line, values, 0.0) for name, values in on_line.items()}
    return torch.randn(num_images, 7, size, size, generator=generator), targets


def authors(maps: Tensor, targets: Targets) -> Tensor:
    return torch.stack([torch.as_tensor(value) for value in textsnake_loss(maps, targets)]).sum()


def plain_function(maps: Tensor, targets: Targets) -> Tensor:
    """The five losses called by hand."""
    text, line, valid = targets["text_region"], targets["center_line"], targets["valid"]
    region, center, direction, radius = maps.split([2, 2, 2, 1], dim=1)
    inside, on_line = valid & text, valid & line
    count = normalizers.count(line, on_line)
    return (
        losses.hard_negative_cross_entropy(region, text, valid) / normalizers.mined(text, valid)
        + losses.cross_entropy(center, line, inside) / normalizers.count(line, inside)
        + losses.relative_smooth_l1(radius[:, 0], targets["radius"], on_line)
        / normalizers.positive(targets["radius"], on_line)
        + losses.direction_smooth_l1(direction, targets["sin"], on_line, component=0) / count
        + losses.direction_smooth_l1(direction, targets["cos"], on_line, component=1) / count
    )


def preset(compile: bool) -> Total:
    criterion = hw.presets.textsnake(compile=compile)
    return lambda maps, targets: criterion({"maps": maps}, targets).total


def step(total: Total, maps: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    value = total(maps, targets)
    (gradient,) = torch.autograd.grad(value, maps)
    return value.detach(), gradient


def check_equal(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Which of several negatives of the same loss is taken may differ; the value and all other gradients may not."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    assert (found[1] - expected[1]).norm() <= 1e-5 * expected[1].norm()


def table(ways: dict[str, Total], maps: Tensor, targets: Targets, options: Options) -> str:
    runs = {name: partial(step, total, maps, targets) for name, total in ways.items()}
    seconds = options.seconds(runs)
    memory = {name: peak_memory(run) for name, run in runs.items()}
    rows = []
    for name, taken in seconds.items():
        share = f"{memory[name] / memory['authors']:.2f}"
        faster = f"{times_faster(seconds['authors'], taken):.2f}"
        rows.append([name, *milliseconds(taken), faster, f"{memory[name] / 2**20:.1f}", share])
    return markdown(["way", "median ms", "least ms", "times faster", "extra MiB", "of the authors'"], rows)


def main() -> None:
    options = Options.read(__doc__, repeats=15)
    maps, targets = batch()
    maps.requires_grad_()
    ways: dict[str, Total] = {
        "authors": authors,
        "losses called by hand": plain_function,
        "presets.textsnake()": preset(compile=False),
        "losses called by hand, torch.compile": torch.compile(plain_function, fullgraph=True),
        "presets.textsnake(compile=True)": preset(compile=True),
    }
    expected = step(authors, maps, targets)
    for total in ways.values():
        check_equal(step(total, maps, targets), expected)
    shares = {name: float(targets[name].float().mean()) for name in ("text_region", "center_line")}
    options.publish(
        "TextSnake's loss, forward and backward",
        f"Maps {tuple(maps.shape)} float32, text {shares['text_region']:.1%}, center line {shares['center_line']:.1%}; "
        f"values and gradients equal to 1e-5.\n\n{table(ways, maps, targets, options)}",
    )


if __name__ == "__main__":
    main()
