"""The weights of a criterion's terms: numbers, schedules, tensors, parameters, and expressions of parameters."""

from __future__ import annotations

import copy
import dis
import gc
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from operator import is_
from types import CellType, FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headwise.graph import LEAF, gradient_edge, topological
from headwise.structure import describe, one_line

Weight = float | Callable[[int], float] | Callable[[], Tensor] | Tensor
Kind = Literal["number", "schedule", "tensor", "learned", "expression"]
_COMES: dict[Kind, str] = {
    "number": "",
    "schedule": "scheduled",
    "tensor": "a tensor",
    "learned": "learned",
    "expression": "computed",
}
_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Weights(nn.Module):
    """The weights at the present step.

    What is learned is a parameter of this module; step and fixed weights are tensors of its state dict.

    Args:
        given: By the names of the terms.
    """

    def __init__(self, given: Mapping[str, Weight]) -> None:
        super().__init__()
        self.step = 0
        self.learned = nn.ParameterDict()
        self.expressions = nn.ModuleDict()
        self._given: dict[str, Weight] = {}
        self._kinds: dict[str, Kind] = {}
        # Where a module holds a tensor as its buffer, for moving and loading put another one in its place.
        self._places: dict[str, tuple[dict[str, Tensor], str]] = {}
        # What a graph that the user compiles reads, so that a weight that moves recompiles nothing.
        self._moving = torch.zeros(len(given), dtype=torch.float64)
        for name, weight in given.items():
            self._put(name, weight)
        self._refresh()
        self.register_load_state_dict_post_hook(_hand_on_loaded)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> Weights:
        """A copy whose expressions read the parameters that were copied along."""
        twin = memo[id(self)] = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        for name in (name for name, kind in self._kinds.items() if kind == "expression"):
            weight = twin._given[name] = _along(twin._given[name], memo)
            with suppress(ValueError):  # what it reads is still being copied
                twin._put(name, weight)
        return twin

    def given(self) -> dict[str, Weight]:
        """The weights as they were declared, in the order of the terms; a parameter where one is learned."""
        return {name: self._held(name) for name in self._given}

    @property
    def scheduled(self) -> tuple[str, ...]:
        """The terms whose weight follows a schedule."""
        return tuple(name for name, kind in self._kinds.items() if kind == "schedule")

    def set(self, name: str, weight: Weight) -> None:
        """Gives a term another weight.

        Args:
            name: The term.
            weight: As in `Term`.

        Raises:
            ValueError: It is no weight.
        """
        self._put(name, weight)
        self._refresh()

    def follow(self, whole: Weights) -> None:
        """Takes step and weights of the same terms from another.

        Args:
            whole: Holds at least these terms.
        """
        self.step = whole.step
        for name in self._given:
            held = whole._held(name)
            if held is not self._given[name]:
                self._put(name, held)
        self._refresh()

    def now(self, name: str) -> float | Tensor:
        """A term's weight at the present step: a number, or a 0-d tensor."""
        kind, weight = self._kinds[name], self._given[name]
        if kind == "number":
            return weight  # type: ignore[return-value]
        if kind == "schedule":
            return _scheduled(name, weight, self.step)
        if kind == "expression":
            return _one(name, weight())  # type: ignore[operator,call-arg]
        return self._held(name)  # type: ignore[return-value]

    def told(self, name: str) -> str:
        """A term's weight at the present step, with where it comes from unless it was declared as a number."""
        weight, comes = self.now(name), _COMES[self._kinds[name]]
        meta = isinstance(weight, Tensor) and weight.is_meta
        number = "?" if meta else f"{float(weight.detach() if isinstance(weight, Tensor) else weight):.4g}"
        return f"{number} ({comes}, at step {self.step})" if comes else number

    def all_now(self) -> list[float | Tensor]:
        """The weights of all terms, in order; inside a graph that the user compiles all as tensors."""
        if not torch.compiler.is_compiling():
            return [self.now(name) for name in self._given]
        moving = self._moving.unbind()
        return [
            moving[number] if self._kinds[name] in ("number", "schedule") else self.now(name)
            for number, name in enumerate(self._given)
        ]

    def advance(self, steps: int) -> None:
        """Moves the schedules on.

        Args:
            steps: How many steps of the optimizer have passed.

        Raises:
            ValueError: A schedule gives a weight that is not finite.
        """
        self.step += steps
        self._refresh()

    def _put(self, name: str, weight: Weight) -> None:
        key, kind = _key(name), check_weight(name, weight)
        self.learned.pop(key) if key in self.learned else None
        self.expressions.pop(key) if key in self.expressions else None
        if kind == "learned":
            self.learned[key] = weight
        elif isinstance(weight, nn.Module):
            self.expressions[key] = weight
        elif kind == "expression" and (found := _parameters_in(weight)):
            self.expressions[key] = _ParametersOf(found)
        self._places.pop(name, None)
        if kind == "tensor" and (place := _place_of(weight)) is not None:
            self._places[name] = place
        self._kinds[name] = kind
        self._given[name] = float(weight) if kind == "number" else weight  # type: ignore[arg-type]

    def read_again(self) -> None:
        """Gives what expressions read the values of the parameters that loading by assignment put in their place."""
        for name, kind in self._kinds.items():
            listed = self.expressions[_key(name)] if kind == "expression" and _key(name) in self.expressions else None
            if not isinstance(listed, _ParametersOf):
                continue
            loaded, read = list(listed.parameters_read), _parameters_in(self._given[name])
            if len(loaded) == len(read) and not all(map(is_, loaded, read)):
                with torch.no_grad():
                    for own, value in zip(read, loaded, strict=True):
                        own.copy_(value)
                self._put(name, self._given[name])

    def _held(self, name: str) -> Weight:
        # Loading by assignment and moving to a device may put another tensor in the place of the declared one.
        if name in self._places:
            buffers, key = self._places[name]
            return buffers[key]
        return self.learned[_key(name)] if self._kinds[name] == "learned" else self._given[name]

    def _refresh(self) -> None:
        numbers = []
        for name, kind in self._kinds.items():
            weight = self.now(name) if kind in ("number", "schedule") else 0.0
            if not math.isfinite(weight):
                raise ValueError(
                    f"term {name!r}: its schedule gives {weight} at step {self.step}; a weight is finite. "
                    "Correct the schedule"
                )
            numbers.append(weight)
        self._moving.copy_(torch.tensor(numbers, dtype=torch.float64))

    def _state(self) -> dict[str, Tensor]:
        """Step and fixed weights."""
        fixed = {
            f"fixed.{name}": torch.tensor(float(self._held(name)), dtype=torch.float64)  # type: ignore[arg-type]
            for name in self._given
            if self._kinds[name] in ("number", "tensor")
        }
        return {"step": torch.tensor(self.step), **fixed}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + key: value for key, value in self._state().items()})

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, metadata: Any, strict: bool,
        missing: list[str], unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        ours = {prefix + key: key for key in self._state()}
        rest = {key: value for key, value in state_dict.items() if key not in ours}
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing, unexpected, errors)
        missing += [key for key in ours if key not in state_dict]
        for key, name in ours.items():
            if key in state_dict:
                self._restore(name, state_dict[key])
        self._refresh()

    def _restore(self, key: str, value: Tensor) -> None:
        name = key.removeprefix("fixed.")
        if key == "step":
            self.step = int(value)
        elif self._kinds[name] == "tensor":
            with torch.no_grad():
                self._held(name).fill_(value)  # type: ignore[union-attr]
        else:
            self._given[name] = float(value)


