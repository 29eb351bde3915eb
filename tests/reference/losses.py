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
