"""Gradients with books on and off are equal to the bit: compiled, of a half precision output that two losses read."""

import logging
import shutil

import pytest
import torch

import headwise as hw
from headwise import losses
from tests.criterion import told as kit

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="no C++ compiler")


def own(output, target):
    """A loss of the user's own."""
    return torch.log1p((output.double() - target.double()).square()).sum()


def gradients(books, compile, dtype, first, second):
    torch.manual_seed(0)
    x = torch.randn(5, 5).to(dtype).requires_grad_()
    targets = {"y": torch.randn(5, 5, dtype=torch.float64), "z": torch.randn(5, 5, dtype=torch.float64)}
    criterion = hw.Criterion(
        [kit.term("alpha", first, weight=0.25), kit.term("beta", second, target="z", weight=-1.0)], compile=compile
    )
    ledger = hw.Ledger(criterion, channels=True) if books else None
    (criterion({"x": x}, targets).total / 3).backward()
    if ledger is not None:
        ledger.close()
    return x.grad


@pytest.fixture(autouse=True)
def fresh():
    logging.disable(logging.DEBUG)  # of which a compiler has thousands of lines to tell
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_an_own_loss_and_one_of_ours_compiled():
    """A compiler may keep more digits where no books ask for them."""
    off, on = (gradients(books, True, torch.bfloat16, own, losses.squared_error) for books in (False, True))
    assert torch.equal(off, on), f"{int((off != on).sum())} of {off.numel()} elements differ"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_eager(dtype):
    off, on = (gradients(books, False, dtype, own, losses.squared_error) for books in (False, True))
    assert torch.equal(off, on)
