"""Losses beyond vision once more, slowly: NumPy float64, loops over tokens, atoms and pairs, no shared code."""

import math

import numpy as np


def _logsumexp(numbers):
    largest = max(numbers)
    return math.log(sum(math.exp(number - largest) for number in numbers)) + largest


def _places(shape, mask):
    return [place for place in np.ndindex(*shape) if mask is None or mask[place] > 0]


def token_cross_entropy(output, target, mask=None, *, ignore_index=-100):
    total = 0.0
    for place in _places(target.shape, mask):
        if target[place] != ignore_index:
            total += _logsumexp(output[place]) - output[place][int(target[place])]
    return total


def _shares(logits, top_k):
    """Over some tokens: how often each expert is chosen a token, and its mean probability."""
    chosen, probability = np.zeros(logits.shape[1]), np.zeros(logits.shape[1])
    for token in logits:
        for expert in sorted(range(len(token)), key=lambda e: -token[e])[:top_k]:
            chosen[expert] += 1 / len(logits)
        probability += np.exp(token - _logsumexp(token)) / len(logits)
    return chosen, probability


def load_balance(output, target, mask=None, *, top_k=1, per_sequence=False):
    groups = range(len(target)) if per_sequence else [None]
    total = 0.0
    for group in groups:
        tokens = [output[p] for p in _places(target.shape, mask) if group is None or p[0] == group]
        if tokens:
            chosen, probability = _shares(np.array(tokens), top_k)
            total += len(tokens) * output.shape[-1] * float((chosen / top_k) @ probability)
    return total


def published_load_balance(routers, target, mask=None, *, top_k=2):
    places = _places(target.shape, mask)
    tokens = [router[place] for router in routers for place in places]
    chosen, probability = _shares(np.array(tokens), top_k)
    return len(places) * routers[0].shape[-1] * float(chosen @ probability)


def router_z(output, target, mask=None):
    return sum(_logsumexp(output[place]) ** 2 for place in _places(target.shape, mask))


def policy_gradient(output, target, mask=None):
    return sum(-target[place] * output[place] for place in _places(output.shape, mask))


def clipped_policy_gradient(output, target, before, mask=None, *, clip=0.2):
    total = 0.0
    for place in _places(output.shape, mask):
        ratio = math.exp(output[place] - before[place])
        total -= min(target[place] * ratio, target[place] * min(max(ratio, 1 - clip), 1 + clip))
    return total


def entropy_bonus(output, target, mask=None):
    return -sum(output[place] for place in _places(output.shape, mask))


def squared_distance(output, target, mask=None):
    return sum(
        (output[place][d] - target[place][d]) ** 2
        for place in _places(output.shape[:-1], mask)
        for d in range(output.shape[-1])
    )


def per_atom_squared_error(output, target, atoms, mask=None):
    total = 0.0
    for i in _places(output.shape, mask):
        total += ((output[i] - target[i]) / max(sum(a > 0 for a in atoms[i[0]]), 1)) ** 2
    return total


def one_sided_squared_error(output, held, target):
    return sum(
        np.mean([(a - b) ** 2 for a, b in zip(x.flat, y.flat, strict=True)]) for x, y in zip(output, held, strict=True)
    )


def discriminator_hinge(output, target, *, real):
    sign = 1 if real else -1
    return sum(np.mean([max(0.0, 1 - sign * logit) for logit in image.flat]) for image in output)


def generator_hinge(output, target):
    return -sum(np.mean(image) for image in output)


def contrastive(query, key, log_scale, target, mask=None):
    pairs = [i for (i,) in _places(target.shape, mask)]
    scale, total = math.exp(float(log_scale)), 0.0
    for i in pairs:
        total += _logsumexp([scale * float(query[i] @ key[j]) for j in pairs]) - scale * float(query[i] @ key[i])
    return total