def _hand_on_loaded(weights: Weights, _: Any) -> None:
    weights.read_again()


class _ParametersOf(nn.Module):
    """The parameters that a function of no arguments was found to read."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.parameters_read = nn.ParameterList(parameters)


def _key(name: str) -> str:
    """A term's name as torch takes it for a parameter, without a point; no two names have one key."""
    key = name.replace("%", "%25").replace("/", "%2F").replace(".", "/")
    return f"{key}%" if any(hasattr(each, key) for each in _HOLDERS) else key


_HOLDERS = (nn.ParameterDict(), nn.ModuleDict())
"""What has attributes of its own (`type`, `values`, `train`), by whose names it takes no parameter."""


def _place_of(tensor: Any) -> tuple[dict[str, Tensor], str] | None:
    """The buffers among which a module holds a tensor, and its key there; None where none does."""
    dicts: list[dict[Any, Any]] = [each for each in gc.get_referrers(tensor) if type(each) is dict]
    for held in dicts:
        keys = [key for key, each in held.items() if each is tensor]
        for owner in gc.get_referrers(held):
            own = owner if isinstance(owner, dict) else vars(owner) if isinstance(owner, nn.Module) else {}
            if own.get("_buffers") is held:
                return held, keys[0]
    return None


def check_weight(name: str, weight: Any) -> Kind:
    """Refuses a weight that is not a finite number, a schedule, a scalar tensor or an expression of one.

    Args:
        name: The term's name, for the message.
        weight: The weight.

    Returns:
        Which of these it is.

    Raises:
        ValueError: It is none.
    """
    kind, number = _kind(weight), weight
    if kind in ("schedule", "expression"):
        try:
            number = weight() if kind == "expression" else weight(0)
        except Exception as error:
            raise ValueError(
                f"term {name!r}: its weight cannot be had at step 0: {one_line(error)}. Give a function of the step"
            ) from error
    if kind == "expression":
        number = _one(name, number)
    if isinstance(number, Tensor) and kind == "schedule":
        raise ValueError(
            f"term {name!r}: its schedule returns a number; found {describe(number)}. Return float(...), or give a "
            "function of no arguments for what is learned: weight=lambda: torch.exp(-s)"
        )
    if isinstance(number, Tensor):
        if number.dim() != 0 or not number.dtype.is_floating_point:
            raise ValueError(f"term {name!r}: a tensor weight is a 0-d float tensor; found {describe(number)}")
        if kind == "tensor" and number.grad_fn is not None:
            raise ValueError(
                f"term {name!r}: a weight that is computed from parameters has a graph, which serves one step alone. "
                "Give the computation instead, as a function of no arguments: weight=lambda: torch.exp(-s)"
            )
        number = 0.0 if number.is_meta else float(number.detach())
    if isinstance(number, bool) or not isinstance(number, Real) or not _is_finite(number):
        raise ValueError(
            f"term {name!r}: a weight is a finite number, a function of the step, or a 0-d tensor; found "
            f"{describe(number)}. Correct the weight or its schedule"
        )
    return kind


