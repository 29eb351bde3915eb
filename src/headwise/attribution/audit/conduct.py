"""How the audited code behaves when it is called again: draws, host syncs, grad mode, and halves of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.audit.evaluate import Evaluation, call_criterion, evaluate
from headwise.attribution.audit.facts import BatchFacts
from headwise.attribution.audit.subject import Subject
from headwise.attribution.audit.syncs import SyncCounter
from headwise.attribution.jacobians.held import same_draw
from headwise.structure import by_path, mapped

_SEED = 20_011


def book_conduct(facts: BatchFacts, subject: Subject, batch: Any, first: Evaluation) -> None:
    """Call again in other ways, and book what differs.

    Args:
        facts: Where to book.
        subject: The training code.
        batch: The batch as given.
        first: The first call on it.
    """
    steps: dict[str, Callable[[], None]] = {
        "host-sync": lambda: _book_syncs(facts, subject, batch, first),
        "random-draw": lambda: _book_draws(facts, subject, first),
        "grad-mode": lambda: _book_grad_mode(facts, subject, first),
        "split-variant": lambda: _book_split(facts, subject, first),
    }
    for kind, step in steps.items():
        try:
            step()
        except Exception as error:
            # The first call went through; a repetition that fails leaves this kind open, and the report says so.
            facts.unaudited[kind] = str(error).splitlines()[0] if str(error) else type(error).__name__
        finally:
            torch.set_grad_enabled(True)


def _book_syncs(facts: BatchFacts, subject: Subject, batch: Any, first: Evaluation) -> None:
    counter = SyncCounter()
    watched = Subject(
        subject.model,
        (),
        _inside(counter, subject.criterion),
        _inside(counter, subject.forward or _called_on_input),
        None if subject.total is None else _inside(counter, subject.total),
        subject.reads,
    )
    with _buffers_of(subject):
        again = evaluate(watched, batch)
    facts.syncs = dict(counter.places)
    facts.unrepeatable = _differing(first, again)


def _buffers_of(subject: Subject) -> Any:
    from headwise.attribution.audit.guard import kept_buffers_of

    return kept_buffers_of(subject.model, subject.criterion)


def _called_on_input(model: nn.Module, batch: Any) -> Any:
    return model(batch["input"])


def _inside(counter: SyncCounter, function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*args: Any) -> Any:
        with counter:
            return function(*args)

    return watched


def _book_draws(facts: BatchFacts, subject: Subject, first: Evaluation) -> None:
    with same_draw(subject.model), _buffers_of(subject):
        _seed(_SEED)
        again = call_criterion(subject, first.outputs, first.batch)
        _seed(_SEED + 1)
        other = call_criterion(subject, first.outputs, first.batch)
    facts.random = _differing(again, other)


def _seed(seed: int) -> None:
    import random
    import sys

    torch.manual_seed(seed)
    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def _differing(first: Evaluation, second: Evaluation) -> dict[str, tuple[float, float]]:
    left = {term.name: term.number for term in first.parts.terms}
    right = {term.name: term.number for term in second.parts.terms}
    return {
        name: (value, right[name]) for name, value in left.items() if name in right and not _close(value, right[name])
    }


def _close(left: float, right: float) -> bool:
    if not (math.isfinite(left) and math.isfinite(right)):
        return True
    return abs(left - right) <= 1e-5 * max(abs(left), abs(right), 1e-12)


def _book_grad_mode(facts: BatchFacts, subject: Subject, first: Evaluation) -> None:
    """Under no_grad, as in validation, nothing may switch gradients on for what comes after."""
    quiet = mapped(first.outputs, lambda tensor: tensor.detach())
    changed: dict[str, str] = {}
    with same_draw(subject.model), _buffers_of(subject), torch.no_grad():
        call_criterion(subject, quiet, first.batch, changed)
    for who, told in changed.items():
        facts.grad_mode.setdefault(who, told)


def _book_split(facts: BatchFacts, subject: Subject, first: Evaluation) -> None:
    """The gradient of the whole batch against that of its two halves, as a mean and as a sum."""
    size = _batch_size(first)
    if size < 2:
        raise ValueError("the batch has no common first dimension of 2 or more")
    whole = _leaf_gradients(subject, first, 0, size, size)
    cut = size // 2
    halves = _leaf_gradients(subject, first, 0, cut, size), _leaf_gradients(subject, first, cut, size, size)
    for name, grad in whole.items():
        if any(name not in half for half in halves):
            continue
        joined = [half[name] * (part / size) for half, part in zip(halves, (cut, size - cut), strict=True)]
        mean = torch.cat(joined, dim=1)
        total = torch.cat([half[name] for half in halves], dim=1)
        scale = float(grad.norm())
        if scale > 0 and mean.shape == grad.shape and bool(grad.isfinite().all()):
            facts.split[name] = min(float((grad - mean).norm()), float((grad - total).norm())) / scale


def _batch_size(first: Evaluation) -> int:
    sizes = {tensor.shape[0] for tensor in first.tensors.values() if tensor.requires_grad and tensor.ndim}
    return sizes.pop() if len(sizes) == 1 else 0


def _leaf_gradients(subject: Subject, first: Evaluation, begin: int, end: int, size: int) -> dict[str, Tensor]:
    """Per loss its gradient at a part of the outputs, as one row per image, transposed."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[begin:end] if tensor.ndim and tensor.shape[0] == size else tensor

    def leaf(tensor: Tensor) -> Tensor:
        return cut(tensor).detach().clone().requires_grad_(tensor.requires_grad)

    with same_draw(subject.model), _buffers_of(subject):
        outputs = mapped(first.outputs, leaf)
        batch = _cut_lists(mapped(first.batch, cut), begin, end, size)
        found = call_criterion(subject, outputs, batch)
    leaves = [t for t in by_path(outputs).values() if t.requires_grad and t.ndim and len(t) == end - begin]
    grads = {}
    for term in found.parts.terms:
        if term.scalar is not None:
            row = torch.autograd.grad(term.scalar, leaves, retain_graph=True, allow_unused=True)
            full = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, row, strict=True)]
            grads[term.name] = torch.cat([g.detach().double().reshape(end - begin, -1).T for g in full])
    return grads


def _cut_lists(batch: Any, begin: int, end: int, size: int) -> Any:
    """Lists with one element per image are cut like tensors."""
    if isinstance(batch, Mapping):
        return {key: _cut_lists(value, begin, end, size) for key, value in batch.items()}
    if isinstance(batch, list) and len(batch) == size:
        return batch[begin:end]
    if isinstance(batch, tuple) and not hasattr(batch, "_fields"):
        return tuple(_cut_lists(value, begin, end, size) for value in batch)
    return batch
