"""Which samples make a term: of each, the ones with the largest gradient and value, kept on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from headwise.criterion.layout import Edge
from headwise.criterion.stats import book_dtype, sum_dtype
from headwise.structure import describe

By: TypeAlias = Literal["gradient", "value"]
_RANKINGS: tuple[By, ...] = ("gradient", "value")

_CALL = 1 << 24
"""Samples without an id are numbered by their call, times this, and their place in it."""

_EMPTY = torch.iinfo(torch.int64).min

Measure: TypeAlias = Callable[[int, int], "Tensor | str"]
"""From the number of a term and of samples its values by sample, or why there are none."""


@dataclass(frozen=True)
class Sample:
    """One sample, as a term saw it when it came last.

    Args:
        id: What the batch called it; without ids (call, place in the batch).
        grad_norm: Norm of d(weight * value_i) / d(what the term reads of this sample), the loop's factor divided out.
            ``value_i`` is N times the sample's part of the term's value, so that batches of any size compare; with
            totalled denominators it is the part itself.
        value: ``value_i``, before the weight; None where it was not measured in that call.
        step: The ledger's step in which it came.
    """

    id: Any
    grad_norm: float
    value: float | None
    step: int


@dataclass(frozen=True)
class TermSamples:
    """The samples with the largest gradient, and those with the largest value, of one term.

    Args:
        term: The term.
        by_gradient: Largest gradient norm first; a gradient that is not finite before all.
        by_value: Largest value first, among the calls in which values were measured.
        note: Why samples or their values are not known; empty if they are.
    """

    term: str
    by_gradient: tuple[Sample, ...]
    by_value: tuple[Sample, ...]
    note: str = ""

    def top(self, num: int = 5, by: By = "gradient") -> tuple[Sample, ...]:
        """The first of a ranking.

        Args:
            num: How many, at most.
            by: "gradient" or "value".

        Returns:
            The samples.

        Raises:
            ValueError: There is no such ranking.
        """
        if by not in _RANKINGS:
            raise ValueError(f"samples are ranked by 'gradient' or by 'value'; found {by!r}")
        return (self.by_gradient if by == "gradient" else self.by_value)[:num]

    def to_dict(self, num: int = 5) -> dict[str, Any]:
        """The first of both rankings as plain data, for a log or a page.

        Args:
            num: How many of each, at most.

        Returns:
            ``{"gradient": [...], "value": [...], "note": ...}`` with a dict a sample; an id that is neither text nor a
            whole number becomes text.
        """
        found: dict[str, Any] = {by: [_plain(each) for each in self.top(num, by)] for by in _RANKINGS}
        return {**found, "note": self.note} if self.note else found

    def __str__(self) -> str:
        rows = [f"samples of {self.term!r}{': ' + self.note if self.note else ''}"]
        for by in _RANKINGS:
            for place, each in enumerate(self.top(5, by), start=1):
                value = "not measured" if each.value is None else f"{each.value:.5g}"
                rows.append(f"  by {by:<8} {place}. {each.id!s:<28} grad norm {each.grad_norm:<10.4g} value {value}")
        return "\n".join(rows)


def _plain(sample: Sample) -> dict[str, Any]:
    found = asdict(sample) | {"id": sample.id if isinstance(sample.id, int | str) else str(sample.id)}
    return {key: each for key, each in found.items() if each is not None}


@dataclass
class SampledCall:
    """What one call brings by sample, while its backward passes come.

    Args:
        num: N, samples in dimension 0.
        numbers: (N,), int64.
        pooled: Whether the denominators were totalled over the step.
        values: Per term its values, where they were measured.
        unsplit: Per term the output that does not hold the samples in dimension 0.
    """

    num: int
    numbers: Tensor
    pooled: bool
    values: dict[int, Tensor] = field(default_factory=dict)
    unsplit: dict[int, str] = field(default_factory=dict)

    def sent(self, reading: Edge, grad: Tensor | None, into: dict[int, Tensor]) -> None:
        """Takes the norms by sample of what one reading sent.

        Args:
            reading: Who sent it.
            grad: What it sent.
            into: (N,) by term, of one pass.
        """
        term = reading.term
        if grad is None or term in self.unsplit:
            return
        if not grad.dim() or len(grad) != self.num or (reading.dim == 0 and not reading.whole):
            into.pop(term, None)
            self.unsplit[term] = reading.path
            return
        dims, dtype = list(range(1, grad.dim())), sum_dtype(grad.dtype)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(grad, dim=dims, dtype=dtype) if dims else grad.to(dtype).abs()
            into[term] = torch.hypot(into[term], norm) if term in into else norm


class Ranked:
    """The rankings of all terms, on the device.

    Args:
        terms: Their names.
        keep: How many samples of each.
        values_every: Of so many calls values are measured in one; 0 for never.
    """

    def __init__(self, terms: Sequence[str], keep: int, values_every: int) -> None:
        self.terms, self.keep, self.values_every = tuple(terms), keep, values_every
        self._num_calls = 0
        self._kind: str | None = None  # of ids: see `_numbered`
        self._number_of: dict[Hashable, int] = {}
        self._names: list[Hashable] = []
        self._notes: dict[int, str] = {}
        self._unmeasured: set[int] = set()
        self.clear()

    def clear(self) -> None:
        """Forgets all samples."""
        # By ranking, term and place: (score, the other ranking's number), and (number of the sample, step).
        self._scores: Tensor | None = None
        self._marks: Tensor | None = None

    def begin(self, ids: Any, lengths: Sequence[int], device: torch.device, pooled: bool) -> SampledCall | None:
        """Begins a call.

        Args:
            ids: What the batch calls its samples, or None.
            lengths: Of dimension 0 of the outputs: the first is how many samples there are where ids do not say.
            device: Of the outputs.
            pooled: Whether the denominators were totalled over the step.

        Returns:
            The call; None where nothing is in dimension 0.

        Raises:
            ValueError: The ids do not fit.
        """
        self._num_calls += 1
        num = next(iter(lengths), 0) if ids is None else _num_of(ids, lengths)
        return SampledCall(num, self._numbered(ids, num, device), pooled) if num else None

    def measure(self, call: SampledCall, measured: Measure) -> None:
        """Measures values, if it is this call's turn.

        Args:
            call: The call.
            measured: Gives a term's values.
        """
        if not self.values_every or (self._num_calls - 1) % self.values_every:
            return
        for number in range(len(self.terms)):
            if number in self._unmeasured:
                continue
            found = measured(number, call.num)
            if isinstance(found, str):
                self._unmeasured.add(number)
                self._notes.setdefault(number, f"values are not known: {found}")
            else:
                call.values[number] = found

    @torch.no_grad()
    def add(self, call: SampledCall, passes: Iterable[tuple[dict[int, Tensor], Tensor | None]], step: int) -> None:
        """Ranks the samples of a call.

        Args:
            call: The call.
            passes: Norms by term, and the factor at the total, of each backward pass.
            step: Number of the ledger's step.
        """
        for term, path in call.unsplit.items():
            self._notes[term] = f"not known: output {path!r} does not hold the {call.num} samples in dimension 0"
        device = call.numbers.device
        sent = [
            self._rows(norms, call.num, device) / (1.0 if factor is None else factor.abs().to(device))
            for norms, factor in passes
            if norms
        ]
        if not sent:
            return
        norm = sent[0] if len(sent) == 1 else torch.stack(sent).sum(0)
        norm = norm if call.pooled else norm * call.num
        if not call.values:
            self._merge(torch.stack([norm, torch.full_like(norm, math.nan)], -1).unsqueeze(0), call.numbers, step)
            return
        value = self._rows(call.values, call.num, device)
        self._merge(torch.stack([torch.stack([norm, value], -1), torch.stack([value, norm], -1)]), call.numbers, step)

    def _rows(self, found: Mapping[int, Tensor], num: int, device: torch.device) -> Tensor:
        """(T, N); -inf where a term has none."""
        dtype = book_dtype(device)
        absent = None if len(found) == len(self.terms) else torch.full((num,), -math.inf, dtype=dtype, device=device)
        return torch.stack([found[n].to(device, dtype) if n in found else absent for n in range(len(self.terms))])  # type: ignore[misc]

    def _merge(self, new: Tensor, numbers: Tensor, step: int) -> None:
        """Merges samples into the first rankings; one that was ranked before is ranked as it is now.

        Args:
            new: (R, T, N, 2): score and the other number.
            numbers: (N,).
            step: Of all of them.
        """
        scores, marks = self._held(new)
        rankings, terms, num, _ = new.shape
        with torch.inference_mode(False):
            mark = torch.stack([numbers, torch.full_like(numbers, step)], -1).expand(rankings, terms, num, 2)
            again = (marks[:rankings, ..., :1] == numbers).any(-1)
            before = torch.where(again, -math.inf, scores[:rankings, ..., 0])
            # What is not finite is what one looks for.
            score = torch.cat([before, new[..., 0].nan_to_num(math.inf, math.inf, -math.inf)], -1)
            place = score.topk(self.keep, -1).indices
            pair = place.unsqueeze(-1).expand(*place.shape, 2)
            rest = torch.cat([scores[:rankings], new], 2).gather(2, pair)
            scores[:rankings] = torch.stack([score.gather(-1, place), rest[..., 1]], -1)
            marks[:rankings] = torch.cat([marks[:rankings], mark], 2).gather(2, pair)

    def _held(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._scores is None or self._marks is None or self._scores.device != like.device:
            shape = (len(_RANKINGS), len(self.terms), self.keep, 2)
            with torch.inference_mode(False):
                fresh = torch.full(shape, -math.inf, dtype=like.dtype, device=like.device)
                empty = torch.full(shape, _EMPTY, dtype=torch.int64, device=like.device)
                self._scores = fresh if self._scores is None else self._scores.to(fresh)
                self._marks = empty if self._marks is None else self._marks.to(empty)
        return self._scores, self._marks

    def _numbered(self, ids: Any, num: int, device: torch.device) -> Tensor:
        """Whole numbers for a batch's ids: of tensors on a device the ids themselves, which nobody need wait for."""
        kind = "no ids" if ids is None else "numbers" if isinstance(ids, Tensor) and not ids.is_cpu else "names"
        if self._kind not in (None, kind):
            raise ValueError(
                f"ids: {kind} in this call and {self._kind} before, so that samples could not be told apart. Give ids "
                "of one kind in every call, or in none"
            )
        self._kind = kind
        if ids is None:
            return torch.arange(num, device=device) + self._num_calls * _CALL
        if isinstance(ids, Tensor):
            if ids.dim() != 1 or ids.dtype.is_floating_point or ids.dtype.is_complex:
                raise ValueError(f"ids: a tensor of ids is (N,), of whole numbers; found {describe(ids)}")
            ids = ids.detach().to(device, torch.int64) if kind == "numbers" else ids.tolist()
        if kind == "numbers":
            found: Tensor = ids
            return found
        return torch.tensor([self._serial(each) for each in ids], dtype=torch.int64).to(device, non_blocking=True)

    def _serial(self, name: Any) -> int:
        try:
            number = self._number_of.setdefault(name, len(self._names))
        except TypeError:
            raise ValueError(
                f"ids: an id is hashable, such as a file's name or a number; found {describe(name)}"
            ) from None
        if number == len(self._names):
            self._names.append(name)
        return number

    def _name(self, number: int) -> Any:
        if self._kind == "names":
            return self._names[number]
        return number if self._kind == "numbers" else (number // _CALL - 1, number % _CALL)

    def read(self) -> dict[str, TermSamples]:
        """The rankings, by one transfer to the host."""
        if self._scores is None or self._marks is None:
            return {name: TermSamples(name, (), (), self._notes.get(n, "")) for n, name in enumerate(self.terms)}
        scores, marks = self._scores.double().cpu().tolist(), self._marks.cpu().tolist()
        found = {}
        for number, name in enumerate(self.terms):
            gradient, value = [self._ranking(by, scores[by][number], marks[by][number]) for by in (0, 1)]
            found[name] = TermSamples(name, gradient, value, self._notes.get(number, ""))
        return found

    def _ranking(self, by: int, scores: list[list[float]], marks: list[list[int]]) -> tuple[Sample, ...]:
        found: dict[int, Sample] = {}
        for (score, other), (number, step) in zip(scores, marks, strict=True):
            norm, value = (score, other) if by == 0 else (other, score)
            known = None if math.isnan(value) or value == -math.inf else value
            if number != _EMPTY and score != -math.inf:
                found.setdefault(number, Sample(self._name(number), norm, known, step))
        return tuple(found.values())

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs; ids that are in no ranking are forgotten."""
        if self._scores is None or self._marks is None:
            return {"calls": self._num_calls, "kind": None, "names": [], "scores": None, "marks": None}
        marks = self._marks.cpu().clone()
        names: list[Hashable] = []
        if self._kind == "names":
            numbers = marks[..., 0]
            kept = [each for each in sorted(set(numbers.flatten().tolist())) if each != _EMPTY]
            names = [self._names[each] for each in kept]
            place = {number: new for new, number in enumerate(kept)} | {_EMPTY: _EMPTY}
            marks[..., 0] = torch.tensor([place[each] for each in numbers.flatten().tolist()]).view_as(numbers)
        told = {"calls": self._num_calls, "kind": self._kind, "names": names}
        return {**told, "scores": self._scores.cpu().clone(), "marks": marks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state.

        Args:
            state: Of rankings of the same terms and size.

        Raises:
            ValueError: They differ.
        """
        scores, marks = state["scores"], state["marks"]
        wanted = (len(_RANKINGS), len(self.terms), self.keep, 2)
        if scores is not None and tuple(scores.shape) != wanted:
            raise ValueError(
                f"samples: the state holds {scores.shape[2]} samples of {scores.shape[1]} terms, this ledger keeps "
                f"{self.keep} of {len(self.terms)}. Open the ledger as it was"
            )
        self._num_calls, self._kind, self._names = state["calls"], state["kind"], list(state["names"])
        self._number_of = {name: number for number, name in enumerate(self._names)}
        self._scores = None if scores is None else scores.clone()
        self._marks = None if marks is None else marks.clone()


def _num_of(ids: Any, lengths: Sequence[int]) -> int:
    """How many samples the ids name: an order of their own, or letters, name none."""
    if isinstance(ids, Mapping | Set | str | bytes) or not hasattr(ids, "__len__") or not getattr(ids, "ndim", 1):
        raise ValueError(
            f"ids: a list with one id a sample, in order, or a tensor (N,); found {describe(ids)}. Give a list"
        )
    if lengths and len(ids) not in lengths:
        sizes = ", ".join(str(each) for each in dict.fromkeys(lengths))
        raise ValueError(
            f"ids: one id a sample; found {len(ids)} ids, and outputs whose dimension 0 holds {sizes}. Give an id to "
            "each sample of this batch, or none"
        )
    return len(ids)


def over_ranks(found: dict[str, TermSamples], keep: int, group: Any) -> dict[str, TermSamples]:
    """The rankings over all ranks, which all must ask for.

    Args:
        found: This rank's.
        keep: How many of each.
        group: The process group; None means the default one.

    Returns:
        The same on every rank.
    """
    held: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(held, found, group=group)
    merged = {}
    for name in found:
        each = [of_rank[name] for of_rank in held]
        norms = sorted((s for one in each for s in one.by_gradient), key=lambda s: -_size(s.grad_norm))
        values = sorted((s for one in each for s in one.by_value), key=lambda s: -_size(s.value))
        notes = [one.note for one in each if one.note]
        merged[name] = TermSamples(name, tuple(norms[:keep]), tuple(values[:keep]), notes[0] if notes else "")
    return merged


def _size(number: float | None) -> float:
    return -math.inf if number is None else math.inf if math.isnan(number) else number