def _kind(weight: Any) -> Kind:
    if isinstance(weight, nn.Parameter):
        return "learned"
    if isinstance(weight, Tensor):
        return "tensor"
    if not callable(weight):
        return "number"
    return "expression" if isinstance(weight, nn.Module) or _takes_nothing(weight) else "schedule"


def _takes_nothing(function: Any) -> bool:
    """Whether it is a function of no arguments; one whose defaults are parameters or modules is.

    Where others have defaults (``lambda i=i: s[i]``), or nothing tells what it takes (``partial(torch.exp, s)``), it is
    where a call without any gives what is learned.
    """
    with suppress(TypeError, ValueError):
        given = inspect.signature(function).parameters.values()
        if all(isinstance(each.default, nn.Parameter | nn.Module) for each in given):
            return True
        if any(each.default is each.empty and each.kind not in _ANY_NUMBER for each in given):
            return False
    try:
        with torch.inference_mode(False), torch.enable_grad():
            found = function()
    except Exception:
        return False
    return isinstance(found, Tensor) and found.requires_grad


def _is_finite(number: Any) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _scheduled(name: str, schedule: Any, step: int) -> float:
    try:
        return float(schedule(step))
    except Exception as error:
        raise ValueError(f"term {name!r}: its weight cannot be had at step {step}: {one_line(error)}") from error


def _one(name: str, found: Any) -> Tensor:
    """Asks that an expression of parameters gave one number."""
    if not isinstance(found, Tensor) or found.dim() != 0:
        raise ValueError(
            f"term {name!r}: a weight that is a function of no arguments returns a 0-d tensor; found "
            f"{describe(found)}. Return one number, such as torch.exp(-s)"
        )
    return found


def _parameters_in(function: Any) -> list[nn.Parameter]:
    """The parameters that a function reads, from wherever it has them, and those that it names and does not learn."""
    with torch.inference_mode(False), torch.enable_grad():
        edge = gradient_edge(function())
    below = topological([edge[0]]) if edge is not None else []
    read = [node.variable for node in below if node.name() == LEAF]  # type: ignore[attr-defined]
    held = list(_named_by(function))
    found = [each for each in (*read, *held) if isinstance(each, nn.Parameter)]
    if not found:
        found = [each for module in held if isinstance(module, nn.Module) for each in module.parameters()]
    return list({id(each): each for each in found}.values())


def _named_by(function: Any) -> Iterator[Any]:
    """What a function names, closes over, has as defaults or is bound to."""
    code = getattr(function, "__code__", None)
    named = [] if code is None else [each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"]
    found = getattr(function, "__globals__", {})
    yield from (cell.cell_contents for cell in getattr(function, "__closure__", None) or ())
    yield from (found[name] for name in named if name in found)
    yield from getattr(function, "__defaults__", None) or ()
    yield getattr(function, "__self__", None)


def _along(function: Any, memo: dict[int, Any]) -> Any:
    """A function that closes over the copies of what was copied along, where Python hands on the function itself."""
    if not isinstance(function, FunctionType):
        return memo.get(id(function), function)
    old, defaults = function.__closure__ or (), function.__defaults__ or ()
    cells = tuple([CellType(_along(cell.cell_contents, memo)) for cell in old])
    given = tuple([_along(each, memo) for each in defaults])
    if all(a.cell_contents is b.cell_contents for a, b in zip(old, cells, strict=True)) and all(
        map(is_, defaults, given)
    ):
        return function
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, given or None, cells)
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin
