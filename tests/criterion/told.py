"""Clear refusals, and small criteria to be refused."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import torch

import headwise as hw
from headwise import losses
from tests.expect import check_line as check_line
from tests.expect import refused as refused


def near(found, wanted):
    """Asserts that two numbers or tensors agree to float32's rounding."""
    torch.testing.assert_close(torch.as_tensor(found).detach(), torch.as_tensor(wanted), rtol=1e-5, atol=1e-12)


@contextmanager
def right_or_told(*names):
    """The asserts inside hold, or a ValueError or a warning, of one line, holds everything in `names`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except AssertionError:
            for each in caught:
                try:
                    return check_line(each.message, *names)
                except AssertionError:
                    continue
            raise
        except ValueError as error:
            check_line(error, *names)
        except Exception as error:
            raise AssertionError(f"not a ValueError but {type(error).__name__}: {str(error)[:200]!r}") from error


def silent(why):
    """For the end of a `right_or_told` block whose only right ends are a refusal and a warning."""
    raise AssertionError(f"passed in silence: {why}")


def term(name="alpha", loss=losses.squared_error, *normalizer, kind=hw.Term, **options):
    """A term that reads x and y."""
    return kind(name, loss, *normalizer, **{"output": "x", "target": "y", **options})


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


def number(shape=(2, 3, 4, 4), dtype=torch.float32):
    """An output."""
    return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
