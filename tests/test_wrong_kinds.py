"""What a newcomer hands over in place of what is meant: told what it is, and what to hand over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import headwise as hw
from headwise import attribution
from headwise.report import write_report
from headwise.runs.alerts import replay
from headwise.runs.comparing import compare
from headwise.testing import assert_books, assert_split_invariant
from headwise.training import Settings


def linear() -> tuple[nn.Module, torch.Tensor]:
    network = nn.Linear(2, 1)
    return network, network(torch.ones(3, 2)).square().mean()


def mean_of(y: torch.Tensor) -> torch.Tensor:
    return y.mean()


def small() -> hw.Criterion:
    return hw.Criterion([hw.Term("a", hw.losses.squared_error, output="y", target="t")])


def closed(path: Path) -> hw.Run:
    hw.Run(path / "run").close()
    run = hw.Run(path / "run", resume=3)
    run.close()
    return run


def after_backward(_: Path) -> object:
    network, loss = linear()
    loss.backward()
    return attribution.jacobian({"loss": loss}, network)


CASES: list[tuple[Callable[[Path], object], str]] = [
    (after_backward, "jacobian: a backward pass has freed the graph of the losses. Call it after the forward pass"),
    (lambda _: attribution.take_apart(3.0), "take_apart: the total has no graph"),  # type: ignore[arg-type]
    (lambda _: attribution.check_sum({}, nn.Linear(1, 1)), "check_sum: needs a function .* found dict"),  # type: ignore[arg-type]
    (lambda _: attribution.transfer({}, dict, nn.Linear(1, 1)), "transfer: needs a function .* found dict"),  # type: ignore[arg-type]
    (lambda _: attribution.transfer(dict, {}, nn.Linear(1, 1)), "transfer: needs a function .* found dict"),  # type: ignore[arg-type]
    (lambda _: attribution.effect({}, nn.Linear(1, 1), {}), "effect: needs a function .* found dict"),  # type: ignore[arg-type]
    (lambda _: attribution.wrap(torch.ones(())), "wrap: a criterion is a function .* not what it returned"),  # type: ignore[arg-type]
    (lambda _: attribution.watch(mean_of), "watch: a model is an nn.Module; found function"),  # type: ignore[arg-type]
    (lambda _: hw.Ledger(attribution.wrap(mean_of)), "a Wrapped keeps books of its own.* Read its `ledger`"),  # type: ignore[arg-type]
    (lambda path: hw.Run(path / "run", attribution.wrap(mean_of)), "found Wrapped. Give its `ledger`"),  # type: ignore[arg-type]
    (lambda _: hw.Run(mean_of), "the first argument is the folder of the run, found function"),  # type: ignore[arg-type]
    (lambda path: hw.Run(path / "run", show=3), "show is a function of an id that returns a Shown, found 3"),  # type: ignore[arg-type]
    (lambda _: hw.losses.from_torch(nn.MSELoss), r"MSELoss is a class. Give one of it: MSELoss\(\)"),  # type: ignore[arg-type]
    (lambda _: compare([linear()[0]] * 2), r"compare: takes a run \(hw\.Run\).* found Linear. Give the run"),  # type: ignore[list-item]
    (lambda path: compare(str(path)), "compare: takes a list of two or more runs, found str"),
    (lambda _: replay(hw.Run), "replay: takes a run .* found the class Run"),  # type: ignore[arg-type]
    (lambda _: write_report({}), "write_report: takes a run .* found dict"),  # type: ignore[arg-type]
    (lambda _: hw.declared(mean_of), r"what is declared of mean_of .* Write @hw\.declared\(count=\.\.\.\)"),
    (lambda path: closed(path).log(1), "this run is closed"),
    (lambda _: hw.backward.aggregate(linear()[1], linear()[0], mean_of), r"found a Tensor\. Give what the criterion"),
    (lambda _: attribution.trace(linear()[1], mean_of), "trace: a model is an nn.Module; found function. Give the net"),  # type: ignore[arg-type]
    (lambda _: attribution.jacobian(linear()[1], nn.Linear), "jacobian: a model .* found the class Linear"),  # type: ignore[arg-type]
    (lambda _: attribution.effect(dict, [], {}), "effect: a model is an nn.Module; found list"),  # type: ignore[arg-type]
    (lambda _: attribution.transfer(dict, dict, None), "transfer: a model is an nn.Module; found NoneType"),  # type: ignore[arg-type]
    (lambda _: attribution.check_sum(dict, None), "check_sum: a model is an nn.Module; found NoneType"),  # type: ignore[arg-type]
    (lambda _: attribution.JacobianSampler(small().terms), "JacobianSampler: a model is an nn.Module"),  # type: ignore[arg-type]
    (lambda _: attribution.take_apart(linear()[1], model={}), "take_apart: a model is an nn.Module; found dict"),  # type: ignore[arg-type]
    (lambda _: hw.Ledger(small(), torch.optim.SGD(linear()[0].parameters())), "Ledger: .* an optimizer by its name"),  # type: ignore[arg-type]
    (lambda _: hw.pool_denominators({}, []), r"pool_denominators: needs an hw\.Criterion; found dict"),  # type: ignore[arg-type]
    (lambda _: hw.pool_denominators(small(), 3), "a list with the targets of each micro-batch; found int 3"),  # type: ignore[arg-type]
    (lambda _: hw.pool_ratios(hw.Criterion, []), r"pool_ratios: needs an hw\.Criterion; found the class"),  # type: ignore[arg-type]
    (lambda _: hw.pool_ratios(small(), {"y": 1}), "pool_ratios: a list with outputs and targets of each"),  # type: ignore[dict-item]
    (lambda _: hw.pool_ratios(small(), [{"y": 1}]), r"pool_ratios: .* Give \[\(outputs, targets\)\]"),  # type: ignore[list-item]
    (lambda _: hw.backward.staged(mean_of, torch.ones(1), {}, {}), r"staged: needs an hw\.Criterion; found function"),  # type: ignore[arg-type]
    (lambda _: assert_split_invariant(mean_of, {}, {}), r"assert_split_invariant: needs an hw\.Criterion"),  # type: ignore[arg-type]
    (lambda path: assert_books(None, {}, {}, path), r"assert_books: needs an hw\.Criterion; found NoneType"),  # type: ignore[arg-type]
    (lambda _: hw.undo_averaging({"a": linear()[1]}), "undo_averaging: .* found dict .* Give breakdown.total"),  # type: ignore[arg-type]
    (
        lambda _: hw.book(linear()[1], name="a", loss=mean_of, weight=float("nan")),
        "its weight is a finite .* found nan",
    ),
    (lambda _: attribution.wrap(mean_of, reads="y"), "wrap: reads is a dict .* found str 'y'"),  # type: ignore[arg-type]
    (lambda _: attribution.wrap(mean_of, [1, 2]), r"wrap: names is a list .* found list \[1, 2\]"),  # type: ignore[list-item]
    (lambda _: attribution.watch(linear()[0], names=7), "watch: names is a list .* found int 7"),  # type: ignore[arg-type]
    (lambda _: attribution.trace(linear()[1], linear()[0], probe="values"), "trace: probe .* found 'values'"),  # type: ignore[arg-type]
    (lambda _: hw.declared(count=3), "declared: count is a function; found 3"),  # type: ignore[arg-type]
    (lambda _: hw.declared(shared="ratio"), "declared: shared is a tuple of names of options; found 'ratio'"),  # type: ignore[arg-type]
    (lambda _: hw.declared(split_variant=True), "declared: split_variant says why; found True"),  # type: ignore[arg-type]
    (lambda _: hw.declared(least=-1), "declared: least is a finite number from 0; found -1"),
    (lambda _: Settings(steps=1, clip_norm=0.0), "clip_norm is 0.0, but must be a number above 0"),
    (lambda _: Settings(steps=1, clip_norm="1"), "clip_norm is '1', but must be a number above 0"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("wrong", "told"), CASES)
def test_what_is_meant_is_told(wrong: Callable[[Path], object], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        wrong(tmp_path)


def test_one_name_is_the_name_of_one_loss() -> None:
    wrapped = attribution.wrap(mean_of, "loss")
    wrapped(linear()[0](torch.ones(3, 2))).backward()
    assert list(wrapped.ledger.read()) == ["loss"]
