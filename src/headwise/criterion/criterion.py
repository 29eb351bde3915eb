"""The criterion: declared terms in, one total and its books out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from headwise.criterion import config
from headwise.criterion.binding import bind_targets
from headwise.criterion.breakdown import Breakdown, Entry
from headwise.criterion.checks import check_denominators, check_terms, warn_of_still_schedules
from headwise.criterion.evaluate import Job, Row, denominator_of, run
from headwise.criterion.junction import Policy, Recorder
from headwise.criterion.kernels import Kernels
from headwise.criterion.plan import Plan, make_plan, signature
from headwise.criterion.term import AnyTerm, Term, Weight, check_weight
from headwise.ratio import Ratio
from headwise.structure import get

_MAX_PLANS = 64


class Criterion(nn.Module):
    """Computes the weighted sum of declared terms, by name, and can keep its books.

    ``total = sum_t weight_t * value_t`` and ``value_t = numerator_t / denominator_t`` (0 where the denominator is 0).

    Args:
        terms: The terms; or a mapping ``{output path: loss}`` in the manner of Keras, where each loss reads the target
            of the same name (see `config.terms_from_mapping` for what a loss may be there).
        weights: Weights by name, in place of the terms' own.
        unread: Paths of outputs, channels and targets that are meant to be read by nobody.
        compile: Compile losses, normalizers and junction into fused kernels (`torch.compile`); needs a C++ compiler on
            the CPU, Triton on a GPU.
        on_nonfinite: What happens to a term whose gradient is not finite: "keep" passes it on (the books name it),
            "drop" leaves out all gradients of that term, on all ranks alike, "raise" raises `NonFiniteGradientError`
            during the backward pass; "raise" alone waits for the device.

    Raises:
        ValueError: There is no term, two have one name, or an argument is not of these forms.
    """

    def __init__(
        self,
        terms: Iterable[AnyTerm] | Mapping[str, Any],
        *,
        weights: Mapping[str, Weight] | None = None,
        unread: Iterable[str] = (),
        compile: bool = False,
        on_nonfinite: Policy = "keep",
    ) -> None:
        super().__init__()
        if isinstance(terms, Mapping):
            terms = config.terms_from_mapping(terms)
        self.terms: tuple[AnyTerm, ...] = tuple(terms)
        self.unread = (unread,) if isinstance(unread, str) else tuple(unread)
        self.on_nonfinite = on_nonfinite
        self.recorder: Recorder | None = None
        self.step = 0
        check_terms(self.terms)
        if on_nonfinite not in ("keep", "drop", "raise"):
            raise ValueError(f"on_nonfinite is 'keep', 'drop' or 'raise'; found {on_nonfinite!r}")
        self._weights: dict[str, Weight] = {term.name: term.weight for term in self.terms}
        for name, weight in (weights or {}).items():
            self.set_weight(name, weight)
        self._plans: dict[Any, Plan] = {}
        self._kernels = Kernels(compile)
        self._num_calls = 0
        self._parts: dict[tuple[str, ...], Criterion] = {}
        self._split_variants = tuple([term.split_variant for term in self.terms])

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle has closed books, and makes its own plans and kernels."""
        return {
            **self.__dict__,
            "recorder": None,
            "_plans": {},
            "_parts": {},
            "_kernels": Kernels(self._kernels.enabled),
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, in order."""
        return tuple(term.name for term in self.terms)

    @property
    def weights(self) -> dict[str, float | Tensor]:
        """The weight of each term at the present step."""
        return {name: self._weight(name) for name in self.names}

    @property
    def split_variants(self) -> dict[str, str]:
        """The terms whose gradient depends on how a batch is split over micro-batches and ranks, and why."""
        return {name: why for name, why in zip(self.names, self._split_variants, strict=True) if why is not None}

    def _weight(self, name: str) -> float | Tensor:
        weight = self._weights[name]
        return weight if isinstance(weight, Tensor) else float(weight(self.step) if callable(weight) else weight)

    def set_weight(self, name: str, weight: Weight) -> None:
        """Gives a term another weight; compiled kernels stay.

        Args:
            name: The term.
            weight: A float, a function of the step, or a 0-d tensor.

        Raises:
            ValueError: There is no such term, or the weight is not finite.
        """
        if name not in self._weights:
            raise ValueError(f"no term {name!r} to weigh. The terms are: {', '.join(self.names)}")
        check_weight(name, weight)
        self._weights[name] = weight

    def advance(self, steps: int = 1) -> None:
        """Moves the schedules on; call it beside ``optimizer.step()``.

        Args:
            steps: How many optimiser steps have passed.

        Raises:
            ValueError: A schedule gives a weight that is not finite at the new step.
        """
        self.step += steps
        for name, weight in self.weights.items():
            if not isinstance(weight, Tensor) and not math.isfinite(weight):
                raise ValueError(f"term {name!r}: its schedule gives {weight} at step {self.step}; a weight is finite")

    def to_dict(self) -> dict[str, Any]:
        """The declaration as plain data, for JSON or YAML; the step and compiled kernels are not part of it.

        Returns:
            What `from_dict` reads.

        Raises:
            ValueError: A loss, normalizer or schedule cannot be found again by a name.
        """
        found: dict[str, Any] = {"terms": config.terms_to_list(self.terms, self._weights)}
        if self.unread:
            found["unread"] = list(self.unread)
        return {**found, "on_nonfinite": self.on_nonfinite, "compile": self._kernels.enabled}

    @classmethod
    def from_dict(cls, declaration: Mapping[str, Any]) -> Criterion:
        """Builds a criterion from plain data.

        Args:
            declaration: What `to_dict` wrote; see `headwise.criterion.config` for the form.

        Returns:
            The criterion.

        Raises:
            ValueError: A key, function or schedule is unknown, or a key is missing.
        """
        rest = config.check_criterion(declaration)
        return cls(config.terms_from_list(rest.pop("terms")), **rest)

    def to_json(self) -> str:
        """The declaration as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Criterion:
        """Builds a criterion from JSON; errors as in `from_dict`."""
        return cls.from_dict(config.read_json(text))

    def to_yaml(self) -> str:
        """The declaration as YAML."""
        return config.write_yaml(self.to_dict())

    @classmethod
    def from_yaml(cls, text: str) -> Criterion:
        """Builds a criterion from YAML; errors as in `from_dict`."""
        return cls.from_dict(config.read_yaml(text))

    def get_extra_state(self) -> dict[str, Any]:
        """The step and the present weights, for the state dict."""
        fixed = {n: float(w) for n, w in self._weights.items() if isinstance(w, Tensor) or not callable(w)}
        return {"step": self.step, "names": list(self.names), "weights": fixed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores step and weights.

        Raises:
            ValueError: The state belongs to other terms.
        """
        if tuple(state["names"]) != self.names:
            raise ValueError(
                f"the state dict holds the terms {', '.join(state['names'])}; this criterion: {', '.join(self.names)}. "
                "Load it into the criterion that it was saved from"
            )
        self.step = int(state["step"])
        for name, value in state["weights"].items():
            held = self._weights[name]
            if isinstance(held, Tensor):
                with torch.no_grad():
                    held.fill_(value)
            elif not callable(held):
                self._weights[name] = value

    def denominators(self, targets: Any) -> dict[str, Tensor]:
        """What divides each term, from the targets alone.

        Args:
            targets: The nested targets of one micro-batch.

        Returns:
            Per term (those whose denominator depends on the prediction left out) a 0-d tensor, or one element a level
            where the targets have levels. `pool_denominators` totals them over micro-batches and ranks: all are added
            but constants (`normalizers.one`, a number).
        """
        targets = {"target": targets} if isinstance(targets, Tensor) else targets
        return {
            term.name: denominator_of(term, bind_targets(term, targets)[1], targets)
            for term in self.terms
            if isinstance(term, Term)
        }

    def forward(
        self, outputs: Any, targets: Any, denominators: Mapping[str, Tensor | Ratio] | None = None
    ) -> Breakdown:
        """Computes all terms.

        Args:
            outputs: Nested dicts, lists, tuples and dataclasses of tensors; a lone tensor is named ``output``.
            targets: The same for the targets; a lone tensor is named ``target``.
            denominators: What divides each term, totalled over the step (see `pool_denominators`), and the pooled
                ratios of `RatioTerm`s (see `pool_ratios`); by default this call's own.

        Returns:
            The entries and the total.

        Raises:
            ValueError: Names, levels, shapes or dtypes do not fit; the message says which term, path, rule and remedy.
        """
        outputs = {"output": outputs} if isinstance(outputs, Tensor) else outputs
        targets = {"target": targets} if isinstance(targets, Tensor) else targets
        if torch.compiler.is_compiling() and self.recorder is not None:
            # Slots are fresh leaves, which a graph that the user compiles cannot make.
            outside = torch.compiler.disable(self.forward)  # type: ignore[no-untyped-call]
            breakdown: Breakdown = outside(outputs, targets, denominators)
            return breakdown
        if torch.compiler.is_compiling():
            plan = make_plan(self.terms, outputs, targets, self.unread)
            return self._evaluate(outputs, targets, denominators, plan, run)
        plan = self._plan(outputs, targets)
        check_denominators(self.terms, denominators)
        self._num_calls += torch.is_grad_enabled() and self.training
        if self._num_calls == 100 and self.step == 0:
            warn_of_still_schedules(self._weights.values())
        return self._evaluate(outputs, targets, denominators, plan, self._kernels.run)

    def _plan(self, outputs: Any, targets: Any) -> Plan:
        key = (signature(outputs), signature(targets))
        if key not in self._plans:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[key] = make_plan(self.terms, outputs, targets, self.unread)
        return self._plans[key]

    def _evaluate(
        self,
        outputs: Any,
        targets: Any,
        denominators: Mapping[str, Tensor | Ratio] | None,
        plan: Plan,
        run_job: Callable[..., tuple[list[Row], Tensor]],
    ) -> Breakdown:
        roots = [get(outputs, steps) for steps in plan.root_steps]
        weights = [self._weight(name) for name in self.names]
        scales = [
            term.levels.at(len(calls), self.step) if term.levels else (1.0,) * len(calls)
            for term, calls in zip(self.terms, plan.calls, strict=True)
        ]
        job = Job(self.terms, plan, self.on_nonfinite, self.recorder is not None and self.recorder.channels)
        slots = self._open_books(job, roots, denominators is not None)
        rows, total = run_job(job, roots, targets, denominators, weights, scales, slots)
        entries = {
            name: Entry(
                row.value, weight, row.weighted, Ratio(row.numerator, row.denominator, row.smooth), row.levels, why
            )
            for name, weight, row, why in zip(self.names, weights, rows, self._split_variants, strict=True)
        }
        return Breakdown(entries, total)

    def _open_books(self, job: Job, roots: list[Tensor], pooled: bool) -> list[Tensor] | None:
        if self.recorder is None or not torch.is_grad_enabled() or not any(root.requires_grad for root in roots):
            return None
        return self.recorder.open(tuple([part.layout for part in job.parts]), roots[0].device, pooled)
