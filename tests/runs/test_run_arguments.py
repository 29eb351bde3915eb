"""What loops hand to their run: settings, learning rates, books and intervals in the forms in which loops hold them."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwise as hw
from headwise import losses
from headwise.runs.reading import read_run


@dataclasses.dataclass
class Settings:
    rate: float = 0.5
    data: Path = Path("here")


def a_loop() -> hw.Ledger:
    criterion = hw.Criterion([hw.Term("y", losses.squared_error, output="y", target="t")])
    ledger = hw.Ledger(criterion)
    criterion({"y": torch.ones(2, requires_grad=True)}, {"t": torch.zeros(2)}).total.backward()
    return ledger


@pytest.mark.parametrize(("config", "told"), [
    (None, {}),
    (argparse.Namespace(lr=0.1, name="x"), {"lr": 0.1, "name": "x"}),
    (Settings(), {"rate": 0.5, "data": "here"}),
    ({"optimizer": Settings()}, {"optimizer": {"rate": 0.5, "data": "here"}}),
    ({(1, 2): np.float32(0.5), "sizes": (1, np.int64(2))}, {"(1, 2)": 0.5, "sizes": [1, 2]}),
    ({"weight": torch.tensor(2.0), "dtype": torch.float16}, {"weight": 2.0, "dtype": "torch.float16"}),
])  # fmt: skip
def test_settings_of_any_form(tmp_path, config, told):
    with hw.Run(tmp_path / "run", config=config):
        pass
    assert read_run(tmp_path / "run").config["arguments"] == told


def test_settings_without_names_and_those_that_hold_themselves_are_refused(tmp_path):
    endless: dict[str, Any] = {}
    endless["self"] = endless
    others: list[Any] = [[1, 2], 0.1, "lr=0.1", json, argparse.Namespace, Path("x"), endless]
    for config in others:
        with pytest.raises(ValueError, match=r"runs\.Run: config "):
            hw.Run(tmp_path / "run", config=config)
    assert not (tmp_path / "run").exists()


def test_learning_rates_of_any_form(tmp_path):
    forms: list[Any] = [0.5, [0.5, 0.1], np.float32(0.5), torch.tensor(0.5), (torch.tensor([0.5]),), None]
    books = a_loop().read()
    with hw.Run(tmp_path / "run", every=1) as run:
        for step, rate in enumerate(forms, start=1):
            run.log(step, books, learning_rate=rate)
        others: list[Any] = ["0.5", True, [], torch.ones(2), {"lr": 0.5}]
        for rate in others:
            with pytest.raises(ValueError, match="learning_rate is a number"):
                run.log(9, learning_rate=rate)
    assert read_run(tmp_path / "run").log.column("learning_rate") == [0.5] * 5 + [None]


def test_what_are_no_books_and_intervals_that_are_no_numbers(tmp_path):
    others: list[Any] = ["50", 2.5, 0, None, True]
    for every in others:
        with pytest.raises(ValueError, match="every is a whole number from 1"):
            hw.Run(tmp_path / "run", every=every)
    with hw.Run(tmp_path / "run") as run:
        for books in ({"y": 1.0}, 3):
            with pytest.raises(ValueError, match=r"books are what ledger\.read\(\) gives"):
                run.log(1, books)  # type: ignore[arg-type]


def test_a_closed_run_says_so(tmp_path):
    with hw.Run(tmp_path / "run", a_loop()) as run:
        run.log(1)
    picture = np.zeros((2, 2, 3), np.uint8)
    for call in (lambda: run.log(50), lambda: run.evaluate(1, {"f": 1.0}), lambda: run.show(picture)):
        with pytest.raises(ValueError, match="this run is closed"):
            call()
    run.close()


def test_a_resume_where_no_run_is_told(tmp_path):
    """The name may be misspelt, or the first steps may have been taken without books."""
    with pytest.warns(UserWarning, match="no run to go on with; one begins after step 100"):
        hw.Run(tmp_path / "elsewhere", resume=100).close()
    hw.Run(tmp_path / "new", resume=0).close()


def test_pictures_of_before_a_resume_stay(tmp_path):
    picture = np.zeros((2, 2, 3), np.uint8)
    with hw.Run(tmp_path / "run") as run:
        first = [run.show(picture, name=f"{number}") for number in range(2)]
    with hw.Run(tmp_path / "run", resume=1) as run:
        assert run.show(picture + 1).name == "002.npz"
    assert [path.exists() for path in first] == [True, True]
