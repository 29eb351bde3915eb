"""What each loss of a library sends to the outputs of the network, by a pass of its own, beside the books of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from headwise.attribution.ledger.books import Books
from headwise.attribution.run.script import ScriptBooks
from headwise.structure import by_path, mapped


@dataclass
class Sent:
    """A loss, and the norm of its gradient at the outputs of heads.

    Args:
        name: What it is called here.
        value: Its value.
        norm: The norm.
    """

    name: str
    value: float
    norm: float


@dataclass
class Listener:
    """Holds the outputs of some modules of the last call of a model, and measures losses there.

    Args:
        root: The class of the model, by name.
        heads: What the names of the modules end with.
    """

    root: str = ""
    heads: tuple[str, ...] = ()
    sent: list[Sent] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    outputs: Sequence[Tensor] | Sequence[GradientEdge] = field(default_factory=list)

    def began(self, module: nn.Module, inputs: Any) -> None:
        if type(module).__name__ == self.root and torch.is_grad_enabled():
            self.names = {id(each): name for name, each in module.named_modules()}
            self.outputs = []

    def ended(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.names.get(id(module), "").endswith(self.heads) and torch.is_grad_enabled():
            # Where they are in the graph now: a library may write into them afterwards.
            edges = [get_gradient_edge(each) for each in by_path(output).values() if each.requires_grad]
            self.outputs = [*self.outputs, *edges]

    def hears(self, name: str, loss: Tensor, where: Tensor | float = 1.0) -> None:
        """Measures a loss while its graph is there, at the outputs, times what is given."""
        if not loss.requires_grad:
            return
        found = torch.autograd.grad(loss, self.outputs, retain_graph=True, allow_unused=True)
        squares = [(each.double() * where).square().sum() for each in found if each is not None]
        self.sent.append(Sent(name, loss.item(), torch.stack(squares).sum().sqrt().item()))

    def apart(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """A library's function of the heads' outputs: what it makes of copies of them is heard."""

        def heard(*arguments: Any, **named: Any) -> Any:
            copies = mapped(arguments, lambda each: each.detach().requires_grad_() if each.requires_grad else each)
            with torch.enable_grad():
                loss = function(*copies, **named)
            self.outputs = [each for each in by_path(copies).values() if each.requires_grad]
            self.hears(name, loss)
            return function(*arguments, **named)

        return heard

    @contextmanager
    def listening(self) -> Iterator[None]:
        handles = [register_module_forward_pre_hook(self.began), register_module_forward_hook(self.ended)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def books_of(main: Callable[[], object], listener: Listener, passes: int) -> list[tuple[Books, list[Sent]]]:
    """Runs training code as ``headwise run --every 1`` does.

    Returns:
        The books of each backward pass up to so many, beside what was heard before it.
    """
    found: list[tuple[Books, list[Sent]]] = []
    with ScriptBooks(every=1, steps=None, on_booked=lambda step, books: None) as script:
        read = script._finish

        def finished(site: Any, *rest: Any, **named: Any) -> None:
            read(site, *rest, **named)
            if len(found) < passes:
                found.append((site.table.parts[-1][1], list(listener.sent)))
            listener.sent.clear()

        script._finish = finished  # type: ignore[method-assign]
        with listener.listening():
            main()
    assert not script.told() or all("could not" not in line for line in script.told()), script.told()
    return found


def assert_same(books: Books, sent: Iterable[Sent], weights: dict[str, float]) -> None:
    """Every row of the books is one of the losses that were heard, times the weight that the library's code says.

    A row may begin below the loss that was heard (a sum over tokens whose division is the weight), so that what it
    adds to the number is compared, and the gradient of that.
    """
    left = {(each.name, number): each for number, each in enumerate(sent) if each.name in weights}
    assert len(books) == len(left), (list(books), list(left))
    assert books.balanced
    for term in books.values():
        distance = {
            key: abs(weights[key[0]] * each.value - term.weighted) + abs(weights[key[0]] * each.norm - term.grad_norm)
            for key, each in left.items()
        }
        key = min(distance, key=lambda each: distance[each])
        near, weight = left.pop(key), weights[key[0]]
        assert term.weighted == pytest.approx(weight * near.value, rel=1e-6)
        assert term.grad_norm == pytest.approx(weight * near.norm, rel=1e-6)
