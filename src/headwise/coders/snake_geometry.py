"""From the outline of a word to its center line: two long sides, and discs between their opposite points.

Pure NumPy in float64; points are (x, y) in pixels. ``snakes.encode_snakes`` draws what is found here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from headwise.require import missing

try:
    import numpy as np
    import numpy.typing as npt
except ImportError as error:
    raise missing("headwise.coders.snake_geometry", "coders", error) from error


Points: TypeAlias = npt.NDArray[np.float64]
Edge: TypeAlias = tuple[int, int]
Ends: TypeAlias = tuple[Edge, Edge]

NEGLIGIBLE_AREA = 0.017  # share of the polygon's area below which the authors drop a vertex
TURNS_BACK = -0.7  # cosine between the two neighbors of an edge below which the edge closes a word
TIE = 1e-6  # relative difference below which two choices are a tie
# Reading goes to the right, and downwards where a line is steeper than about 75 degrees.
READING_DIRECTION = (float(np.cos(np.pi / 12)), float(np.sin(np.pi / 12)))


@dataclass(frozen=True)
class Snake:
    """A word as a string of discs, in reading order.

    Attributes:
        first_side: (num_disks + 1, 2) points of one long side, equally spaced along it.
        second_side: (num_disks + 1, 2) points of the other, opposite to those of the first.
        centers: (num_disks + 1, 2) midpoints of opposite points.
        radii: (num_disks + 1,) half their distance.
    """

    first_side: Points
    second_side: Points
    centers: Points
    radii: npt.NDArray[np.float64]

    def reversed(self) -> Snake:
        """The same discs, read from the other end."""
        return Snake(self.first_side[::-1], self.second_side[::-1], self.centers[::-1], self.radii[::-1])


def fit_snake(points: Points, num_disks: int, *, published_ends: bool, canonical_direction: bool) -> Snake:
    """Lay discs along the word that a polygon encloses.

    Args:
        points: (v, 2) vertices in order, either way round.
        num_disks: number of equal parts of each long side.
        published_ends: drop vertices and choose the two short ends as the authors' code does; otherwise by
            the mended rules, which do not depend on the first vertex or the sense of rotation.
        canonical_direction: let the line run in reading direction (rightwards; downwards where it is steep).

    Returns:
        The discs.

    Raises:
        ValueError: the published rule finds no two separate ends, or all vertices lie on a line.
    """
    if published_ends:
        outline = prune_published(points)
        ends = find_ends_published(outline)
    else:
        outline = canonical_order(drop_repeats(points))
        corners = find_corners(outline)
        (a, b), (c, d) = find_ends(outline[corners])
        ends = (corners[a], corners[b]), (corners[c], corners[d])
    snake = _between(outline, ends, num_disks)
    if canonical_direction and (snake.centers[-1] - snake.centers[0]) @ READING_DIRECTION < 0:
        return snake.reversed()
    return snake


def polygon_area(points: Points) -> float:
    """Area enclosed by a polygon (shoelace formula), in pixels."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def drop_repeats(points: Points) -> Points:
    """Drop each vertex that repeats the one before it.

    Args:
        points: (v, 2) vertices.

    Returns:
        (u, 2) vertices, u >= 3, neighbors distinct.

    Raises:
        ValueError: all vertices lie on a line.
    """
    length, breadth = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if breadth <= TIE * length:
        raise ValueError(f"has no area: its {len(points)} vertices lie on a line or coincide")
    kept = points[np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1) > TIE * length]
    return np.asarray(kept)


def canonical_order(points: Points) -> Points:
    """Start at the leftmost (then topmost) vertex and go round towards its smaller neighbor.

    Every rotation and reversal of one polygon gives the same array to the bit, and with it the same targets.
    """
    start = min(map(tuple, points.tolist()))
    offsets = [i for i, point in enumerate(points.tolist()) if tuple(point) == start]
    turns = [np.roll(points, -i, axis=0) for i in offsets]
    turns += [np.roll(turn[::-1], 1, axis=0) for turn in turns]
    return min(turns, key=lambda turn: turn.tolist())


def find_corners(points: Points) -> list[int]:
    """Indices of the vertices left when the least important go, one by one, for 1.7 % of the area in all.

    The authors judge each vertex against the whole polygon, so that of a finely drawn outline nothing but
    four neighboring vertices is left. Here the changes add up.
    """
    kept = list(range(len(points)))
    budget = NEGLIGIBLE_AREA * polygon_area(points)
    while len(kept) > 4:
        corners = points[kept]
        before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
        changes = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) / 2
        least = int(changes.argmin())
        budget -= changes[least]
        if budget < 0:
            break
        del kept[least]
    return kept


def prune_published(points: Points) -> Points:
    """Drop each vertex whose removal alone changes the area by less than 1.7 %, down to four vertices."""
    total = polygon_area(points)
    if len(points) <= 4 or total == 0:
        return points
    kept = list(range(len(points)))
    for i in range(len(points)):
        change = abs(total - polygon_area(np.delete(points, i, axis=0)))
        if change / total < NEGLIGIBLE_AREA and len(kept) > 4:
            kept.remove(i)
    return points[kept]


