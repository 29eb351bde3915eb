"""The rankings of samples, on the device: calls wait, and are ranked together, so that few launches serve them all."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.ledger.samples.columns import Brought, Columns, hypot, superseded, wide
from headwise.attribution.ledger.samples.sampled import Measure, Names, SampledCall, norms_by_sample
from headwise.attribution.ledger.samples.samples import RANKINGS, Sample, TermSamples
from headwise.criterion.sums.vectors import vector

_EMPTY = torch.iinfo(torch.int64).min


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
        self._names = Names()
        self._notes: dict[int, str] = {}
        self._unmeasured: set[int] = set()
        self.clear()

    def clear(self) -> None:
        """Forgets all samples."""
        # By ranking, term and place: (score, the other ranking's number), and (number of the sample, step).
        self._scores: Tensor | None = None
        self._marks: Tensor | None = None
        self._latest_step, self._latest = -1, list[Columns]()

    def begin(self, ids: Any, lengths: Sequence[int], device: torch.device, pooled: bool) -> SampledCall | None:
        """Begins a call.

        Args:
            ids: What the batch calls its samples, or None.
            lengths: Of dimension 0 of the outputs: the first is how many samples there are where ids do not say.
            device: Of the outputs.
            pooled: Whether the denominators were totaled over the step.

        Returns:
            The call; None where nothing is in dimension 0.

        Raises:
            ValueError: The ids do not fit.
        """
        self._num_calls += 1
        numbers = self._names.numbered(ids, lengths, self._num_calls, device)
        return SampledCall(numbers, device, pooled) if len(numbers) else None

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
            found = measured(number, len(call.numbers))
            if isinstance(found, str):
                self._unmeasured.add(number)
                self._notes.setdefault(number, f"values are not known: {found}")
            else:
                call.values[number] = found

    @torch.no_grad()
    def add(self, brought: Sequence[Brought]) -> None:
        """Ranks the samples of calls.

        Args:
            brought: Of each call, in their order.
        """
        for each in brought:
            for term, path in each.call.unsplit.items():
                num = len(each.call.numbers)
                self._notes[term] = f"not known: output {path!r} does not hold the {num} samples in dimension 0"
        there = [each for each in brought if each.pieces]
        with torch.inference_mode(False):
            for _, same in groupby(there, lambda each: each.key):
                self._rank(list(same))

    def _rank(self, same: Sequence[Brought]) -> None:
        """Ranks calls of one key."""
        calls = [each.call for each in same]
        norms = self._norms(same)
        columns = Columns(norms, self._values(calls, norms), self._marked(same))
        by_call = columns.split([len(call.numbers) for call in calls])
        self._note_latest(same, by_call)
        self._merge(0, columns, calls, sorted(same[0].pieces))
        measured = [place for place, call in enumerate(calls) if call.values]
        if measured:
            # A call without values says nothing of the values of its samples.
            here = [calls[place] for place in measured]
            self._merge(1, Columns.joined([by_call[place] for place in measured]), here, sorted(here[0].values))

    def _note_latest(self, same: Sequence[Brought], by_call: Sequence[Columns]) -> None:
        step = same[-1].step
        if step != self._latest_step:
            self._latest_step, self._latest = step, []
        self._latest += [found for each, found in zip(same, by_call, strict=True) if each.step == step]

    def _norms(self, same: Sequence[Brought]) -> Tensor:
        """(T, samples of all calls): the loop's factor divided out; -inf where a term has none; first what is NaN."""
        device = same[0].call.device
        slots = [(term, place) for term, found in sorted(same[0].pieces.items()) for place in range(len(found))]
        found = norms_by_sample([each.pieces[term][place] for term, place in slots for each in same])
        rows = wide(found, device).view(len(slots), -1).unbind()
        by_term: dict[int, list[Tensor]] = {}
        for (term, _), row in zip(slots, rows, strict=True):
            by_term.setdefault(term, []).append(row)
        absent = None if len(by_term) == len(self.terms) else torch.full_like(rows[0], -math.inf)
        norms = torch.stack([hypot(by_term[n]) if n in by_term else absent for n in range(len(self.terms))])  # type: ignore[misc]
        scale = [1.0 if each.call.pooled else float(len(each.call.numbers)) for each in same for _ in each.call.numbers]
        by = vector(scale, norms.dtype, device)
        if same[0].factor is not None:
            sizes = [len(each.call.numbers) for each in same]
            factors = [
                each.factor.reshape(1).expand(size)
                for each, size in zip(same, sizes, strict=True)
                if each.factor is not None
            ]
            by = by / wide(factors, device).abs()
        return (norms * by).nan_to_num(math.inf, math.inf, -math.inf)

    def _values(self, calls: Sequence[SampledCall], like: Tensor) -> Tensor:
        """(T, samples of all calls): -inf where they were not measured; first what is NaN."""
        if not any(call.values for call in calls):
            return torch.full_like(like, -math.inf)
        absent = torch.full((1,), -math.inf, dtype=like.dtype, device=like.device)
        found = [
            call.values[n] if n in call.values else absent.expand(len(call.numbers))
            for n in range(len(self.terms))
            for call in calls
        ]
        return wide(found, like.device).view_as(like).nan_to_num(math.inf, math.inf, -math.inf)

    def _marked(self, same: Sequence[Brought]) -> Tensor:
        """(samples of all calls, 2): their numbers and steps."""
        device = same[0].call.device
        numbers = [each.call.numbers for each in same]
        steps = [each.step for each in same for _ in range(len(each.call.numbers))]
        if self._names.kind == "numbers":
            step = torch.tensor(steps, dtype=torch.int64).to(device, non_blocking=True)
            return torch.stack([torch.cat([each for each in numbers if isinstance(each, Tensor)]), step], 1)
        flat = [number for each in numbers if isinstance(each, list) for number in each]
        return torch.tensor([flat, steps], dtype=torch.int64).T.to(device, non_blocking=True)

    def _merge(self, by: int, columns: Columns, calls: Sequence[SampledCall], terms: Sequence[int]) -> None:
        """Merges samples into a ranking; one that was ranked before, or comes twice, is ranked as it came last.

        Args:
            by: Which ranking.
            columns: The samples.
            calls: Whose samples these are.
            terms: Whose numbers there are.
        """
        score, other = (columns.norms, columns.values) if by == 0 else (columns.values, columns.norms)
        marks = columns.marks
        scores, held = (each[by] for each in self._held(score))
        numbers = marks[:, 0]
        before = torch.where((held[..., :1] == numbers).any(-1), -math.inf, scores[..., 0])
        again = superseded(numbers, calls)
        score = score if again is None else torch.where(again, -math.inf, score)
        top = torch.cat([before, score], -1).topk(self.keep, -1)
        pair = top.indices.unsqueeze(-1).expand(*top.indices.shape, 2)
        others = torch.cat([scores[..., 1], other], -1).gather(-1, top.indices)
        ranked = torch.stack([top.values, others], -1)
        kept = torch.cat([held, marks.expand(len(score), *marks.shape)], 1).gather(1, pair)
        if len(terms) < len(self.terms):  # the others keep what they have
            has = vector([float(n in terms) for n in range(len(self.terms))], score.dtype, score.device)[:, None, None]
            ranked, kept = torch.where(has > 0, ranked, scores), torch.where(has > 0, kept, held)
        scores.copy_(ranked)
        held.copy_(kept)

    def _held(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._scores is None or self._marks is None or self._scores.device != like.device:
            shape = (len(RANKINGS), len(self.terms), self.keep, 2)
            fresh = torch.full(shape, -math.inf, dtype=like.dtype, device=like.device)
            empty = torch.full(shape, _EMPTY, dtype=torch.int64, device=like.device)
            self._scores = fresh if self._scores is None else self._scores.to(fresh)
            self._marks = empty if self._marks is None else self._marks.to(empty)
        return self._scores, self._marks

    def read(self) -> dict[str, TermSamples]:
        """The rankings, by one transfer to the host."""
        if self._scores is None or self._marks is None:
            return self._told([])
        scores, marks = self._scores.double().cpu().tolist(), self._marks.cpu().tolist()
        return self._told([[(scores[by][n], marks[by][n]) for by in (0, 1)] for n in range(len(self.terms))])

    def read_latest(self) -> dict[str, TermSamples]:
        """The samples of the last step that brought any, ranked among themselves."""
        if not self._latest:
            return self._told([])
        device = self._latest[-1].norms.device
        latest = Columns.joined([Columns(*(each.to(device) for each in one)) for one in self._latest])
        norms, values, marks = latest.norms.cpu().tolist(), latest.values.cpu().tolist(), latest.marks.cpu().tolist()
        ranked = []
        for norm, value in zip(norms, values, strict=True):
            both = [list(zip(*pair, marks, strict=True)) for pair in ((norm, value), (value, norm))]
            best = [sorted(each, key=lambda one: -one[0])[: self.keep] for each in both]
            ranked.append([([each[:2] for each in one], [each[2] for each in one]) for one in best])
        return self._told(ranked)

    def _told(self, ranked: Sequence[Sequence[tuple[Any, Any]]]) -> dict[str, TermSamples]:
        """Rankings on the host, by gradient and by value of each term; none where there is none yet."""
        found = {}
        for number, name in enumerate(self.terms):
            both = [self._ranking(by, *each) for by, each in enumerate(ranked[number])] if ranked else [(), ()]
            found[name] = TermSamples(name, both[0], both[1], self._notes.get(number, ""))
        return found

    def _ranking(
        self, by: int, scores: Sequence[Sequence[float]], marks: Sequence[Sequence[int]]
    ) -> tuple[Sample, ...]:
        found: dict[int, Sample] = {}
        for (score, other), (number, step) in zip(scores, marks, strict=True):
            norm, value = (score, other) if by == 0 else (other, score)
            if number != _EMPTY and score != -math.inf:
                known = None if value == -math.inf else value
                found.setdefault(number, Sample(self._names.name(number), norm, known, step))
        return tuple(found.values())

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs; ids that are in no ranking are forgotten."""
        if self._scores is None or self._marks is None:
            return {"calls": self._num_calls, "kind": None, "names": [], "scores": None, "marks": None}
        marks = self._marks.cpu().clone()
        names: list[Hashable] = []
        if self._names.kind == "names":
            numbers = marks[..., 0]
            kept = [each for each in sorted(set(numbers.flatten().tolist())) if each != _EMPTY]
            names = [self._names.held[each] for each in kept]
            place = {number: new for new, number in enumerate(kept)} | {_EMPTY: _EMPTY}
            marks[..., 0] = torch.tensor([place[each] for each in numbers.flatten().tolist()]).view_as(numbers)
        told = {"calls": self._num_calls, "kind": self._names.kind, "names": names}
        return {**told, "scores": self._scores.cpu().clone(), "marks": marks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state.

        Args:
            state: Of rankings of the same terms and size.

        Raises:
            ValueError: They differ.
        """
        scores, marks = state["scores"], state["marks"]
        wanted = (len(RANKINGS), len(self.terms), self.keep, 2)
        if scores is not None and tuple(scores.shape) != wanted:
            raise ValueError(
                f"samples: the state holds {scores.shape[2]} samples of {scores.shape[1]} terms, this ledger keeps "
                f"{self.keep} of {len(self.terms)}. Open the ledger as it was"
            )
        self._num_calls = state["calls"]
        self._names.begin(state["kind"], state["names"])
        self._scores = None if scores is None else scores.clone()
        self._marks = None if marks is None else marks.clone()
