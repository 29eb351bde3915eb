"""The criterion: declared terms in, one total and its books out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from headwise.criterion import config
from headwise.criterion.binding.binding import bind_targets
from headwise.criterion.binding.plan import Plan, Plans, make_plan
from headwise.criterion.breakdown import Breakdown, Entry
from headwise.criterion.checks import as_paths, as_terms, check_denominators
from headwise.criterion.junctions.hand_out import hand_out
from headwise.criterion.junctions.junction import Policy, check_policy
from headwise.criterion.junctions.recording import CLAIMANTS, WAITING, Bookkeeper, Counted, Record
from headwise.criterion.naming import Allow
from headwise.criterion.sums.by_sample import value_by_sample
from headwise.criterion.sums.combine import Combined, combine, total_of
from headwise.criterion.sums.evaluate import Denominators, denominator_of, evaluate_as_one, with_numerators
from headwise.criterion.sums.kernels import Kernels
from headwise.criterion.sums.probing import warn_of_averages
from headwise.criterion.sums.term_sums import Sums, ratio_of, within
from headwise.criterion.terms.levels import Levels
from headwise.criterion.terms.term import AnyTerm, Term
from headwise.criterion.terms.weights import Weight, Weights
from headwise.graph import is_captured
from headwise.ratio import Ratio
from headwise.structure import by_path, flatten
from headwise.whole import is_whole

_CAPTURED = (
    "Criterion: a ledger books nothing of a step that is captured as a CUDA graph, for a replay runs none of its code; "
    "its books stay those of the last step outside of one. Capture the network alone (torch.compile(network, "
    'mode="reduce-overhead")) and call the criterion outside of the graph, or close the ledger'
)


class Criterion(nn.Module):
    """Computes the weighted sum of declared terms, by name, and can keep its books.

    ``total = sum_t weight_t * value_t`` and ``value_t = numerator_t / denominator_t`` (0 where the denominator is 0).
    What can be learned (a `Parameter` as weight, parameters of losses) is among its parameters; step and weights are
    tensors of its state dict.

    Args:
        terms: The terms; or a mapping ``{output path: loss}`` in the manner of Keras, where each loss reads the target
            of the same name (see `config.terms_from_mapping` for what a loss may be there).
        weights: Weights by name, in place of the terms' own.
        unread: Paths of outputs, channels and targets that are meant to be read by nobody.
        compile: Compile losses and normalizers into fused kernels (`torch.compile`); needs a C++ compiler on the CPU,
            Triton on a GPU. Up to three elementwise losses of few elements are faster without.
        on_nonfinite: What happens to a term whose gradient is not finite: "keep" passes it on (the books name it),
            "drop" leaves out all gradients of that term (each process those of its own samples: a backward pass waits
            for nobody), "raise" raises `NonFiniteGradientError` during the backward pass; "raise" alone waits for the
            device. "drop" is refused for float16 outputs: a loss scale that overflows must reach the scaler.

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
        self.terms = as_terms(terms)
        self.unread = as_paths(unread)
        self.on_nonfinite = on_nonfinite
        self.recorder: Bookkeeper | None = None
        self.balance: Tensor | None = None  # (T,), float32: what a ledger's balance multiplies the weights by
        check_policy(on_nonfinite)
        if not isinstance(compile, bool):
            raise ValueError(f"compile is True or False; found {compile!r}")
        self.names: tuple[str, ...] = tuple(term.name for term in self.terms)
        self.term_weights = Weights({term.name: term.weight for term in self.terms})
        self.losses = nn.ModuleList([module for term in self.terms for module in term.modules])
        if weights is not None and not isinstance(weights, Mapping):
            raise ValueError(f"weights are a dict from the names of terms to their weights; found {weights!r}")
        for name, weight in (weights or {}).items():
            self.set_weight(name, weight)
        self._plans, self._kernels = Plans(), Kernels(compile)
        self._level_order: dict[str, tuple[str, ...]] = {}
        self._has_levels = any(term.num_wildcards for term in self.terms)
        self._num_calls = 0
        self._advanced_by = ""  # who marked the last step, as long as the other may mark the same one
        self._has_warned = False
        self._parts: dict[tuple[str, ...], Criterion] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle has closed books, and makes its own plans and kernels."""
        own: dict[str, Any] = {
            "recorder": None,
            "balance": None,
            "_plans": Plans(),
            "_parts": {},
            "_kernels": Kernels(self._kernels.enabled),
        }
        return {**self.__dict__, **own}

    def __repr__(self) -> str:
        """A line per term: what it reads, computes and weighs."""
        lines = [f"{term.name!r}: {term.told}, weight={self.term_weights.told(term.name)}" for term in self.terms]
        return "\n  ".join([f"{type(self).__name__}(", *lines]) + "\n)"

    @property
    def step(self) -> int:
        """Steps of the optimizer, as `advance` counts them."""
        return self.term_weights.step

    @property
    def weights(self) -> dict[str, float | Tensor]:
        """The weight of each term at the present step, a balance included."""
        now = self.term_weights.now
        return {name: _used(now(name), self.balance, number) for number, name in enumerate(self.names)}

    @property
    def split_variants(self) -> dict[str, str]:
        """The terms whose gradient depends on how a batch is split over micro-batches and ranks, and why."""
        return {term.name: term.split_variant for term in self.terms if term.split_variant is not None}

    def set_weight(self, name: str, weight: Weight) -> None:
        """Gives a term another weight; compiled kernels stay.

        Args:
            name: The term.
            weight: As in `Term`.

        Raises:
            ValueError: There is no such term, or it is no weight.
        """
        if name not in self.names:
            raise ValueError(f"no term {name!r} to weigh. The terms are: {', '.join(self.names)}")
        self.term_weights.set(name, weight)

    def advance(self, steps: int = 1) -> None:
        """Marks the end of a step: moves the schedules on, and an open ledger closes the step's books.

        Call it beside ``optimizer.step()``, or let the optimizer do it; see `advance_with`.

        Args:
            steps: How many steps of the optimizer have passed.

        Raises:
            ValueError: A schedule gives a weight that is not finite at the new step, or steps are no whole number from
                0.
        """
        if not is_whole(steps, 0):
            raise ValueError(f"Criterion.advance: steps is a whole number from 0; found {steps!r}. Nothing steps back")
        self._advance("loop", steps)

    def advance_with(self, optimizer: Optimizer) -> RemovableHandle:
        """Lets an optimizer mark the end of a step: whenever it steps, `advance` is called.

        An `advance` of the loop beside it counts once with it, in whatever order the two come.

        Args:
            optimizer: Whose steps are the steps of the schedules; of several, one.

        Returns:
            A handle, whose ``remove()`` ends it.
        """
        return optimizer.register_step_post_hook(lambda *_: self._advance("optimizer", 1))

    def _advance(self, by: str, steps: int) -> None:
        again = steps == 1 and self._advanced_by not in ("", by)
        self._advanced_by = "" if again or steps != 1 else by
        if not again:
            self.term_weights.advance(steps)
        if self.recorder is not None:
            self.recorder.mark()

    def part(self, names: tuple[str, ...]) -> Criterion:
        """Some of the terms, at the same step and weights, as a criterion without books of its own.

        Args:
            names: The terms.

        Returns:
            The part; the same object each time, so that its plans and kernels stay.
        """
        if names not in self._parts:
            terms = [term for term in self.terms if term.name in names]
            self._parts[names] = Criterion(terms, unread=self.unread, compile=self._kernels.enabled)
        part = self._parts[names]
        part.on_nonfinite = self.on_nonfinite
        part.term_weights.follow(self.term_weights)
        return part

    def to_dict(self) -> dict[str, Any]:
        """The declaration as plain data, for JSON or YAML; the step and compiled kernels are not part of it.

        Returns:
            What `from_dict` reads.

        Raises:
            ValueError: A loss, normalizer or schedule cannot be found again by a name.
        """
        found: dict[str, Any] = {"terms": config.terms_to_list(self.terms, self.term_weights.given())}
        if self.unread:
            found["unread"] = list(self.unread)
        return {**found, "on_nonfinite": self.on_nonfinite, "compile": self._kernels.enabled}

    @classmethod
    def from_dict(cls, declaration: Mapping[str, Any], *, allow: Allow = ()) -> Criterion:
        """Builds a criterion from plain data.

        Args:
            declaration: What `to_dict` wrote; see `headwise.criterion.config` for the form.
            allow: The modules (with what is in them) from which functions that are not Headwise's may be imported and
                run; True for any. By default none: a configuration is data.

        Returns:
            The criterion.

        Raises:
            ValueError: A key, function or schedule is unknown, or a key is missing.
        """
        rest = config.check_criterion(declaration)
        return cls(config.terms_from_list(rest.pop("terms"), allow), **rest)

    def to_json(self) -> str:
        """The declaration as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str, *, allow: Allow = ()) -> Criterion:
        """Builds a criterion from JSON; `allow` and errors as in `from_dict`."""
        return cls.from_dict(config.read_text(text, "JSON"), allow=allow)

    def to_yaml(self) -> str:
        """The declaration as YAML."""
        return config.write_yaml(self.to_dict())

    @classmethod
    def from_yaml(cls, text: str, *, allow: Allow = ()) -> Criterion:
        """Builds a criterion from YAML; `allow` and errors as in `from_dict`."""
        return cls.from_dict(config.read_text(text, "YAML"), allow=allow)

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
        named = by_path(targets)
        found, place = list(named.values()), {path: number for number, path in enumerate(named)}
        return {
            term.name: denominator_of(term, [each.reader(place) for each in bind_targets(term, targets)[1]], found)
            for term in self.terms
            if isinstance(term, Term)
        }

    def forward(
        self, outputs: Any, targets: Any, denominators: Denominators | None = None, *, ids: Any = None
    ) -> Breakdown:
        """Computes all terms.

        Args:
            outputs: Nested dicts, lists, tuples and dataclasses of tensors; a lone tensor is named ``output``.
            targets: The same for the targets; a lone tensor is named ``target``.
            denominators: What divides each term, totaled over the step (see `pool_denominators`), and the pooled
                ratios of `RatioTerm`s (see `pool_ratios`); by default this call's own.
            ids: What a ledger that keeps samples shall call them: N hashable things (file names), or a tensor (N,) of
                whole numbers; see `Ledger`. Without such a ledger they are not read.

        Returns:
            The entries and the total.

        Raises:
            ValueError: Names, levels, shapes or dtypes do not fit; the message says which term, path, rule and remedy.
        """
        outputs = {"output": outputs} if isinstance(outputs, Tensor) else outputs
        targets = {"target": targets} if isinstance(targets, Tensor) else targets
        compiling = torch.compiler.is_compiling()
        if compiling and (self.recorder is not None or WAITING):
            # What a backward pass sends is booked by Python code, which a compiled graph does not hold.
            outside = torch.compiler.disable(  # type: ignore[no-untyped-call]
                self.forward, reason="an open Ledger, or hw.book, keeps books of this criterion outside of graphs"
            )
            breakdown: Breakdown = outside(outputs, targets, denominators, ids=ids)
            return breakdown
        denominators = check_denominators(self.terms, denominators)
        spec, found = flatten(outputs)
        target_spec, read = flatten(targets)
        if compiling:
            return self._evaluate(make_plan(self.terms, outputs, targets, self.unread), found, read, denominators)
        self._count_call()

        def make() -> Plan:
            plan = make_plan(self.terms, outputs, targets, self.unread)
            self._check_order(plan)
            warn_of_averages(plan, found, read)
            return plan

        plan = self._plans.of((spec, target_spec), found, read, make)
        return self._evaluate(plan, found, read, denominators, ids)

    def _check_order(self, plan: Plan) -> None:
        """Refuses levels that come in another order than before, where their weights or strides go by position."""
        for term, names in zip(self.terms, plan.layout.levels, strict=True):
            if term.levels is None or not (term.levels.weights or term.levels.strides):
                continue
            before = self._level_order.setdefault(term.name, names)
            if names != before and set(names) == set(before):
                raise ValueError(
                    f"term {term.name!r}: its levels have weights or strides by position, and come in the order "
                    f"{', '.join(names)}; they came in the order {', '.join(before)}. Return them in one order"
                )

    def _count_call(self) -> None:
        self._num_calls += torch.is_grad_enabled() and self.training
        if self._num_calls == 100:
            self.warn_if_still()

    def warn_if_still(self) -> None:
        """Warns, once, of a schedule that nobody has moved on although steps are done."""
        if self.step == 0 and not self._has_warned and self.term_weights.scheduled:
            self._has_warned = True
            warnings.warn(
                "a weight follows a schedule, but Criterion.advance() was never called: the weight stands still. Call "
                "criterion.advance() beside optimizer.step(), or once criterion.advance_with(optimizer)",
                stacklevel=4,
            )

    def _evaluate(
        self,
        plan: Plan,
        outputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        given: Denominators | None,
        ids: Any = None,
    ) -> Breakdown:
        roots = [outputs[number] for number in plan.roots]
        weights, balance = self.term_weights.all_now(), self.balance
        record = self._open(plan, roots, given is not None)
        levels = self._levels_now(plan)
        idle = frozenset(
            (number, level)
            for number, weight in enumerate(weights)
            for level, own in enumerate(levels[number] or (1.0,) * len(plan.calls[number]))
            if own == 0.0 or (not isinstance(weight, Tensor) and weight == 0.0)
        )
        compiling = torch.compiler.is_compiling()
        views, tokens = hand_out(plan, self.on_nonfinite, roots, weights, idle, record)
        run = evaluate_as_one if compiling else self._kernels.evaluate
        top, sums = run(plan, views, targets, given)
        if given is not None and any(isinstance(each, Ratio) for each in given.values()):
            top, sums = None, self._within(with_numerators(sums, top), given, levels)
        if plan.sharded is not None:
            top, sums = None, [each.gathered() for each in with_numerators(sums, top)]
        sums = _weighed(sums, levels)
        combined = total_of(sums, top, weights, tokens, idle, None if record is None else record.at_total, balance)
        if record is not None:
            counted = Counted(combined.divisors.detach(), tuple([(len(s.denominators), s.pooled) for s in sums]))
            record.summed(combined.values.detach(), weights, combined.levels, counted, balance)
            record.by_sample(ids, lambda n, num: value_by_sample(plan, n, views, targets, sums[n], num))
        if CLAIMANTS and not compiling and combined.total.requires_grad:
            for each in CLAIMANTS:
                each(combined.total, record, given is not None)
        return Breakdown.of_call(
            self.names,
            combined.total,
            (combined.values, combined.weighted),
            lambda number: self._entry(number, with_numerators(sums, top)[number], weights[number], balance, record),
            record,
        )

    def _levels_now(self, plan: Plan) -> Sequence[tuple[float, ...] | None]:
        """The weights of each term's levels at this step; None for a term without."""
        if not self._has_levels:
            return (None,) * len(self.terms)
        return [
            (term.levels or Levels()).at(len(calls), self.step) if term.num_wildcards else None
            for term, calls in zip(self.terms, plan.calls, strict=True)
        ]

    def _within(
        self, sums: Sequence[Sums], given: Denominators, levels: Sequence[tuple[float, ...] | None]
    ) -> Sequence[Sums]:
        """The sums as parts of the step, where their ratio was pooled."""
        pooled = [given.get(term.name) for term in self.terms]
        return [
            within(each, one) if isinstance(one, Ratio) else each
            for each, one in zip(_weighed(sums, levels), pooled, strict=True)
        ]

    def _open(self, plan: Plan, roots: Sequence[Tensor], pooled: bool) -> Record | None:
        if self.recorder is None or not torch.is_grad_enabled() or not any(root.requires_grad for root in roots):
            return None
        if torch._C._are_functorch_transforms_active():
            return None  # tensors of a transform outlive it as empty shells
        if is_captured(roots[0]):
            warnings.warn(_CAPTURED, stacklevel=2)
            return None
        if plan.sharded is not None:
            raise ValueError(
                f"{plan.sharded} is a DTensor, and a ledger books the gradients of plain tensors. Give the criterion "
                "its full_tensor() (books of the whole), its to_local() (of this rank's part), or close the ledger"
            )
        return self.recorder.open(plan.layout, roots, pooled)

    def _entry(
        self, number: int, sums: Sums, weight: float | Tensor, balance: Tensor | None, record: Record | None
    ) -> Entry:
        """One term's entry, whose graph is its own: entries on different outputs go backward one after another."""
        own = None if balance is None else balance[number : number + 1]
        one: Combined = combine([sums], [weight], own)
        if record is not None:
            record.watch_value(number, one.values)
        variant = self.terms[number].split_variant
        used = _used(weight, balance, number)
        return Entry(one.values[0], used, one.weighted[0], ratio_of(sums), one.levels[0], variant)


def _weighed(sums: Sequence[Sums], levels: Sequence[tuple[float, ...] | None]) -> Sequence[Sums]:
    """The sums with the weights of their levels."""
    if all(each is None for each in levels):
        return sums
    return [
        each if own is None or each.levels is not None else each.having(levels=own)
        for each, own in zip(sums, levels, strict=True)
    ]


def check_criterion(what: str, criterion: object) -> None:
    """Refuses what is no criterion, or not yet one.

    Args:
        what: The function that asks, for the message.
        criterion: As it was given; one that `torch.compile` has wrapped is one.

    Raises:
        ValueError: It is none.
    """
    if not hasattr(criterion, "recorder") or isinstance(criterion, type):
        kind = f"the class {criterion.__name__}" if isinstance(criterion, type) else type(criterion).__name__
        raise ValueError(f"{what}: needs an hw.Criterion; found {kind}. Declare the losses as Terms")


def _used(weight: float | Tensor, balance: Tensor | None, number: int) -> float | Tensor:
    """The weight that a term's value is multiplied by."""
    return weight if balance is None else weight * balance[number]
