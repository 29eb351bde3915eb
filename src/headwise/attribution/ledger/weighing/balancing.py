"""Balancing: once a step, from what the terms sent, what their weights are multiplied by in the next one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.ledger.backward_pass import BackwardPass
from headwise.attribution.ledger.record import CallRecord
from headwise.attribution.ledger.schema import Schema
from headwise.attribution.ledger.weighing.rule import OUTPUTS, Rule, StepGram, check_rule
from headwise.criterion.criterion import Criterion
from headwise.criterion.junctions.feature_junction import Junction
from headwise.criterion.junctions.stats import book_dtype, products_of
from headwise.criterion.pooling import is_distributed
from headwise.criterion.sums.vectors import vector


class Balancing:
    """Gathers what the calls of a step sent, asks the rule, and hands its answer to the criterion.

    Args:
        rule: The rule.
        terms: The terms' names.
        junctions: Those of the network.
        every: Of so many steps one is looked at, the first of them; the others cost nothing.
        group: The process group over whose ranks norms are summed; None means the default one.

    Raises:
        ValueError: The rule does not fit.
    """

    def __init__(
        self, rule: Rule, terms: tuple[str, ...], junctions: Sequence[Junction], every: int, group: Any
    ) -> None:
        check_rule(rule)
        rule.check(terms)
        known = {each.name: each for each in junctions}
        if rule.at != OUTPUTS and rule.at not in known:
            raise ValueError(
                f"balance: no junction {rule.at!r} to balance at, only {', '.join((OUTPUTS, *known))}. Hand the "
                f"network to the ledger, with hw.Junction({rule.at!r}, ...) in it"
            )
        self.factor: Tensor | None = None  # (T,), float32; None before the first step
        self.num_steps = 0
        self._rule, self._terms, self._every, self._group = rule, terms, every, group
        self._junction = known.get(rule.at)
        self._calls: dict[int, tuple[CallRecord, Tensor | None]] = {}  # None in steps that are not looked at
        self._columns: dict[Schema, tuple[tuple[int, ...], ...]] = {}

    @property
    def num_calls(self) -> int:
        """Calls of the step under way that a backward pass came to."""
        return len(self._calls)

    @torch.no_grad()
    def take(self, records: Iterable[CallRecord]) -> None:
        """Takes what came to calls since they were taken last.

        Args:
            records: The calls.
        """
        for record in records:
            new, record.num_taken = record.trained[record.num_taken :], len(record.trained)
            for one in new:
                if self.num_steps % self._every:
                    self._calls[id(record)] = record, None
                    continue
                norm = self._norms(record, one)
                if norm is not None:
                    _, held = self._calls.get(id(record), (record, None))
                    # Passes over one call send one gradient, by different factors.
                    self._calls[id(record)] = record, norm if held is None else held + norm

    @torch.no_grad()
    def step(self, records: Iterable[CallRecord]) -> Tensor | None:
        """Ends a step.

        Args:
            records: Calls that were not taken yet.

        Returns:
            What the declared weights are multiplied by from now on, (T,); None as long as nothing was sent.
        """
        self.take(records)
        found, self._calls = list(self._calls.values()), {}
        calls = [(record, norms) for record, norms in found if norms is not None]
        if calls:
            with torch.inference_mode(False):
                gram = self._gram(calls)
                factor = self._rule.weights(self.num_steps, gram)
                if factor.shape != (len(self._terms),):
                    raise ValueError(
                        f"balance: {type(self._rule).__name__}.weights gives one number a term, ({len(self._terms)},); "
                        f"found {tuple(factor.shape)}"
                    )
                # A new one: a rule may write into its own. What is no number leaves the declared weight.
                self.factor = factor.to(torch.float32).nan_to_num(nan=1.0, posinf=1.0, neginf=1.0)
                if is_distributed():
                    # Drawn weights, or unlike devices: ranks stay equal to the bit.
                    torch.distributed.broadcast(self.factor, group_src=0, group=self._group)
        self.num_steps += bool(found)
        return self.factor

    def _gram(self, calls: Sequence[tuple[CallRecord, Tensor]]) -> StepGram:
        first = calls[0][0]
        held = [norms for _, norms in calls]
        norms = held[0] if len(held) == 1 else torch.linalg.vector_norm(torch.stack(held), dim=0)

        def values() -> Tensor:
            found = torch.stack([record.values for record, _ in calls]).to(norms)
            return found.sum(0) if first.pooled else found.mean(0)

        if is_distributed():
            ranks = torch.distributed.get_world_size(self._group)
            packed = torch.stack([norms.square(), values()])
            torch.distributed.all_reduce(packed, group=self._group)
            norms = packed[0].sqrt()
            pooled = packed[1] if first.pooled else packed[1] / ranks
            return self._table(norms, lambda: pooled, first)
        return self._table(norms, values, first)

    def _table(self, norms: Tensor, values: Callable[[], Tensor], first: CallRecord) -> StepGram:
        since = self._every if self.num_steps else 1
        return StepGram(self._terms, self._rule.at, norms, values, first.weight(), self.num_steps, since)

    def _norms(self, record: CallRecord, one: BackwardPass) -> Tensor | None:
        """(T,): what the terms sent in one pass, at the declared weights, the loop's factor divided out."""
        found = self._at_outputs(record, one) if self._junction is None else self._at_feature(record, one)
        if found is None:
            return None
        factor = one.common
        if factor is not None and record.balance is not None:
            factor = factor * record.balance
        if one.own:
            # The loop went on from single terms: what it multiplied each by is divided out, but for its weight.
            own = vector([one.own.get(n, 0.0) for n in range(len(self._terms))], found.dtype, found.device)
            own = own / record.weight()
            factor = own if factor is None else factor + own
        if factor is None:
            return found.float()
        # In float32, as weights are: once the loss scale is divided out, norms fit.
        return torch.div(found, factor.abs(), out=torch.empty_like(found, dtype=torch.float32))

    def _at_outputs(self, record: CallRecord, one: BackwardPass) -> Tensor | None:
        if not one.kept and not one.probed:
            return None
        readings, dtype = record.schema.readings, book_dtype(record.device)
        norms = {key: norm.to(dtype) for key, (norm, _) in one.probed.items()}
        if one.kept:
            kept = torch._foreach_norm(list(one.kept.values()), 2, dtype=dtype)
            norms |= dict(zip(one.kept, kept, strict=True))
        term_of = {key: readings[key[1]].term for key in norms}
        in_order = sorted(norms, key=term_of.__getitem__)
        found, terms = torch.stack([norms[key] for key in in_order]), tuple([term_of[key] for key in in_order])
        if terms == tuple(range(len(self._terms))):
            return found
        square = found.square() @ _spread(tuple((term,) for term in terms), len(self._terms), found)
        for (_, left, right), product in one.pairs.items():
            if readings[left].term == readings[right].term:
                # Two levels of one term at one place: their gradients add up there.
                square[readings[left].term] += 2 * products_of([product])[0]
        return square.clamp(min=0).sqrt()

    def _at_feature(self, record: CallRecord, one: BackwardPass) -> Tensor | None:
        junction = self._junction
        assert junction is not None
        columns = one.features.get(f"feature {junction.name}")
        if columns is None:
            return None
        columns = columns.to(record.device, book_dtype(record.device))
        square = columns @ _spread(self._of_columns(record.schema, junction), len(self._terms), columns)
        return square.clamp(min=0).sqrt()

    def fit(self, schema: Schema) -> None:
        """Asks that heads at a feature and terms belong together.

        Args:
            schema: Of a call.

        Raises:
            ValueError: A head is read by no term, or by several.
        """
        if self._junction is not None:
            self._of_columns(schema, self._junction)

    def _of_columns(self, schema: Schema, junction: Junction) -> tuple[tuple[int, ...], ...]:
        """Which terms each column of a junction's books counts for; twice for a product of two heads of one term."""
        found = self._columns.get(schema)
        if found is None:
            reads: dict[str, set[str]] = {name: set() for name in schema.terms}
            for each in schema.readings:
                reads[schema.terms[each.term]].add(each.path)
            heads = [self._terms.index(term_of_head(head, reads, junction.name)) for head in junction.readers]
            pairs = [(left, left) if left == right else () for left, right in combinations(heads, 2)]
            found = self._columns[schema] = (*((head,) for head in heads), *pairs)
        return found

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        factor = None if self.factor is None else self.factor.cpu()
        kind = type(self._rule).__name__
        return {"kind": kind, "factor": factor, "steps": self.num_steps, "rule": self._rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state.

        Args:
            state: Of a rule of the same kind, for as many terms.

        Raises:
            ValueError: It is of another rule, or of other terms.
        """
        factor, kind = state["factor"], type(self._rule).__name__
        if state.get("kind", kind) != kind:
            raise ValueError(
                f"balance: the state is of {state['kind']}, this ledger has {kind}. Use the rule that it was saved "
                "with, or leave the ledger's state out and let this one begin anew"
            )
        if factor is not None and factor.shape != (len(self._terms),):
            raise ValueError(
                f"balance: the state is of {len(factor)} terms, this criterion has {len(self._terms)}. Use the "
                "criterion that it was saved with"
            )
        self.factor = None if factor is None else factor.clone()
        self.num_steps = state["steps"]
        self._rule.load_state_dict(state["rule"])


def _spread(terms: tuple[tuple[int, ...], ...], num: int, like: Tensor) -> Tensor:
    """(K, T): how often each of K numbers counts for each term."""
    flat = tuple([float(each.count(term)) for each in terms for term in range(num)])
    return vector(flat, like.dtype, like.device).view(len(terms), num)


def term_of_head(head: str, reads: Mapping[str, Collection[str]], junction: str) -> str:
    """The term that a head at a junction belongs to: of its name, or the one that reads the output of its name.

    Args:
        head: The head.
        reads: Per term the paths of the outputs that it reads.
        junction: The junction's name, for the error.

    Returns:
        The term.

    Raises:
        ValueError: No term reads the head's output, or several do.
    """
    if head in reads:
        return head
    found = [
        name
        for name, paths in reads.items()
        if any(path == head or path.startswith((f"{head}.", f"{head}[")) for path in paths)
    ]
    if len(found) != 1:
        told = ", ".join(map(repr, found)) or "no term"
        raise ValueError(
            f"balance: at {junction!r} the output of head {head!r} is read by {told}, and gradients there are those of "
            f"heads. Name the junction's heads after terms or their outputs, one a term, or balance at {OUTPUTS!r}"
        )
    return found[0]


def moving_weights(criterion: Criterion, balance: object) -> tuple[str, ...]:
    """The terms whose weight is meant to move.

    Args:
        criterion: Whose.
        balance: What sets weights; None where nothing does.

    Returns:
        Those of a schedule, or all where a balance sets them.
    """
    return criterion.term_weights.scheduled if balance is None else criterion.names
