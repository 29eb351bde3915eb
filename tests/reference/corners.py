"""Targets of the corner family by loops over objects and cells, in float64 but for what the authors cut in float32."""

from __future__ import annotations

import math

import numpy as np


def radius(height, width, overlap, legacy=False):
    """The least root of three quadratics; as published with the roots divided by 2 instead of 2 a."""
    # The order of the factors is theirs: a radius is cut to a whole number.
    spare, total = (1 - overlap) * width * height, height + width
    one = (1, -total, spare / (1 + overlap), -1)
    inside = (4, -2 * total, spare, -1)
    outside = (4 * overlap, 2 * overlap * total, -spare, 1)
    found = []
    for a, b, c, sign in (one, inside, outside):
        root = math.sqrt(max(b * b - 4 * a * c, 0.0))
        if legacy:
            # Theirs writes the third with the other sign of b, and always adds.
            found.append((-b + root) / 2)
        else:
            found.append((-b + sign * root) / (2 * a))
    return min(found)


def bump(size, x, y, r, sigmas=6):
    """One map with one bump, cell by cell."""
    sigma = (2 * r + 1) / sigmas
    cells = np.zeros(size)
    for row, column in np.ndindex(*size):
        if abs(row - y) <= r and abs(column - x) <= r:
            cells[row, column] = math.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * sigma**2))
    return cells


def cut(value, num_pixels, num_cells):
    """Cell and offset of one coordinate."""
    exact = np.float32(value) * np.float32(num_cells / num_pixels)
    cell = min(int(exact), num_cells - 1)
    return cell, float(exact) - cell


def encode(boxes, labels, image, grid, num_classes, overlap, legacy=False, center=False):
    """Heat maps by name, and per image and object the cells and offsets by name; boxes lie in the picture."""
    points = ("top_left", "bottom_right", "center")[: 3 if center else 2]
    maps = {name: np.zeros((len(boxes), num_classes, *grid)) for name in points}
    places: list[list[dict[str, tuple[int, tuple[float, float]]]]] = []
    for number, (table, classes) in enumerate(zip(boxes, labels, strict=True)):
        places.append([])
        for (x1, y1, x2, y2), label in zip(np.asarray(table, np.float32), classes, strict=True):
            if x2 <= x1 or y2 <= y1:
                continue
            sides = [np.float32(y2 - y1), np.float32(x2 - x1)]
            height, width = (math.ceil(s * np.float32(g / i)) for s, g, i in zip(sides, grid, image, strict=True))
            r = int(radius(height, width, overlap, legacy))
            corners = {"top_left": (x1, y1), "bottom_right": (x2, y2), "center": ((x1 + x2) / 2, (y1 + y2) / 2)}
            placed = {}
            for name in points:
                (x, off_x), (y, off_y) = (cut(corners[name][i], image[1 - i], grid[1 - i]) for i in (0, 1))
                one = bump(grid, x, y, r, 5 if name == "center" else 6)
                maps[name][number, label] = np.maximum(maps[name][number, label], one)
                placed[name] = (y * grid[1] + x, (off_x, off_y))
            places[-1].append(placed)
    return maps, places
