"""The losses once more, slowly: NumPy float64, loops over elements, no shared code."""

import math

import numpy as np


def _kept(mask, index):
    return mask is None or bool(mask[index] > 0)


def _spread(mask, output):
    """A mask without channels, repeated over dimension 1."""
    if mask is None or mask.ndim == output.ndim:
        return mask
    return np.repeat(np.expand_dims(mask, 1), output.shape[1], axis=1)


def _smooth(difference, beta):
    size = abs(difference)
    return difference * difference / (2 * beta) if size < beta else size - beta / 2


def _class_loss(logits, label):
    largest = max(logits)
    return math.log(sum(math.exp(logit - largest) for logit in logits)) + largest - logits[label]


def cross_entropy(output, target, mask=None, *, ignore_index=None):
    total = 0.0
    for index in np.ndindex(target.shape):
        label = int(target[index])
        if _kept(mask, index) and label != ignore_index:
            total += _class_loss([float(output[(index[0], c, *index[1:])]) for c in range(output.shape[1])], label)
    return total


def mask_cross_entropy(output, target, mask=None):
    return cross_entropy(output, target > 0, mask)


def mined_negatives(losses, positive, negative, ratio=3.0, num_fallback=100):
    """Flat positions of the hardest negatives, equals in order of position, by Python's stable sort."""
    candidates = [i for i in range(losses.size) if negative.flat[i]]
    num_positives = int(positive.sum())
    wanted = int(ratio * num_positives) if num_positives > 0 else num_fallback
    ranked = sorted(candidates, key=lambda i: -losses.flat[i])
    return ranked[: min(wanted, len(candidates))]


def hard_negative_cross_entropy(output, target, mask=None, *, ratio=3.0, num_fallback=100, per_image=False):
    if per_image:
        return sum(
            hard_negative_cross_entropy(
                output[i : i + 1],
                target[i : i + 1],
                None if mask is None else mask[i : i + 1],
                ratio=ratio,
                num_fallback=num_fallback,
            )
            for i in range(len(target))
        )
    losses = np.zeros(target.shape)
    for index in np.ndindex(target.shape):
        if _kept(mask, index):
            logits = [float(output[(index[0], c, *index[1:])]) for c in range(output.shape[1])]
            losses[index] = _class_loss(logits, int(target[index]))
    valid = np.ones(target.shape, bool) if mask is None else mask > 0
    positive, negative = valid & (target > 0), valid & (target == 0)
    chosen = mined_negatives(losses, positive, negative, ratio, num_fallback)
    return float(losses[positive].sum() + sum(losses.flat[i] for i in chosen))


def _elementwise(output, target, mask, element):
    mask = _spread(mask, output)
    return sum(
        element(float(output[index]), float(target[index])) for index in np.ndindex(output.shape) if _kept(mask, index)
    )


def binary_cross_entropy(output, target, mask=None):
    def element(x, y):
        return max(x, 0.0) - x * y + math.log1p(math.exp(-abs(x)))

    return _elementwise(output, target, mask, element)


def squared_error(output, target, mask=None):
    return _elementwise(output, target, mask, lambda x, y: (x - y) ** 2)


def absolute_error(output, target, mask=None):
    return _elementwise(output, target, mask, lambda x, y: abs(x - y))


def smooth_l1(output, target, mask=None, *, beta=1.0):
    return _elementwise(output, target, mask, lambda x, y: _smooth(x - y, beta))


def relative_smooth_l1(output, target, mask=None, *, beta=1.0):
    return _elementwise(output, target, mask, lambda x, y: _smooth(x / y - 1, beta) if y > 0 else 0.0)


def direction_smooth_l1(output, target, mask=None, *, component, beta=1.0, eps=1e-6):
    total = 0.0
    for index in np.ndindex(target.shape):
        if _kept(mask, index):
            sin, cos = (float(output[(index[0], c, *index[1:])]) for c in (0, 1))
            length = math.sqrt(max(sin * sin + cos * cos, eps))
            total += _smooth((sin, cos)[component] / length - float(target[index]), beta)
    return total


def dice(output, target, mask=None, *, smooth=1.0):
    def probability(x):
        return 1 / (1 + math.exp(-x))

    both = _elementwise(output, target, mask, lambda x, y: probability(x) + y)
    product = _elementwise(output, target, mask, lambda x, y: probability(x) * y)
    return (both - 2 * product) / (both + smooth)


def gaussian_focal(output, target, mask=None, *, alpha=2.0, beta=4.0):
    mask, total = _spread(mask, output), 0.0
    for index in np.ndindex(output.shape):
        if not _kept(mask, index):
            continue
        logit, heat = float(output[index]), float(target[index])
        positive = heat >= 1
        margin = -logit if positive else logit
        wrong, right = 1 / (1 + math.exp(-margin)), 1 / (1 + math.exp(margin))
        total -= (1 if positive else (1 - heat) ** beta) * wrong**alpha * math.log(right)
    return total


def pull(left, right, left_index, right_index, mask):
    total = 0.0
    for image in range(len(mask)):
        slots = [k for k in range(mask.shape[1]) if mask[image, k] > 0]
        for k in slots:
            a, b = left[image].ravel()[left_index[image, k]], right[image].ravel()[right_index[image, k]]
            mean = (a + b) / 2
            total += ((a - mean) ** 2 + (b - mean) ** 2) / len(slots)
    return float(total)


def push(left, right, left_index, right_index, mask, *, margin=1.0):
    total = 0.0
    for image in range(len(mask)):
        means = [
            (left[image].ravel()[left_index[image, k]] + right[image].ravel()[right_index[image, k]]) / 2
            for k in range(mask.shape[1])
            if mask[image, k] > 0
        ]
        pairs = [(a, b) for i, a in enumerate(means) for j, b in enumerate(means) if i != j]
        total += sum(max(0.0, margin - abs(a - b)) for a, b in pairs) / max(len(pairs), 1)
    return float(total)


def gathered_smooth_l1(output, index, target, mask, *, beta=1.0):
    _, num_channels, _, width = output.shape
    return sum(
        _smooth(output[n, c, index[n, k] // width, index[n, k] % width] - target[n, k, c], beta)
        for n, k in np.ndindex(index.shape)
        for c in range(num_channels)
        if mask[n, k] > 0
    )
