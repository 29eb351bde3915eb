"""Text as a string of discs: outlines of words to targets, and seven maps back to outlines (TextSnake)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headwise.coders.snake_checks import check_maps, check_options, check_outlines, check_thresholds
from headwise.require import require

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from headwise.coders.snake_geometry import Snake
    from headwise.coders.snake_walk import Word

THINNEST_RADIUS = 0.5  # pixels; a thinner disc has no pixel of its own, and its relative radius error explodes


@dataclass(frozen=True)
class _Style:
    """How words are drawn: the options of ``encode_snakes``, and the least radius that is drawn."""

    num_disks: int
    expand: float
    shrink: int
    thinnest: float
    canonical_direction: bool
    published_ends: bool
    integer_points: bool


def encode_snakes(
    polygons: Sequence[Sequence[Tensor | npt.NDArray[np.generic]]],
    ignored: Sequence[Sequence[bool]],
    *,
    size: int | tuple[int, int],
    num_disks: int = 15,
    expand: float = 0.3,
    shrink: int = 1,
    as_published: bool = False,
    canonical_direction: bool | None = None,
    published_ends: bool | None = None,
    integer_points: bool | None = None,
) -> dict[str, Tensor]:
    """Draw text region, center line and its geometry from the outlines of words.

    Each outline is cut into two long sides, each side into ``num_disks`` equal parts; opposite points p, q
    give a disc with center c = (p + q) / 2 and radius ``r = |p - q| / 2``. The center line is the quadrilaterals
    c_i + expand (p_i - c_i), c_i + expand (q_i - c_i), and the same at i + 1, where sin, cos are those of
    c_{i+1} - c_i and the radius is r_i. The first and last ``shrink`` parts carry no center line. Where words
    overlap, the later one in the list is drawn over the earlier.

    Args:
        polygons: per image a list of (v, 2) outlines (x, y) in pixels, v >= 3, either way round, starting
            anywhere. Parts outside the image are cut off.
        ignored: per image one flag per outline: a region that counts in no term ('#' in Total-Text).
        size: height and width of the maps, or one number for both.
        num_disks: equal parts of each long side, > 2 * shrink.
        expand: half the width of the center line as a share of the radius, in (0, 1].
        shrink: parts without center line at each end, >= 0.
        as_published: reproduce the authors' targets; sets the default of the three switches below.
        canonical_direction: let sin, cos point in reading direction (to +x, or +y where the line is steep)
            instead of wherever the first vertex leads.
        published_ends: find the two short ends by the authors' rules, and fill the outline without the
            vertices that they drop.
        integer_points: truncate the vertices to whole pixels, and take the border's pixels in. Otherwise a
            pixel belongs to a region where its center does.

    Returns:
        ``text_region``, ``center_line``, ``valid``: (N, H, W) bool; ``sin``, ``cos``, ``radius`` (pixels):
        (N, H, W) float32, 0 outside the center line. ``valid`` is False in ignored regions.

    Raises:
        ValueError: lists of different length, an outline that is not (v, 2), whose vertices lie on a line
            (unless it is ignored), or coordinates that are not finite or beyond 1e6; options out of
            range.

    Reference:
        Long et al., TextSnake, ECCV 2018, section 3.4; princewang1994/TextSnake.pytorch at b4ee996d,
        dataset/dataload.py and util/misc.py.

    Differs:
        By default (1) the direction does not depend on the vertex order, so that it is theta and never
        theta + pi; (2) the ends are found for triangles, regular polygons and finely drawn outlines, on
        which the original stops or leaves four neighboring vertices; (3) coordinates stay real numbers; (4)
        parts of the line of radius below half a pixel, where the original divides by 0, are left out.
    """
    _modules()
    height, width = check_options(size, num_disks, expand, shrink)
    outlines = check_outlines(polygons, ignored)
    style = _Style(
        num_disks,
        expand,
        shrink,
        thinnest=0.0 if as_published else THINNEST_RADIUS,
        canonical_direction=not as_published if canonical_direction is None else canonical_direction,
        published_ends=as_published if published_ends is None else published_ends,
        integer_points=as_published if integer_points is None else integer_points,
    )
    maps = _blank_maps(len(outlines), height, width)
    for image, (words, flags) in enumerate(zip(outlines, ignored, strict=True)):
        pages = {name: page[image] for name, page in maps.items()}
        for index, (points, is_ignored) in enumerate(zip(words, flags, strict=True)):
            try:
                _draw_word(pages, points, is_ignored, style)
            except ValueError as error:
                remedy = "Remove the outline from the annotation, or mark it as ignored"
                raise ValueError(f"image {image}, polygon {index}: the outline {error}. {remedy}.") from error
    return _to_targets(maps)


def decode_snakes(
    outputs: Mapping[str, Tensor],
    *,
    region_threshold: float = 0.6,
    center_line_threshold: float = 0.4,
    expand: float = 0.3,
    within_region: bool = False,
    min_area: float = 0.0,
    max_steps: int = 200,
    merge: bool = False,
) -> list[dict[str, Any]]:
    """Read word outlines off the seven maps.

    Pixels over both thresholds form the center lines (holes filled). From a point inside each, a walk goes
    both ways: move to the middle along the normal, note a disc, step half a radius along the direction (less
    near the end). The discs, widened by 1 + expand, are the word; it is kept if at least half of it is text
    region.

    Args:
        outputs: ``maps`` (N, 7, H, W): logits of text region and center line (background, text each), sin,
            cos, radius in pixels. Further keys are not read.
        region_threshold: least probability of text region, in [0, 1].
        center_line_threshold: least probability of center line, in [0, 1].
        expand: share by which each disc is widened, >= 0.
        within_region: cut the widened discs to the text region, so that the outline follows its edge.
        min_area: least area of a center line in pixels, measured inside the centers of its border pixels. A
            line one pixel wide has none and is never walked.
        max_steps: most steps of a walk in either direction.
        merge: join words where the line of one, carried on past an end, enters another.

    Returns:
        Per image, the best score first: ``polygons``: list of (v, 2) float32 outlines (x, y) through the
        centers of border pixels; ``scores``: (n,) float32 in [0, 1], the mean probability of text over the
        word; ``disks``: list of (m, 3) float32 x, y, radius (not widened) along the line.

    Raises:
        ValueError: no ``maps`` of that shape, values that are not finite, or options out of range.

    Reference:
        Long et al., TextSnake, ECCV 2018, section 3.3; princewang1994/TextSnake.pytorch at b4ee996d,
        util/detection.py, thresholds of util/config.py.

    Differs:
        Detections are sorted and scored. Direction and radius are read on the center line only, where the
        original may read a pixel beside it, at which nothing was trained. A direction of length 0 means +x, and
        a radius below 1 steps as 1, where the original divides by 0 or stands still for 200 steps. Joined words
        are redrawn from all their discs.
    """
    _, walk = _modules()
    maps = check_maps(outputs)
    check_thresholds(region_threshold, center_line_threshold, expand, min_area, max_steps)
    drawing = {"expand": expand, "within_region": within_region}
    results = []
    for image in maps:
        probability = torch.sigmoid(image[1] - image[0]).numpy()
        region = probability > region_threshold
        line = region & (torch.sigmoid(image[3] - image[2]).numpy() > center_line_threshold)
        geometry = walk.Geometry.from_maps(line, *image[4:7].numpy())
        disks = walk.find_center_lines(geometry, min_area=min_area, max_steps=max_steps)
        words = walk.draw_words(disks, region, probability, **drawing)
        if merge:
            words = walk.draw_words(walk.group_words(words), region, probability, **drawing)
        results.append(_to_annotation(words))
    return results


def _modules() -> tuple[Any, Any]:
    require("coders.snakes", "coders")
    from headwise.coders import snake_geometry, snake_walk

    return snake_geometry, snake_walk


def _blank_maps(num_images: int, height: int, width: int) -> dict[str, npt.NDArray[Any]]:
    import numpy as np

    shape = num_images, height, width
    masks = {name: np.zeros(shape, np.uint8) for name in ("text_region", "ignored", "center_line")}
    return masks | {name: np.zeros(shape, np.float32) for name in ("sin", "cos", "radius")}


def _fill(mask: npt.NDArray[Any], points: npt.NDArray[np.float64], as_integers: bool) -> None:
    import cv2
    import numpy as np
    import skimage.draw

    if as_integers:
        cv2.fillPoly(mask, [points.astype(np.int32)], (1,))
    else:
        # OpenCV moves edges by a pixel where a word crosses the border; this fill tests each pixel center.
        fill_pixels: Any = skimage.draw.polygon
        mask[fill_pixels(points[:, 1], points[:, 0], mask.shape)] = 1


def _draw_word(
    pages: dict[str, npt.NDArray[Any]], points: npt.NDArray[np.float64], is_ignored: bool, style: _Style
) -> None:
    import numpy as np

    from headwise.coders.snake_geometry import fit_snake, prune_published

    points = np.trunc(points) if style.integer_points else points
    outline = prune_published(points) if style.published_ends else points
    _fill(pages["text_region"], outline, style.integer_points)
    if is_ignored:
        _fill(pages["ignored"], outline, style.integer_points)
        return
    snake = fit_snake(
        points,
        style.num_disks,
        published_ends=style.published_ends,
        canonical_direction=style.canonical_direction,
    )
    _draw_center_line(pages, snake, style)


def _draw_center_line(pages: dict[str, npt.NDArray[Any]], snake: Snake, style: _Style) -> None:
    import numpy as np
    import skimage.draw

    fill_pixels: Any = skimage.draw.polygon
    first = snake.centers + style.expand * (snake.first_side - snake.centers)
    second = snake.centers + style.expand * (snake.second_side - snake.centers)
    steps = np.diff(snake.centers, axis=0)
    lengths = np.sqrt((steps**2).sum(axis=1))
    for i in range(style.shrink, len(steps) - style.shrink):
        if lengths[i] == 0 or snake.radii[i] < style.thinnest:
            continue
        corners = np.stack([first[i], second[i], second[i + 1], first[i + 1]])
        rows, columns = fill_pixels(corners[:, 1], corners[:, 0], pages["center_line"].shape)
        cos, sin = steps[i] / lengths[i]
        for name, value in {"center_line": 1, "sin": sin, "cos": cos, "radius": snake.radii[i]}.items():
            pages[name][rows, columns] = value


def _to_targets(maps: dict[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    targets = {name: torch.from_numpy(maps[name]).bool() for name in ("text_region", "center_line")}
    targets |= {name: torch.from_numpy(maps[name]) for name in ("sin", "cos", "radius")}
    return targets | {"valid": torch.from_numpy(maps["ignored"] == 0)}


def _to_annotation(words: list[Word]) -> dict[str, Any]:
    ranked = sorted(words, key=lambda word: -word.score)
    return {
        "polygons": [torch.from_numpy(word.polygon).float() for word in ranked],
        "scores": torch.tensor([word.score for word in ranked], dtype=torch.float32),
        "disks": [torch.from_numpy(word.disks).float() for word in ranked],
    }
