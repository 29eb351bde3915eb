"""What ``coders.snakes`` accepts: each function checks one argument and says what to do about a bad one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headwise.whole import check_whole, is_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FARTHEST = 1e6  # pixels; beyond it coordinates are no pixels, and the fill would overflow


def check_options(size: int | tuple[int, int], num_disks: int, expand: float, shrink: int) -> tuple[int, int]:
    """Return height and width of the maps; options out of range are a ValueError."""
    sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size, size]
    check_whole("encode_snakes", 0, shrink=shrink)
    check_whole("encode_snakes", num_disks=num_disks)
    rules = {
        f"size must be positive, a whole number or height and width, found {size!r}": len(sides) == 2
        and all(is_whole(side, 1) for side in sides),
        f"num_disks must exceed 2 * shrink = {2 * shrink}, found {num_disks}": num_disks > 2 * shrink,
        f"expand must be in (0, 1], found {expand}": 0 < expand <= 1,
    }
    for message, holds in rules.items():
        if not holds:
            raise ValueError(f"encode_snakes: {message}.")
    return int(sides[0]), int(sides[1])


def check_outlines(
    polygons: Sequence[Sequence[Tensor | npt.NDArray[np.generic]]], ignored: Sequence[Sequence[bool]]
) -> list[list[npt.NDArray[np.float64]]]:
    """Return the outlines as float64 (v, 2) arrays; a bad one is a ValueError naming image and polygon."""
    if len(polygons) != len(ignored):
        raise ValueError(
            f"encode_snakes: polygons has {len(polygons)} images, ignored has {len(ignored)}. Give one list per image."
        )
    for image, (words, flags) in enumerate(zip(polygons, ignored, strict=True)):
        if len(words) != len(flags):
            found = f"{len(words)} polygons, {len(flags)} ignored flags"
            raise ValueError(f"image {image}: {found}. Give one flag per polygon.")
        kinds = {type(flag).__name__ for flag in flags if not _is_flag(flag)}
        if kinds:
            raise ValueError(f"image {image}: ignored holds one bool per polygon, found {kinds.pop()}. Convert it.")
    return [[_check_outline(word, i, k) for k, word in enumerate(words)] for i, words in enumerate(polygons)]


def _is_flag(value: object) -> bool:
    """Whether it is true or false, and no number or text that Python would take for one of them."""
    import numpy as np

    return isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype == torch.bool)


def _check_outline(word: Tensor | npt.NDArray[np.generic], image: int, index: int) -> npt.NDArray[np.float64]:
    import numpy as np

    where = f"image {image}, polygon {index}"
    points = np.asarray(word.detach().cpu() if isinstance(word, Tensor) else word, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError(f"{where}: an outline is (v, 2) with v >= 3, found shape {points.shape}. Remove or mend it.")
    if not (np.abs(points) <= FARTHEST).all():
        worst = points[int((~(np.abs(points) <= FARTHEST)).any(axis=1).argmax())].tolist()
        raise ValueError(
            f"{where}: coordinates are finite pixels within 1e6, found {worst}. Remove or mend the polygon."
        )
    return points


def check_maps(outputs: Mapping[str, Tensor]) -> Tensor:
    """Return ``maps`` as float32 on the CPU; another shape or values that are not finite are a ValueError."""
    if not isinstance(outputs, Mapping):
        raise ValueError(f"decode_snakes: outputs are {{'maps': tensor}}, found a {type(outputs).__name__}.")
    if "maps" not in outputs:
        raise ValueError(f"decode_snakes: no output 'maps'. The network returned: {', '.join(outputs) or 'nothing'}.")
    maps = outputs["maps"].detach().float().cpu()
    if maps.ndim != 4 or maps.shape[1] != 7:
        raise ValueError(f"decode_snakes: 'maps' must be (N, 7, H, W), found shape {tuple(maps.shape)}.")
    broken = ~maps.isfinite()
    if broken.any():
        image, channel = broken.nonzero()[0, :2].tolist()
        raise ValueError(
            f"decode_snakes: 'maps' holds {int(broken.sum())} values that are not finite, the first in "
            f"image {image}, channel {channel}. The training diverged: decode an earlier checkpoint."
        )
    return maps


def check_thresholds(region: float, center_line: float, expand: float, min_area: float, max_steps: int) -> None:
    """Raise a ValueError for options out of range."""
    check_whole("decode_snakes", max_steps=max_steps)
    rules = {
        f"region_threshold must be in [0, 1], found {region}": 0 <= region <= 1,
        f"center_line_threshold must be in [0, 1], found {center_line}": 0 <= center_line <= 1,
        f"expand must be at least 0 and finite, found {expand}": 0 <= expand < math.inf,
        f"min_area must be at least 0, found {min_area}": min_area >= 0,
    }
    for message, holds in rules.items():
        if not holds:
            raise ValueError(f"decode_snakes: {message}.")
