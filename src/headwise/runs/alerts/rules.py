"""The rules by which a term, a pair of terms and the total are judged, one logged step at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from headwise.runs.alerts.alert import PAIR, TOTAL, Alert
from headwise.runs.alerts.levels import Level, Shift, Streak

_VALUE_FACTOR = 2.5
_GRADIENT_FACTOR = 10.0
_SEEN_IN_TOTAL = 1.2
_DOMINANT_SHARE = 0.98
_DOMINANT_GRADIENT = 10.0
_FIGHT = -0.5
_DRIFT = 20.0
_UNBOOKED = 0.01
_STILL = 2e-6
"""A logged number has six digits."""


def say(number: float) -> str:
    """Returns a number as alerts print it."""
    return f"{number:.3g}"


def norm_of(term: Mapping[str, Any], unknown: float = math.nan) -> float:
    """Returns the norm of a term's gradient, or what stands for one that nobody knows."""
    return float(term.get("grad_norm", unknown))


class NotFinite:
    """A value that is not finite, at once; a gradient, two logged steps in a row: a loss scaler skips single ones."""

    def __init__(self) -> None:
        self._gradient = Streak(2, 1)
        self._value = Streak(1, 1)

    def see(self, step: int, name: str, term: Mapping[str, Any]) -> Iterator[Alert]:
        """Judges a term's step; see `Watch.see`."""
        value, norm = float(term["value"]), norm_of(term, 0.0)
        bad_value = not math.isfinite(value) or not math.isfinite(float(term["weight"]))
        bad_gradient = not bad_value and (not math.isfinite(norm) or not term.get("finite", True))
        if self._value.see(step, bad_value):
            said = f"Its value is {value}, its weight {term['weight']}."
            yield Alert(
                "not finite", name, step, step, said,
                "Look at its targets and mask at this step (a division by 0, the logarithm of 0, an overflow); "
                "on_nonfinite='drop' leaves its gradient out until then.",
            )  # fmt: skip
        if self._gradient.see(step, bad_gradient):
            where = [path for path, output in term.get("outputs", {}).items() if output.get("finite") is False]
            at = f" at {', '.join(where)}" if where else ""
            said = f"Its value {say(value)} is finite, its gradient{at} is not."
            yield Alert(
                "not finite", name, self._gradient.since, step, said,
                "Look for a root, a norm or a logarithm whose derivative has no value at 0, and add a small number "
                "inside it; on_nonfinite='drop' leaves its gradient out until then.",
            )  # fmt: skip


class Dead:
    """A gradient of 0, one below a thousandth of its level, or a value that stands still from one step to the next."""

    def __init__(self) -> None:
        self._zero, self._low, self._still = Streak(), Streak(), Streak()
        self._level = Level(_GRADIENT_FACTOR)
        self._values: deque[float] = deque(maxlen=12)
        self._first: list[float] = []
        self._moved = 0.0
        self._has_weight = False

    def see(self, step: int, name: str, term: Mapping[str, Any], all_still: bool) -> Iterator[Alert]:
        """Judges a term's step; `all_still` where the total stands still too."""
        value, norm, weight = float(term["value"]), norm_of(term), float(term["weight"])
        if not (math.isfinite(value) and math.isfinite(norm)):
            return
        self._has_weight |= weight != 0
        if self._zero.see(step, norm == 0 and (not term.get("trained", True) or self._counts(value))):
            yield self._at_zero(step, name, value, weight)
        sent, scale = _at_weight_1(norm, weight)
        fall = self._level.fallen(step, sent) if norm else None
        if self._low.see(step, fall is not None) and fall is not None:
            fell = f"from about {say(fall.before * scale)} to {say(norm)}"
            said = f"Its gradient norm fell {fell}, its value is {say(value)}."
            yield Alert(
                "dead", name, self._low.since, step, said,
                "Look at what changed in its output or its targets: an activation that saturates sends next to "
                "nothing.",
            )  # fmt: skip
        if fall is None and norm:
            self._level.see(step, sent)
        yield from self._stands(step, name, value, norm, all_still)
        if value:
            self._values.append(value)
            if len(self._first) < 10:
                self._first.append(abs(value))

    def _counts(self, value: float) -> bool:
        """Whether a gradient of 0 is a fault: not where a hinge has faded, nor where a weight was 0 from the start."""
        if not self._has_weight:
            return False
        if value != 0 or not self._first or self._zero.running:
            return True
        return median(map(abs, self._values)) > 0.05 * median(self._first)

    def _at_zero(self, step: int, name: str, value: float, weight: float) -> Alert:
        said = (
            f"Its gradient norm is 0 at every logged step since; its value is {say(value)}, its weight {say(weight)}."
        )
        if weight == 0 and self._has_weight:
            remedy = "Its weight was set to 0: give it back, or take the term out."
        elif value == 0:
            remedy = "Nothing is counted: look at its mask and its targets, which may be empty."
        else:
            remedy = "Its output is detached, or the term is not in the number on which backward is called."
        return Alert("dead", name, self._zero.since, step, said, remedy)

    def _stands(self, step: int, name: str, value: float, norm: float, all_still: bool) -> Iterator[Alert]:
        before = self._values[-1] if self._values else math.nan
        still = value != 0 and abs(value - before) <= _STILL * abs(value)
        if not still and math.isfinite(before):
            self._moved = abs(value - before)
        sudden = self._moved > 100 * _STILL * abs(value)
        if self._still.see(step, still and norm > 0 and sudden) and not all_still:
            said = f"Its value stands at {say(value)}, though its gradient norm is {say(norm)}."
            yield Alert(
                "dead", name, self._still.since, step, said,
                "Its head does not learn any more: look whether its parameters are frozen, outside the optimizer, or "
                "behind units that are 0 for every sample.",
            )  # fmt: skip


