"""Corners to boxes the slow way: loops over pixels and pairs, NumPy float64."""

import numpy as np


def peaks(logits, num_peaks, kernel_size=3):
    """(logit, class, y, x) of pixels that nothing around exceeds, nor equals before them in reading order."""
    reach, found = kernel_size // 2, []
    for (c, y, x), value in np.ndenumerate(logits):
        beaten = False
        for v in range(max(0, y - reach), min(logits.shape[1], y + reach + 1)):
            for u in range(max(0, x - reach), min(logits.shape[2], x + reach + 1)):
                beaten |= logits[c, v, u] > value or (logits[c, v, u] == value and (v, u) < (y, x))
        if not beaten:
            found.append((value, c, y, x))
    return sorted(found, reverse=True)[:num_peaks]


def decode(stack, image, num_peaks, image_size, threshold, kernel_size=3):
    """Rows x1, y1, x2, y2, score, class, best first, of one image."""
    maps = {name: np.asarray(values[image], np.float64) for name, values in stack.items()}
    grid = maps["top_left_heatmap"].shape[1:]
    pixels = np.array([image_size[1] / grid[1], image_size[0] / grid[0]] * 2)
    kinds = ("top_left", "bottom_right")
    corners = {kind: peaks(maps[f"{kind}_heatmap"], num_peaks, kernel_size) for kind in kinds}
    rows = []
    for first, c, y, x in corners["top_left"]:
        for second, d, v, u in corners["bottom_right"]:
            dx, dy = maps["top_left_offset"][:, y, x]
            du, dv = maps["bottom_right_offset"][:, v, u]
            apart = abs(maps["top_left_embedding"][0, y, x] - maps["bottom_right_embedding"][0, v, u])
            box = np.array([x + dx, y + dy, u + du, v + dv])
            if c == d and apart <= threshold and box[2] >= box[0] and box[3] >= box[1]:
                score = (1 / (1 + np.exp(-first)) + 1 / (1 + np.exp(-second))) / 2
                rows.append([*(box * pixels), score, c])
    return np.array(sorted(rows, key=lambda row: -row[4])).reshape(-1, 6)


def overlap(a, b, one=0.0):
    """Intersection over union of two boxes, their sides longer by ``one``."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + one
    height = min(a[3], b[3]) - max(a[1], b[1]) + one
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(c[2] - c[0] + one) * (c[3] - c[1] + one) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def soft_nms(boxes, scores, labels, method, sigma, iou_threshold, cut, one=0.0, corner_scores=None, exponent=None):
    """(row, score, box), best first: pairs of one class only, one box at a time."""
    left, kept = {row: float(score) for row, score in enumerate(scores)}, []
    while left:
        best = max(left, key=lambda row: left[row])
        score = left.pop(best)
        box = np.array(boxes[best], np.float64)
        totals = np.repeat(corner_scores[best], 2).astype(np.float64) if exponent else np.ones(4)
        merged = box * totals
        for row in list(left):
            o = overlap(boxes[best], boxes[row], one) if labels[row] == labels[best] else 0.0
            if o <= 0:
                continue
            hit = o > iou_threshold
            weight = {"exponential": np.exp(-o * o / sigma), "linear": 1 - o * hit, "hard": 1.0 - hit}[method]
            if exponent:
                share = np.repeat(corner_scores[row], 2) * (1 - weight) ** exponent
                merged, totals = merged + np.asarray(boxes[row]) * share, totals + share
            left[row] *= weight
            if left[row] < cut:
                del left[row]
        kept.append((best, score, merged / totals))
    return sorted(kept, key=lambda each: -each[1])
