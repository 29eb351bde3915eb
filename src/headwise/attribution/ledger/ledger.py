"""The ledger: books every step of an unchanged training loop, on the device, without a synchronization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import RLock
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.optim import Optimizer

from headwise.attribution.ledger.books import Books
from headwise.attribution.ledger.fold import fold
from headwise.attribution.ledger.passes.clock import Under
from headwise.attribution.ledger.passes.leaves import Leaves
from headwise.attribution.ledger.passes.listening import listen
from headwise.attribution.ledger.passes.loop_factor import Scaler, given_factor
from headwise.attribution.ledger.ranks import step_over_ranks
from headwise.attribution.ledger.record import CallRecord
from headwise.attribution.ledger.ring import Ring
from headwise.attribution.ledger.rows import rows_of
from headwise.attribution.ledger.samples.columns import Brought, joined
from headwise.attribution.ledger.samples.ranking import Ranked
from headwise.attribution.ledger.samples.sampled import Measure
from headwise.attribution.ledger.samples.samples import TermSamples, over_ranks
from headwise.attribution.ledger.schema import Feature, Schema, num_channels
from headwise.attribution.ledger.weighing.balancing import Balancing, moving_weights
from headwise.attribution.ledger.weighing.rule import OUTPUTS, Rule
from headwise.attribution.ledger.weighing.suggestion import Suggestion, Target, suggest, weighed
from headwise.closing import Closing
from headwise.criterion.binding.layout import Layout
from headwise.criterion.criterion import Criterion
from headwise.criterion.junctions.feature_junction import Junction
from headwise.criterion.junctions.junction import Policy, check_policy
from headwise.graph import Edge, gradient_edge, used_below
from headwise.refusals import refuse_no_model
from headwise.structure import describe
from headwise.whole import check_whole, is_whole

_MAX_LAYOUTS = 512
_MOST_WAITING = 16
"""Calls whose rows are written together."""
_MOST_HELD = 1 << 22
"""Bytes of small gradients that wait with them."""
_LOCK = RLock()
"""Held while rows are reserved, written and read, for several threads may train. Of no ledger: these can be copied."""


class Ledger(Closing):
    """Keeps the books of a criterion from here on.

    In an unchanged loop::

        ledger = hw.Ledger(criterion, optimizer=optimizer)
        for batch in loader:
            breakdown = criterion(network(batch), targets)
            breakdown.total.backward()
            optimizer.step()
        print(ledger.read())

    A row is booked when a backward pass came by, whether from ``total``, ``weighted`` or ``value``; calls without one
    (evaluation) leave no trace. Rows lie in a ring buffer on the device; `read`, `history` and `table` fetch them in
    one transfer. Gradients with and without a ledger are equal to the bit.

    A step ends when an optimizer steps, or when the loop says so (`Criterion.advance`, `Ledger.step`), whichever comes,
    once. Where nobody marks steps, `micro_batches` calls with a backward pass are one. Passes of `torch.autograd.grad`
    count only in a call that no `backward` goes through: beside one they are looks. Calls inside of transforms of
    `torch.func` are not booked.

    Args:
        criterion: Whose books to keep.
        network: The network, if it holds `Junction` modules: their books are kept as well.
        optimizer: The optimizer, or several, whose steps end the books' steps. Schedules are the criterion's, books or
            not: `Criterion.advance_with`.
        scaler: What knows the loop's own factor (a loss scale) where it cannot be seen: where the loop goes on from
            single terms. A GradScaler, a number, or a function that returns one; asked in the backward pass.
        capacity: How many steps the ring holds.
        micro_batches: Criterion calls a step, as long as nobody marks steps. Their books are pooled: values are summed
            if the calls were given totaled denominators and averaged by the loop's factors otherwise, norms are those
            of the whole step's outputs.
        channels: Book every channel's gradient norm too.
        on_nonfinite: If given, replaces the criterion's policy while the ledger is open.
        samples: How many samples to keep per term, those with the largest gradient and those with the largest value;
            see `samples`. 0 keeps none.
        values_every: With `samples`: of so many calls one has its values measured, which costs about one more forward
            pass of the losses; gradients by sample come with every call. 0: never.
        balance: Sets weights from the books, once a step: a rule of `headwise.balance`, or one of yours. What it needs
            to know after a restart is in `state_dict`. With accumulation, give the optimizer or `micro_batches` too.
        balance_every: Of so many steps, the balance looks at one and sets the weights anew; the others cost nothing.
        group: The process group over whose ranks a balance is taken, if `torch.distributed` is used; None: the default
            one. All its ranks must do every step.

    Raises:
        ValueError: It is no criterion, or one whose books are kept already; the optimizer is none; or a number is less
            than 1.
    """

    def __init__(
        self,
        criterion: Criterion,
        network: nn.Module | None = None,
        *,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        scaler: Scaler = None,
        capacity: int = 1024,
        micro_batches: int = 1,
        channels: bool = False,
        on_nonfinite: Policy | None = None,
        samples: int = 0,
        values_every: int = 20,
        balance: Rule | None = None,
        balance_every: int = 4,
        group: Any = None,
    ) -> None:
        _check(criterion, on_nonfinite, (capacity, micro_batches, balance_every), (samples, values_every))
        if not isinstance(channels, bool):
            raise ValueError(f"channels is True or False; found {channels!r}")
        self.channels = channels
        self._ranked = Ranked(criterion.names, samples, values_every) if samples else None
        self._criterion, self._scaler = criterion, scaler
        self._ring = Ring(capacity, micro_batches)
        self.leaves = Leaves(self)
        self._waiting: dict[int, CallRecord] = {}
        self._steps_before = 0  # those of the ledger whose state was loaded
        self._schemas: dict[tuple[int, tuple[int, ...]], tuple[Layout, Schema, bool]] = {}
        if network is not None:
            refuse_no_model("Ledger", network, "Give the network that holds the Junctions; an optimizer by its name")
        modules = list(network.modules()) if network is not None else []
        self._junctions = [module for module in modules if isinstance(module, Junction)]
        self._balancing = None
        if balance is not None:
            self._balancing = Balancing(balance, criterion.names, self._junctions, balance_every, group)
        optimizers = _optimizers(optimizer)
        self._follows_optimizer = bool(optimizers)
        self._policy, criterion.on_nonfinite = criterion.on_nonfinite, on_nonfinite or criterion.on_nonfinite
        criterion.recorder = self
        self._silence = listen(self, self._pass_ended, self._stepped, self.step, optimizers, scaler, self._junctions)

    def open(self, layout: Layout, roots: Sequence[Tensor], pooled: bool) -> CallRecord:
        """Begins the record of one call; called by the criterion.

        Args:
            layout: Who reads what.
            roots: The outputs.
            pooled: Whether the denominators were totaled over the step.

        Returns:
            The record.
        """
        if self._balancing is not None:
            self._balance_unmarked(self._balancing)
        with _LOCK:
            waiting = self._waiting
            if len(waiting) >= _MOST_WAITING or sum(each.held for each in waiting.values()) >= _MOST_HELD:
                self._flush()
        channels = num_channels(layout, roots) if self.channels else ()
        known = self._schemas.get((id(layout), channels))
        if known is None or known[0] is not layout:
            features = [Feature(each.name, each.readers) for each in self._junctions]
            schema = Schema.of(layout, channels, features)
            if len(self._schemas) >= _MAX_LAYOUTS:
                self._schemas.clear()
            same = next((held for _, held, _ in self._schemas.values() if held == schema), schema)
            known = self._schemas[id(layout), channels] = layout, same, bool(_below(roots))
            if self._balancing is not None:
                self._balancing.fit(same)
        record = CallRecord(self, known[1], roots, pooled)
        if known[2]:
            record.listen_below(roots, _below(roots))
        return record

    def given(self, device: torch.device) -> float | Tensor | None:
        """The loop's factor now, where the caller gives one; called by the record.

        Args:
            device: Where the loss is.

        Returns:
            The factor.
        """
        return given_factor(self._scaler, device)

    def sampled(self, record: CallRecord, ids: Any, measure: Measure) -> None:
        """Begins to keep a call's samples; called by the record.

        Args:
            record: The call.
            ids: What the batch calls them.
            measure: Gives a term's values.
        """
        if self._ranked is not None:
            record.samples = self._ranked.begin(ids, record.lengths, record.device, record.pooled)
            if record.samples is not None:
                self._ranked.measure(record.samples, measure)

    def stirred(self, record: CallRecord) -> None:
        """Notes that a backward pass came to a call; called by the record.

        Args:
            record: The call.
        """
        with _LOCK:
            if record.place is None:
                record.place = self._ring.reserve(record.pooled)
                record.step = self._ring.step_of(record.place)  # before the ring forgets where steps ended
            self._waiting[id(record)] = record

    def mark(self) -> None:
        """Ends a step, if a backward pass came by since the last one; called by `Criterion.advance`."""
        if self._balancing is not None:
            self._criterion.balance = self._balancing.step([*self._waiting.values()])
        with _LOCK:
            self._ring.mark()

    step = mark

    def _stepped(self) -> None:
        """The optimizer has stepped; a schedule that stood still since its step before is nobody's."""
        if self._ring.is_marked:
            self._criterion.warn_if_still()
        self.step()

    def _balance_unmarked(self, balancing: Balancing) -> None:
        """Ends the balance's step where nobody marks steps: before the first call of the next one."""
        if not self._ring.is_marked and not self._follows_optimizer:
            balancing.take(self._waiting.values())
            if balancing.num_calls >= self._ring.micro_batches:
                self._criterion.balance = balancing.step(())

    def _pass_ended(self, under: Under) -> None:
        """Takes what junctions at features booked in a pass, if it came to a call of this criterion."""
        if not self._junctions:
            return
        found = {f"feature {each.name}": taken for each in self._junctions if (taken := each.take(under)) is not None}
        ours = [each for each in under.records.values() if isinstance(each, CallRecord) and id(each) in self._waiting]
        if found and ours:
            ours[0].at_features(under, found)

    def _flush(self) -> None:
        """Writes what backward passes have brought into the ring; what another thread's brings yet, later."""
        with _LOCK:
            over = [key for key, each in list(self._waiting.items()) if not each.is_elsewhere]
            waiting = [self._waiting.pop(key) for key in over]
            if self._balancing is not None:
                self._balancing.take(waiting)
            for each in rows_of(waiting):
                self._ring.write(each.schema, each.places, each.columns, each.briefs)
            if self._ranked is not None:
                self._ranked.add([
                    Brought(each.samples, *joined([(one.by_sample, one.common) for one in each.trained]), step)
                    for each in waiting
                    if each.samples is not None
                    for step in (self._steps_before + each.step,)
                ])  # fmt: skip
            for record in waiting:
                record.written()

    def read(self, *, across_ranks: bool = False, group: Any = None) -> Books:
        """The books of the last step, by one transfer to the host.

        Args:
            across_ranks: Pool the books of all ranks, as those of micro-batches: all must call it. Ranks may have
                different numbers of micro-batches.
            group: The process group; None means the default one.

        Returns:
            The books, of this process's samples or ("global") of all.

        Raises:
            RuntimeError: No backward pass has been booked yet.
            ValueError: The ranks' last steps read different outputs; raised on all of them.
        """
        with _LOCK:
            self._flush()
            steps = self._ring.steps(1)
        if across_ranks:
            pooled = step_over_ranks(steps[-1] if steps else None, group)
            steps = [] if pooled is None else [pooled]
        if steps:
            return fold(steps[-1])
        raise RuntimeError(
            "the ledger is empty: no backward pass of this criterion's terms has run since it was opened. "
            "Call criterion(...).total.backward() first"
        )

    def history(self) -> list[Books]:
        """The books of all steps that the ring still holds, oldest first, by one transfer to the host."""
        with _LOCK:
            self._flush()
            steps = self._ring.steps(len(self._ring))
        return [fold(step) for step in steps]

    def suggest(self, *, at: str = OUTPUTS, target: Target = "equal", last: int | None = None) -> Suggestion:
        """The weights that would have given each term an equal, or a given, share of the gradient's norm.

        Print it: with their range over the steps, and the shares as they were and as they would have been. Training
        with them moves the norms again, so look once more after some steps. What norms cannot say is told at
        `headwise.balance.Shares`.

        Args:
            at: "outputs", or the name of a `Junction`, whose heads are terms then.
            target: "equal", or shares by term, any positive numbers; of terms that are not named the weight stays.
            last: From the last so many steps; None: from all that the ring holds.

        Returns:
            The suggestion, from one transfer to the host.

        Raises:
            ValueError: There is no step, no such junction, a share does not fit, or `last` is no number of steps.
        """
        if last is not None and not is_whole(last, 1):
            raise ValueError(f"suggest: last is a number of steps, at least 1, or None for all; found {last!r}")
        steps = self.history()[-(last or 0) :]
        return suggest([weighed(books, at) for books in steps], target, at)

    @overload
    def samples(
        self, term: str, *, last_step: bool = False, across_ranks: bool = False, group: Any = None
    ) -> TermSamples: ...

    @overload
    def samples(
        self, term: None = None, *, last_step: bool = False, across_ranks: bool = False, group: Any = None
    ) -> dict[str, TermSamples]: ...

    def samples(
        self, term: str | None = None, *, last_step: bool = False, across_ranks: bool = False, group: Any = None
    ) -> TermSamples | dict[str, TermSamples]:
        """The samples that make a term: those with the largest gradient, and those with the largest value.

        Each is ranked as it was when it came last, so that a list follows the training; `forget_samples` begins anew.
        Samples lie in dimension 0 of all that a term reads; of a term for which that is not so, nothing is kept, and
        its `TermSamples.note` says so. Their names are the ``ids`` that the criterion was called with.

        Args:
            term: Its name; None for all, by name.
            last_step: Of those of the last step alone, of an alert for instance.
            across_ranks: Of all ranks together: all must call it.
            group: The process group; None means the default one.

        Returns:
            The rankings, by one transfer to the host.

        Raises:
            ValueError: The ledger keeps no samples.
            KeyError: There is no such term.
        """
        if self._ranked is None:
            raise ValueError("this ledger keeps no samples. Open it with how many to keep: Ledger(..., samples=16)")
        if term is not None and term not in self._criterion.names:
            raise KeyError(f"no term {term!r}. The terms are: {', '.join(self._criterion.names)}")
        self._flush()
        found = self._ranked.read_latest() if last_step else self._ranked.read()
        if across_ranks:
            found = over_ranks(found, self._ranked.keep, group)
        return found if term is None else found[term]

    def forget_samples(self) -> None:
        """Empties the rankings of samples, before an epoch that is to be looked at by itself for instance."""
        self._flush()
        if self._ranked is not None:
            self._ranked.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a ledger that goes on after a restart must know, beside the criterion's own state: samples and balance.

        The books of single steps are no part of it.

        Returns:
            Tensors and plain data.
        """
        self._flush()
        if self._balancing is not None:
            self._balance_unmarked(self._balancing)
        kept = {"samples": self._ranked, "balance": self._balancing}
        states = {name: None if each is None else each.state_dict() for name, each in kept.items()}
        return {**states, "steps": self._steps_before + self._ring.num_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state.

        Args:
            state: What `state_dict` of a ledger with the same arguments gave.

        Raises:
            ValueError: It does not fit.
        """
        if not isinstance(state, Mapping) or (state and not state.keys() & {"samples", "balance", "steps"}):
            found = [*state] if isinstance(state, Mapping) else describe(state)
            raise ValueError(
                f"Ledger.load_state_dict: a ledger's state has samples, balance and steps; found {found}. Hand over "
                "what ledger.state_dict() gave"
            )
        try:
            self._load_parts(state)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(
                f"Ledger.load_state_dict: a part of the state lacks or is of another form ({reason}). Hand over what "
                "ledger.state_dict() gave"
            ) from error

    def _load_parts(self, state: Mapping[str, Any]) -> None:
        if self._balancing is None and state.get("balance") is not None:
            kind = state["balance"].get("kind", "a rule")
            raise ValueError(
                f"Ledger.load_state_dict: the state is of weights that {kind} balanced, and this ledger has no "
                "balance, so that all would jump back. Give it the rule, Ledger(..., balance=), or leave the state out"
            )
        check_whole("Ledger.load_state_dict", 0, steps=state.get("steps", 0))
        self._steps_before = state.get("steps", 0)
        if self._ranked is not None and state.get("samples") is not None:
            self._ranked.load_state_dict(state["samples"])
        if self._balancing is not None and state.get("balance") is not None:
            self._balancing.load_state_dict(state["balance"])
            self._criterion.balance = self._balancing.factor

    def table(self) -> str:
        """The last step as a printable table."""
        return str(self.read())

    def close(self) -> None:
        """Ends the booking; what was booked stays readable."""
        if self._criterion.recorder is self:
            self._flush()
            self._criterion.recorder = self._criterion.balance = None
            self._criterion.on_nonfinite = self._policy
            self._silence()
            self.leaves.close()

    @property
    def keeps_samples(self) -> bool:
        """Whether it ranks samples."""
        return self._ranked is not None

    @property
    def scheduled(self) -> tuple[str, ...]:
        """The terms whose weight is meant to move: it follows a schedule, or all where a balance sets them."""
        return moving_weights(self._criterion, self._balancing)