class Spiking:
    """A value, or a gradient norm, that leaves the level of the steps before."""

    def __init__(self) -> None:
        self._value, self._norm = Level(_VALUE_FACTOR), Level(_GRADIENT_FACTOR)

    def see(self, step: int, name: str, term: Mapping[str, Any], total: float, usual: float) -> Iterator[Alert]:
        """Judges a term's step; `usual` is the total's level, NaN where it is not known."""
        value, norm, weight = float(term["value"]), norm_of(term, 0.0), float(term["weight"])
        if not (math.isfinite(value) and math.isfinite(norm) and math.isfinite(weight)):
            return
        sent, scale = _at_weight_1(norm, weight)
        up = self._value.see(step, value)
        if up is not None and weight != 0 and self._matters(up, weight, total, usual):
            yield _spike(step, name, "value", up)
            self._norm.see(step, sent)
            return
        pull = self._norm.see(step, sent)
        if pull is not None and weight != 0:
            pull = replace(pull, before=pull.before * scale, now=pull.now * scale)
            yield _spike(step, name, "gradient norm", pull)

    @staticmethod
    def _matters(up: Shift, weight: float, total: float, usual: float) -> bool:
        """Whether the rise is one of the total too: a loss that grows while all others fall is no fault."""
        if not math.isfinite(total) or not math.isfinite(usual):
            return True
        return total > _SEEN_IN_TOTAL * usual or abs(weight) * (up.now - up.before) > 0.2 * abs(usual)


def _at_weight_1(norm: float, weight: float) -> tuple[float, float]:
    """A gradient norm as it would be without the weight, which may move, and what makes it what it is."""
    scale = abs(weight) if weight and math.isfinite(weight) else 1.0
    return norm / scale, scale


def _spike(step: int, name: str, what: str, shift: Shift) -> Alert:
    times = f" ({say(shift.now / shift.before)} times)" if shift.before > 0 else ""
    said = f"Its {what} was about {say(shift.before)} and is {say(shift.now)} since{times}."
    return Alert(
        "spiking", name, shift.since, step, said,
        "Look at the batches from this step on (targets in another unit, wrong labels, broken files), then at the "
        "learning rate.",
    )  # fmt: skip


class Dominating:
    """A term that leaves nothing to the others, in the total and in gradient."""

    def __init__(self) -> None:
        self._streak = Streak()

    def see(self, step: int, name: str, term: Mapping[str, Any], others: float) -> Iterator[Alert]:
        """Judges a term's step; `others` is the norm of all other terms' gradients together."""
        share, norm = abs(float(term.get("share", 0.0))), norm_of(term)
        holds = share >= _DOMINANT_SHARE and norm >= _DOMINANT_GRADIENT * others
        if self._streak.see(step, holds):
            times = (
                f"{say(norm / others)} times that of all others together" if others else "while all others send none"
            )
            said = f"It is {share:.1%} of the total, and its gradient norm is {say(norm)}, {times}."
            yield Alert(
                "dominating", name, self._streak.since, step, said,
                "Divide it by its count (a sum in place of a mean), bring its targets to the scale of the others, or "
                "lower its weight.",
            )  # fmt: skip