def find_ends(points: Points) -> Ends:
    """Choose the two edges where the word begins and ends.

    Four vertices: the shorter pair of opposite edges. More: of the edges whose neighbors turn back (of all
    edges, if no two of these are apart) the two farthest. Three: the shortest edge and the vertex opposite to
    it. Among equals, the choice whose line is most level.

    Args:
        points: (v, 2) vertices, v >= 3.

    Returns:
        The two edges as index pairs; the end of a triangle opposite to its shortest edge is one vertex, twice.
    """
    num = len(points)
    edges = [(i, (i + 1) % num) for i in range(num)]
    if num <= 4:
        opposite = [(edges[i], ((i + 2) % num, (i + num - 1) % num)) for i in range(3 if num == 3 else 2)]
        return _best(points, opposite, [-_total_length(points, pair) for pair in opposite])
    pairs = list(_apart(_turning_edges(points))) or list(_apart(edges))
    return _best(points, pairs, [float(np.linalg.norm(_chord(points, pair))) for pair in pairs])


def find_ends_published(points: Points) -> Ends:
    """Choose the two ends as the authors' code does.

    Args:
        points: (v, 2) vertices, v >= 4.

    Returns:
        The two edges as index pairs.

    Raises:
        ValueError: the two edges found touch or coincide, where the authors' code stops with an IndexError.
    """
    num = len(points)
    if num == 4:
        level, upright = ((0, 1), (2, 3)), ((1, 2), (3, 0))
        return level if _total_length(points, level) < _total_length(points, upright) else upright
    turning = _turning_edges(points) if num > 4 else []
    if len(turning) == 2 and _touch_free(turning[0], turning[1]):
        return turning[0], turning[1]
    middles = (points + np.roll(points, -1, axis=0)) / 2
    distances = np.linalg.norm(middles[:, None] - middles[None, :], axis=-1).ravel()
    # Both orders of the farthest pair rank last, and the first edge of each is read; a tie mixes two pairs.
    first, second = (int(i) // num for i in np.argsort(distances, kind="stable")[-2:])
    ends = (first, (first + 1) % num), (second, (second + 1) % num)
    if num < 4 or not _touch_free(*ends):
        raise ValueError(f"has no two separate ends by the published rule (edges {first} and {second} of {num})")
    return ends


def _turning_edges(points: Points) -> list[Edge]:
    steps = np.roll(points, -1, axis=0) - points
    before, after = np.roll(steps, 1, axis=0), np.roll(steps, -1, axis=0)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    back = (before * after).sum(axis=1) < TURNS_BACK * lengths
    # The authors begin with the edge after the first: the order decides which long side comes first.
    return [(int(i), int(i + 1) % len(points)) for i in np.roll(np.arange(len(points)), -1) if back[i]]


def _touch_free(first: Edge, second: Edge) -> bool:
    return not set(first) & set(second)


def _apart(edges: list[Edge]) -> Iterator[Ends]:
    for i, first in enumerate(edges):
        yield from ((first, second) for second in edges[i + 1 :] if _touch_free(first, second))


def _chord(points: Points, ends: Ends) -> Points:
    (a, b), (c, d) = ends
    return np.asarray(points[c] + points[d] - points[a] - points[b]) / 2


def _total_length(points: Points, ends: Ends) -> float:
    return float(sum(np.sqrt(((points[a] - points[b]) ** 2).sum()) for a, b in ends))


def _best(points: Points, choices: list[Ends], scores: list[float]) -> Ends:
    margin = TIE * max(abs(score) for score in scores)
    equals = [pair for pair, score in zip(choices, scores, strict=True) if score >= max(scores) - margin]
    return max(equals, key=lambda pair: abs(_chord(points, pair)[0]))


def _between(points: Points, ends: Ends, num_disks: int) -> Snake:
    (first_start, first_end), (second_start, second_end) = ends
    first = _resample(_chain(points, first_end, second_start), num_disks)
    second = _resample(_chain(points, second_end, first_start), num_disks)[::-1]
    centers = (first + second) / 2
    return Snake(first, second, centers, np.sqrt(((first - centers) ** 2).sum(axis=1)))


def _chain(points: Points, start: int, stop: int) -> Points:
    return points[(start + np.arange((stop - start) % len(points) + 1)) % len(points)]


def _resample(chain: Points, parts: int) -> Points:
    lengths = np.sqrt((np.diff(chain, axis=0) ** 2).sum(axis=1))
    reached = np.concatenate([[0.0], np.cumsum(lengths)])
    stations = np.arange(1, parts) * (reached[-1] / parts)
    # min: the last station may lie past the end by a rounding
    piece = np.minimum(np.searchsorted(reached[1:], stations, side="left"), len(lengths) - 1)
    share = (stations - reached[piece]) / np.where(lengths[piece] > 0, lengths[piece], 1)
    inner = chain[piece] + share[:, None] * (chain[piece + 1] - chain[piece])
    return np.concatenate([chain[:1], inner, chain[-1:]])
