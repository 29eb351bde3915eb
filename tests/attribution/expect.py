"""Two ways in which a program may be honest, and a comparison."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def near(found: Any, wanted: Any, what: str, tolerance: float = 1e-5) -> None:
    """Asserts that two numbers or tensors differ by at most a part of the wanted one (or of 1e-12, for zero)."""
    found, wanted = torch.as_tensor(found).detach().double(), torch.as_tensor(wanted).detach().double()
    assert found.shape == wanted.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    size = max(1e-12, float(wanted.abs().max())) if wanted.numel() else 1.0
    error = float((found - wanted).abs().max()) / size if wanted.numel() else 0.0
    assert error <= tolerance, f"{what}: found {found.flatten()[:6].tolist()}, expected {wanted.flatten()[:6].tolist()}"


@contextmanager
def right_or_refused(
    *names: str, kinds: tuple[type[Exception], ...] = (ValueError,), told: bool = False
) -> Iterator[None]:
    """The asserts inside hold; or what runs inside is refused by an error that names everything in `names`.

    With `told`, a warning that names everything serves as well.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except kinds as error:
            missing = [name for name in names if name not in str(error)]
            if missing:
                raise AssertionError(f"refused, but without a word of {missing}: {error}") from error
        except AssertionError:
            if not (told and any(all(name in str(each.message) for name in names) for each in caught)):
                raise