class Drifting:
    """A weight that left the size, or the sign, with which it began."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._left: int | None = None
        self._told = False

    def see(self, step: int, name: str, weight: float) -> Iterator[Alert]:
        """Judges a term's weight at a step."""
        if not math.isfinite(weight) or (weight == 0 and self._began is None):
            return
        if self._began is None:
            self._began = weight
        ratio = weight / self._began
        if 0.5 <= ratio <= 2:
            self._left, self._told = None, False
            return
        self._left = step if self._left is None else self._left
        if self._told or weight == 0 or 1 / _DRIFT < ratio < _DRIFT:
            return
        self._told = True
        yield Alert(
            "drifting weight", name, self._left, step, f"Its weight began at {say(self._began)} and is {say(weight)}.",
            "Keep a learned weight in bounds (exp(-s) with its log term, a smaller learning rate for it), or correct "
            "what the loop multiplies it by.",
        )  # fmt: skip


class Stray:
    """Loss or gradient that belongs to no term."""

    def __init__(self) -> None:
        self._streak = Streak(3, 3)

    def see(self, step: int, entry: Mapping[str, Any], norm: float) -> Iterator[Alert]:
        """Judges a step; `norm` is that of all terms' gradients together."""
        rest = entry.get("unbooked") or entry.get("terms", {}).get("unbooked") or {}
        share, sent = float(rest.get("share", 0.0)), float(rest.get("grad_norm", 0.0))
        if not self._streak.see(step, abs(share) > _UNBOOKED or sent > _UNBOOKED * norm):
            return
        said = f"{abs(share):.1%} of the loss" if math.isfinite(share) else "Loss of a size that was not seen"
        yield Alert(
            "unbooked", TOTAL, self._streak.since, step,
            f"{said} and a gradient norm of {say(sent)} at the outputs belong to no term.",
            "Make a term of what is added to the total outside the criterion, or look for a term that is added twice.",
        )  # fmt: skip


class Fighting:
    """Two terms that ask for opposite changes of what both read, by the median of eight cosines: noisy ones quarrel."""

    def __init__(self) -> None:
        self._streak = Streak(4, 12)
        self._last: deque[tuple[int, float]] = deque(maxlen=8)
        self._since = 0

    def see(self, step: int, pair: tuple[str, str], cosine: float | None) -> Iterator[Alert]:
        """Judges the cosine of a pair at a step."""
        if cosine is None or not math.isfinite(cosine):
            return
        self._last.append((step, cosine))
        middle = median(each for _, each in self._last)
        holds = len(self._last) == 8 and middle <= _FIGHT
        if holds and not self._streak.running:
            self._since = self._last[0][0]
        if self._streak.see(step, holds):
            yield Alert(
                "fighting", PAIR.join(pair), self._since, step,
                f"The cosine between their gradients is about {middle:.2f} at the outputs that both read.",
                "Look for a sign, an order of channels or an encoding in which their targets differ; else give them "
                "outputs of their own, or lower the weight of one.",
            )  # fmt: skip


class Total:
    """The whole loss: not finite, spiking, or standing still."""

    def __init__(self) -> None:
        self._level, self._finite, self._still = Level(_VALUE_FACTOR), Streak(1, 1), Streak()
        self._weights: tuple[float, ...] = ()
        self._before = math.nan
        self._moved = 0.0
        self.still = False

    @property
    def usual(self) -> float:
        """Its level; NaN where it is not known yet."""
        return self._level.reference or math.nan

    def see(self, step: int, total: float, weights: tuple[float, ...], blamed: bool) -> Iterator[Alert]:
        """Judges a step; `blamed` where a term was named for it already."""
        if self._finite.see(step, not math.isfinite(total)) and not blamed:
            yield Alert(
                "not finite", TOTAL, step, step, f"The total is {total}, though every term's value is finite.",
                "Look at what is added to the total outside the criterion.",
            )  # fmt: skip
        if not math.isfinite(total):
            return
        if len(weights) != len(self._weights) or any(
            abs(one - other) > 0.02 * abs(other) for one, other in zip(weights, self._weights, strict=True)
        ):
            self._level = Level(_VALUE_FACTOR)  # the total means something else now
        self._weights = weights
        up = self._level.see(step, total)
        if up is not None and not blamed:
            yield _spike(step, TOTAL, "value", up)
        yield from self._stands(step, total)

    def _stands(self, step: int, total: float) -> Iterator[Alert]:
        self.still = abs(total - self._before) <= _STILL * abs(total)
        if not self.still and math.isfinite(self._before):
            self._moved = abs(total - self._before)
        sudden = self._moved > 100 * _STILL * abs(total)
        self._before = total
        if self._still.see(step, self.still and sudden):
            yield Alert(
                "dead", TOTAL, self._still.since, step, f"The total stands at {say(total)} from step to step.",
                "Nothing is learned and nothing new is shown: look at the learning rate, at what the optimizer holds, "
                "and whether the loader repeats one batch.",
            )  # fmt: skip
