"""What tests of faults share: comparisons, and the ways in which a program may be honest about what it cannot do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import headwise as hw
from headwise import losses


def near(found, wanted, what, tolerance=1e-5):
    """Asserts that two numbers or tensors differ by at most a part of the wanted one (or of 1e-12, for zero)."""
    found, wanted = torch.as_tensor(found).detach().double(), torch.as_tensor(wanted).detach().double()
    assert found.shape == wanted.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    size = max(1e-12, float(wanted.abs().max())) if wanted.numel() else 1.0
    error = float((found - wanted).abs().max()) / size if wanted.numel() else 0.0
    assert error <= tolerance, f"{what}: found {found.flatten()[:6].tolist()}, expected {wanted.flatten()[:6].tolist()}"


def check_line(error, *names):
    """Asserts that an error is one readable line and holds everything in `names` (of a tuple: any)."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    assert "\n" not in text, f"several lines: {text[:300]!r}"
    assert len(text) < 2000, f"{len(text)} characters: {text[:300]!r}"
    for name in names:
        several = name if isinstance(name, tuple) else (name,)
        assert any(each in text for each in several), f"not a word of {several}: {type(error).__name__}: {text[:300]}"


@contextmanager
def refused(*names):
    """What runs inside is refused by a ValueError: one line that holds everything in `names`."""
    try:
        yield
    except ValueError as error:
        check_line(error, *names)
    except Exception as error:
        raise AssertionError(f"not a ValueError but {type(error).__name__}: {str(error)[:200]!r}") from error
    else:
        raise AssertionError("passed in silence")


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


@contextmanager
def told(*names):
    """What runs inside warns once, in one line that holds everything in `names`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert len(caught) == 1, [str(each.message) for each in caught]
    check_line(caught[0].message, *names)


def term(name="alpha", loss=losses.squared_error, *normalizer, kind: Any = hw.Term, **options):
    """A term that reads x and y."""
    return kind(name, loss, *normalizer, **{"output": "x", "target": "y", **options})


def number(shape=(2, 3, 4, 4), dtype=torch.float32):
    """An output."""
    return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()


def call(outputs, targets, *terms, denominators=None, **options):
    """One step of a criterion with a ledger.

    Returns:
        The breakdown and the books.
    """
    criterion = hw.Criterion(terms, **options)
    with hw.Ledger(criterion) as ledger:
        breakdown = criterion(outputs, targets, denominators)
        breakdown.total.backward()
        return breakdown, ledger.read()
