"""TextSnake's targets the slow way: scalar loops over discs, and a point-in-polygon test for every pixel."""

import math
from itertools import pairwise


def resample(chain, parts):
    """Points at equal distances along a chain, by walking it."""
    lengths = [math.dist(a, b) for a, b in pairwise(chain)]
    points = [chain[0]]
    for k in range(1, parts):
        left = sum(lengths) * k / parts
        piece = 0
        while left > lengths[piece]:
            left -= lengths[piece]
            piece += 1
        share = left / lengths[piece]
        (ax, ay), (bx, by) = chain[piece], chain[piece + 1]
        points.append((ax + share * (bx - ax), ay + share * (by - ay)))
    return [*points, chain[-1]]


def inside(corners, x, y):
    """Is the point inside a convex quadrilateral, by the signs of four cross products?"""
    signs = []
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        signs.append((bx - ax) * (y - ay) - (by - ay) * (x - ax))
    return min(signs) > 0 or max(signs) < 0


def center_line(first_chain, second_chain, size, num_disks=15, expand=0.3, shrink=1):
    """{(x, y): (sin, cos, radius)} of all pixels on the center line between two long sides."""
    sides = list(zip(resample(first_chain, num_disks), resample(second_chain, num_disks), strict=True))
    centers = [((ax + bx) / 2, (ay + by) / 2) for (ax, ay), (bx, by) in sides]
    pixels = {}
    for i in range(shrink, num_disks - shrink):
        band = []
        for k, order in ((i, 1), (i + 1, -1)):
            cx, cy = centers[k]
            band += [(cx + expand * (px - cx), cy + expand * (py - cy)) for px, py in sides[k][::order]]
        angle = math.atan2(centers[i + 1][1] - centers[i][1], centers[i + 1][0] - centers[i][0])
        radius = math.dist(*sides[i]) / 2
        for y in range(size):
            for x in range(size):
                if inside(band, x, y):
                    pixels[x, y] = (math.sin(angle), math.cos(angle), radius)
    return pixels