def _check(
    criterion: Criterion, policy: Policy | None, positive: tuple[int, int, int], counts: tuple[int, int]
) -> None:
    if not hasattr(criterion, "recorder"):  # a criterion, also one that torch.compile has wrapped
        if callable(getattr(getattr(criterion, "ledger", None), "read", None)):
            raise ValueError(
                f"a {type(criterion).__name__} keeps books of its own, which no other need. Read its `ledger`"
            )
        raise ValueError(
            f"a Ledger keeps the books of a Criterion; found {type(criterion).__name__}. Declare the losses as Terms, "
            "or take attribution.wrap or attribution.watch for losses of your own"
        )
    if criterion.recorder is not None:
        raise ValueError("the criterion's books are kept by another Ledger. Close that one first: ledger.close()")
    if not all(map(is_whole, (*positive, *counts))):
        raise ValueError(
            "capacity, micro_batches, balance_every, samples and values_every are whole numbers; found "
            f"{', '.join(map(repr, (*positive, *counts)))}"
        )
    if min(positive) < 1:
        found = "{}, {} and {}".format(*positive)
        raise ValueError(f"capacity, micro_batches and balance_every are at least 1; found {found}")
    check_policy("keep" if policy is None else policy)
    if min(counts) < 0:
        raise ValueError("samples and values_every are at least 0; found {} and {}".format(*counts))


def _optimizers(given: Optimizer | Iterable[Optimizer] | None) -> list[Optimizer]:
    """Whose steps end the books' steps."""
    several = list(given) if isinstance(given, Iterable) else [] if given is None else [given]
    wrong = next((each for each in several if not hasattr(each, "register_step_post_hook")), None)
    if wrong is not None:
        raise ValueError(
            f"optimizer is a torch.optim.Optimizer, or several; found {type(wrong).__name__}. Give the one that steps"
        )
    return several


def _below(roots: Sequence[Tensor]) -> dict[Edge, list[tuple[Node, int]]]:
    """The outputs from which the network computes others of them, and by which operations."""
    return used_below([edge for root in roots if (edge := gradient_edge(root)) is not None])
