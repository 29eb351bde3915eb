"""What a run writes and keeps grows with its terms and its logged steps, by little, and with nothing else."""

import gc
import sys
import types

import pytest
import torch

import headwise as hw
from headwise import losses
from headwise.runs.log import RunLog, step_entry
from tests.criterion import told as kit

PER_TERM = 400
"""Bytes of a term on a line of log.jsonl: six numbers, an output and its name, with room."""


def books_of(terms, outputs):
    """Books of a step: terms in turn read one of the outputs."""
    made = [
        kit.term(f"term{n}", losses.squared_error, output=f"out{n % outputs}", target=f"y{n}", weight=0.5)
        for n in range(terms)
    ]
    x = {f"out{n}": kit.number((2, 3)) for n in range(outputs)}
    return kit.call(x, {f"y{n}": torch.randn(2, 3) for n in range(terms)}, *made)[1]


def logged(folder, books, steps):
    """Bytes that a run writes for so many lines, by file."""
    folder.mkdir()
    log = RunLog(folder, 0)
    for step in range(1, steps + 1):
        log.step(step_entry(step, books, time=0.1 * step, images_per_second=9.5, learning_rate=1e-3))
    log.close()
    return {path.name.partition(".")[0]: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("terms", [5, 20])
def test_a_line_of_the_log(tmp_path, terms):
    """Bytes a term and line, with an output of its own for each."""
    found = logged(tmp_path / "run", books_of(terms, terms), 8)["log"] / 8 / terms
    assert found <= PER_TERM, f"{found:.0f} bytes a term and line"


@pytest.mark.parametrize("terms", [10, 40])
def test_terms_that_share_an_output(tmp_path, terms):
    """Pairs of terms are as many as the square: the log keeps those that matter, or writes them briefly."""
    found = logged(tmp_path / "run", books_of(terms, 1), 8)["log"] / 8 / terms
    assert found <= 2 * PER_TERM, f"{found:.0f} bytes a term and line: the pairs take most of it"


@pytest.mark.parametrize("terms", [10, 40])
def test_event_files(tmp_path, terms):
    """TensorBoard's file too, where there is one."""
    sizes = logged(tmp_path / "run", books_of(terms, 1), 8)
    found = sum(size for name, size in sizes.items() if name.startswith("events")) / 8 / terms
    assert found <= 2 * PER_TERM, f"{found:.0f} bytes a term and line"


def held(thing):
    """Bytes of all that an object holds, code and classes left out."""
    seen, waiting, size = set(), [thing], 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(
            each, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType
        ):
            continue
        seen.add(id(each))
        size += sys.getsizeof(each)
        waiting += gc.get_referents(each)
    return size


def test_a_ledger_s_memory():
    """It does not grow by the step."""
    x, y = kit.number((2, 3)), torch.randn(2, 3)
    criterion = hw.Criterion([kit.term("alpha")])
    ledger, sizes = hw.Ledger(criterion, capacity=8), []
    for steps in (100, 1000):
        for _ in range(steps):
            x.grad = None
            criterion({"x": x}, {"y": y}).total.backward()
        ledger.read()
        sizes.append(held(ledger))
    ledger.close()
    assert sizes[1] - sizes[0] < 1000, f"{sizes[1] - sizes[0]} bytes more after 1000 steps"
