"""Everything that prints as a table does so in a notebook too, and gives its columns as plain data."""

import importlib
import json
import math
import sys

import pytest
import torch
from torch import nn

import headwise as hw
from headwise.attribution import (
    Channels,
    FeatureBooks,
    audit,
    check_sum,
    effect,
    jacobian,
    take_apart,
    trace,
    transfer,
)
from headwise.runs import Run
from headwise.runs.alerts import Alert, Alerts
from headwise.runs.comparing import compare
from headwise.runs.reading import read_run
from headwise.tabular import Tabular, table_html
from headwise.testing import assert_split_invariant
from tests.package.test_public_names import public_names
from tests.report.builder import build_run
from tests.runs.planted import Network, Plan, batch_of, criterion_of


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    torch.manual_seed(0)
    criterion, network = criterion_of(Plan()), Network()
    x, targets = batch_of(torch.Generator().manual_seed(0))

    def passes():
        return criterion(network(x), targets, ids=range(len(x)))

    with hw.Ledger(criterion, samples=2) as ledger:
        breakdown = passes()
        traced = trace(breakdown, network)
        table = jacobian(passes(), network)
        apart = take_apart(breakdown.total, breakdown, model=network)
        breakdown.total.backward()
        books, samples, suggestion = ledger.read(), ledger.samples("one"), ledger.suggest()
    runs = [read_run(build_run(tmp_path_factory.mktemp("runs") / name, num_lines=12, samples=0)) for name in "ab"]
    runs[1].log.column("terms", "sin", "weight")[5] = 3.0
    found = {"breakdown": breakdown, "books": books, "gram": books.gram, "trace": traced, "jacobian": table}
    found |= {"run": runs[0], "suggestion": suggestion, "samples": samples, "apart": apart, "comparison": compare(runs)}
    found |= {"sums": check_sum(passes, network, float64=False), "effect": effect(passes, network)}
    found |= {"transfer": transfer(passes, passes, network), "feature": FeatureBooks(books.gram)}
    found |= {"splits": assert_split_invariant(criterion, network(x), targets)}
    found["alert"] = Alert("dead", "sin", 3, 12, "Its gradient is 0.", "Look at its mask.")
    found["audit"] = audit((network, {"a": network(x)["one"].square().mean().detach()}))
    return {**found, "alerts": Alerts([found["alert"]])}


TABLES = [
    "breakdown", "books", "gram", "trace", "jacobian", "run", "suggestion", "samples", "apart", "comparison", "sums",
    "effect", "transfer", "feature", "splits", "alert", "alerts", "audit",
]  # fmt: skip


def printed():
    """Public classes whose objects print as more than their fields do."""
    for line in public_names():
        room, _, name = line.partition("(")[0].rpartition(".")
        found = getattr(importlib.import_module(f"headwise.{room}"), name)
        if isinstance(found, type) and {"__str__", "_repr_html_"} & vars(found).keys():
            yield found


def test_everything_that_prints_is_a_table_in_a_notebook(tables):
    shown = {type(each) for each in tables.values()}
    for kind in set(printed()) - {Channels, Run}:  # a part of a row; it shows its recording
        assert issubclass(kind, Tabular), kind
        assert kind in shown, f"{kind}: no test here"


@pytest.mark.parametrize("name", TABLES)
def test_a_notebook_shows_a_table_of_the_same_columns(tables, name):
    shown = tables[name]._repr_html_()
    columns = tables[name].to_dict()
    assert len({len(values) for values in columns.values()}) == 1
    assert shown.count("<tr>") == 1 + len(next(iter(columns.values())))
    for column in columns:
        assert f"<th>{column.replace('_', ' ')}</th>" in shown
    json.dumps(columns)


def test_numbers_are_those_of_the_table(tables):
    books, columns = tables["books"], tables["books"].to_dict()
    assert columns["term"] == ["one", "two", "three", "near", "far"]
    assert columns["grad_norm"] == [books[name].grad_norm for name in columns["term"]]
    assert tables["breakdown"].to_dict()["value"] == pytest.approx([books[name].value for name in books])
    gram = tables["gram"].to_dict()
    assert gram["cosine with far"][3] == books.cosine("near", "far")
    assert gram["cosine with far"][0] is None
    rows = zip(tables["jacobian"].to_dict()["loss"], tables["jacobian"].to_dict()["norm"], strict=True)
    assert list(rows) == [(row.loss, row.norm) for row in tables["jacobian"].rows]
    assert set(tables["trace"].to_dict()["one"]) == {"yes", None}
    assert "<svg" in tables["run"]._repr_html_()


def test_what_is_unbooked_is_a_row(tables):
    criterion, network = criterion_of(Plan()), nn.Linear(6, 4)
    x, targets = batch_of(torch.Generator().manual_seed(0))
    with hw.Ledger(criterion) as ledger:
        outputs = dict(zip(("one", "two", "three", "shared"), network(x).split(1, 1), strict=True))
        (criterion(outputs, targets).total + outputs["one"].square().mean()).backward()
        columns = ledger.read().to_dict()
    assert columns["term"][-1] == "unbooked"
    assert columns["value"][-1] is None


def test_an_audit_is_a_table_of_its_findings():
    network = nn.Linear(3, 2)

    outputs = network(torch.randn(4, 3))
    report = audit((network, {"a": outputs[:, 0].square().mean(), "b": outputs[:, 1].square().mean().detach()}))
    columns = report.to_dict()
    assert report.findings
    assert columns["kind"] == [each.kind for each in report.findings]
    assert report.summary().split(":")[0] in report._repr_html_()


def test_a_run_that_is_written_shows_itself(tmp_path):
    with Run(tmp_path / "run") as run:
        assert "no step logged yet" in run._repr_html_()


def test_texts_are_escaped_bars_drawn_long_tables_cut():
    columns: dict[str, list[object]] = {
        "term": ["<b>", "b"],
        "share": [0.5, math.nan],
        "norm": [2.0, 1.0],
        "note": [True, None],
    }
    shown = table_html(columns, "<i>")
    assert "<b></td>" not in shown
    assert "&lt;i&gt;" in shown
    assert "50.0%" in shown
    assert 'rect width="64.0"' in shown
    assert 'rect width="32.0"' in shown
    assert "49 more rows" in table_html({"n": list(range(249))}, "")


@pytest.mark.parametrize("name", TABLES)
def test_a_frame_has_the_columns_of_the_table(tables, name):
    pandas = pytest.importorskip("pandas", reason="pip install headwise[frames]")
    frame, columns = tables[name].to_frame(), tables[name].to_dict()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(columns)
    for column, values in columns.items():
        for found, value in zip(frame[column], values, strict=True):
            assert found == value or (pandas.isna(found) and (value is None or value != value))
    if name == "books":
        assert frame["grad_norm"].dtype == "float64"
        assert frame.set_index("term").loc["near", "value"] == tables["books"]["near"].value


def test_frames_need_their_extra(tables, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"Books.to_frame needs pandas.*headwise\[frames\]"):
        tables["books"].to_frame()
