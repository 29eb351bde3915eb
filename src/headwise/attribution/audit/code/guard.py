"""Leave the user's training code as it was found, and say where it failed."""

from __future__ import annotations

import linecache
import os
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headwise.attribution.jacobians.held import kept_buffers, same_draw, without_reducer

PACKAGES = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[2]))
"""The folders of torch and of attribution: no line in them is one of the audited code."""


class SubjectError(ValueError):
    """The audited code raised an error of its own."""


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn an error of the audited code into one that says what and where.

    Args:
        what: The part of the subject that runs, for the message.

    Yields:
        Nothing.

    Raises:
        SubjectError: The audited code raised; its last line and place are in the message.
    """
    try:
        yield
    except SubjectError:
        raise
    except (Exception, SystemExit) as error:
        raise SubjectError(f"audit: {what} raised {type(error).__name__}: {error} ({_place(error)})") from error


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        return "the file is not valid Python"
    own = [frame for frame in frames if not frame.filename.startswith((*PACKAGES, "<frozen "))]
    if not own:
        return "before any line of the subject ran: look at its arguments"
    frame = own[-1]
    line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
    return f"{os.path.basename(frame.filename)}:{frame.lineno} in {frame.name}: {line}"


@contextmanager
def held_still(model: nn.Module, *others: Any) -> Iterator[None]:
    """Give back parameters, buffers, gradients, modes, random state and grad mode at the end, whatever happens.

    Args:
        model: The network.
        *others: The criterion and the total: modules are kept like the model, the plain attributes of other objects
            are put back.

    Yields:
        Nothing.
    """
    modules = [model, *(other for other in others if isinstance(other, nn.Module))]
    enabled = torch.is_grad_enabled()
    with ExitStack() as stack:
        stack.callback(torch.set_grad_enabled, enabled)
        stack.enter_context(same_draw(model))
        stack.enter_context(without_reducer(model))
        for module in modules:
            stack.enter_context(_kept_module(module))
        for other in others:
            if not isinstance(other, nn.Module):
                stack.enter_context(_kept_attributes(other))
        yield


@contextmanager
def _kept_module(module: nn.Module) -> Iterator[None]:
    parameters = [(p, p.detach().clone(), p.grad, p.requires_grad) for p in module.parameters()]
    grads = [None if grad is None else grad.detach().clone() for _, _, grad, _ in parameters]
    modes = [(each, each.training) for each in module.modules()]
    try:
        with kept_buffers(module), _kept_attributes(*module.modules()):
            yield
    finally:
        for (parameter, value, grad, wanted), kept in zip(parameters, grads, strict=True):
            if not torch.equal(parameter.detach(), value):
                parameter.data.copy_(value)
            if grad is not None and kept is not None and not torch.equal(grad, kept):
                grad.data.copy_(kept)
            parameter.grad = grad
            parameter.requires_grad_(wanted)
        for each, training in modes:
            each.training = training


@contextmanager
def _kept_attributes(*owners: Any) -> Iterator[None]:
    """Give back plain attributes (numbers, texts, and the contents of lists and dicts of them)."""
    kept = []
    for owner in owners:
        own = getattr(owner, "__dict__", None)
        if isinstance(own, dict):
            kept.append(
                (own, {key: value for key, value in own.items() if isinstance(value, int | float | str | None)})
            )
            kept += [(value, dict(value)) for value in own.values() if type(value) is dict and _plain(value)]
    try:
        yield
    finally:
        for own, values in kept:
            own.update(values)


def _plain(values: dict[Any, Any]) -> bool:
    return all(isinstance(value, int | float | str | None) for value in values.values())
