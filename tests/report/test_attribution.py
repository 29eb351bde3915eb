"""The page on attribution: its numbers are the tables' numbers, and it says what they are."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import headwise as hw
from headwise.attribution import effect, jacobian, trace
from headwise.attribution.gram import Gram
from headwise.report import Curves, Flow, HeatMap, Remarks, Table
from headwise.report.attribution import attribution_page, write_attribution
from headwise.report.sections.layers import Layer, at_most, measured_layers, span, traced_layers
from headwise.report.sections.streams import loss_flow
from tests.report.parsed import ParsedPage


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.near, self.far, self.unused = nn.Linear(8, 2), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x):
        features = self.body(x)
        return {"near": self.near(features), "far": self.far(features), "spare": self.unused(features)}


def squares(output):
    return output.square().sum()


CRITERION = hw.Criterion(
    [
        hw.Term("close", squares, 4.0, output="near"),
        hw.Term("distant", lambda y: (y - 1).abs().sum(), 4.0, output="far[:, 0:2]", weight=0.5),
    ],
    unread=["far[:, 2]", "spare"],
)


@pytest.fixture(scope="module")
def tables():
    network = TwoHeads()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    with hw.Ledger(CRITERION) as ledger:
        for _ in range(3):
            CRITERION(network(x), {}).total.backward()
        history = ledger.history()
    outputs = network(x)
    losses = CRITERION(outputs, {})
    return {
        "trace": trace(losses, network, outputs),
        "jacobian": jacobian(losses, network, group="module", gramian=True),
        "effect": effect(lambda: CRITERION(network(x), {}), network),
        "history": history,
    }


def blocks(page, kind):
    return [block for section in page.sections for block in section.blocks if isinstance(block, kind)]


def block(page, title):
    return next(b for section in page.sections for b in section.blocks if getattr(b, "title", "") == title)


def test_heat_map_holds_the_norms_of_the_table(tables):
    heat = block(attribution_page(jacobian=tables["jacobian"]), "Terms x layers")
    table = tables["jacobian"]
    assert heat.log
    assert heat.columns == ["body.0", "body.2", "near", "far"]
    for loss, line in zip(heat.rows, heat.values, strict=True):
        for layer, value in zip(heat.columns, line, strict=True):
            if (loss, layer) in (("close", "far"), ("distant", "near")):
                assert value is None
            else:
                assert value == pytest.approx(table.norm(loss, layer), rel=1e-9)


def test_conflict_is_taken_where_losses_meet(tables):
    table = tables["jacobian"]
    page = attribution_page(jacobian=table)
    matrix, layers = block(page, "Conflict between losses"), block(page, "Conflict by layer")
    shared = table.gram.products[[0, 1]].sum(0)
    told = float(shared[0, 1] / (shared[0, 0] * shared[1, 1]).sqrt())
    assert matrix.values[0][1] == matrix.values[1][0] == pytest.approx(told)
    assert abs(told) > 1e-3
    assert layers.rows == ["close | distant"]
    assert layers.columns == ["body.0", "body.2"]
    assert layers.values == [[pytest.approx(table.conflict("close", "distant", group)) for group in layers.columns]]
    cosines = block(page, "Cosine with the sum")
    for loss, line in zip(cosines.rows, cosines.values, strict=True):
        assert line == [pytest.approx(table.cosine(loss, group)) for group in cosines.columns]


def test_without_a_gramian_the_page_says_what_is_missing(tables):
    table = tables["jacobian"]
    products = table.gram.products.clone()
    products[:, 0, 1] = products[:, 1, 0] = torch.nan
    page = attribution_page(jacobian=replace(table, gram=replace(table.gram, products=products)))
    (remarks,) = blocks(page, Remarks)
    assert "gramian=True" in remarks.items[0][1]
    assert block(page, "Cosine with the sum")
    products[:, 2] = products[:, :, 2] = torch.nan
    without = attribution_page(jacobian=replace(table, gram=replace(table.gram, products=products)))
    assert [heat.title for heat in blocks(without, HeatMap)] == ["Terms x layers"]


def test_flow_goes_from_losses_over_heads_and_trunk_to_inputs(tables):
    table = tables["jacobian"]
    flow = block(attribution_page(trace=tables["trace"], jacobian=table), "From losses to inputs")
    assert {heading: list(names) for heading, names in flow.stages.items()} == {
        "losses": ["close", "distant"], "heads": ["near", "far"], "trunk": ["body.2"], "inputs": ["body.0"],
    }  # fmt: skip
    amounts = {(link.term, link.source, link.target): link.amount for link in flow.links}
    assert amounts == {
        ("close", "close", "near"): pytest.approx(table.norm("close", "near")),
        ("close", "near", "body.2"): pytest.approx(table.norm("close", "body.2")),
        ("close", "body.2", "body.0"): pytest.approx(table.norm("close", "body.0")),
        ("distant", "distant", "far"): pytest.approx(table.norm("distant", "far")),
        ("distant", "far", "body.2"): pytest.approx(table.norm("distant", "body.2")),
        ("distant", "body.2", "body.0"): pytest.approx(table.norm("distant", "body.0")),
    }


def test_flow_of_a_trace_alone_says_that_nothing_was_measured(tables):
    flow = block(attribution_page(trace=tables["trace"]), "From losses to inputs")
    assert {link.amount for link in flow.links} == {1.0}
    assert flow.unit == "reached"
    assert "nothing was measured" in flow.caption


def test_flow_of_partly_shared_layers_shared_heads_and_equal_names():
    def drawn(*layers):
        return {k: list(v) for k, v in loss_flow(["a", "b", "c"], [Layer(*one) for one in layers], "").stages.items()}

    losses = {"losses": ["a", "b", "c"]}
    partly = drawn(("stem", ("a", "b", "c")), ("neck", ("a", "b")), ("a", ("a",)), ("b", ("b",)), ("c", ("c",)))
    heads = ["a (heads)", "b (heads)", "c (heads)"]
    assert partly == {**losses, "heads": heads, "shared by some": ["neck"], "inputs": ["stem"]}
    all_shared = drawn(*[(name, ("a", "b", "c")) for name in ("conv1", "conv2", "conv3", "last")])
    assert all_shared == {**losses, "heads": ["last"], "trunk": ["conv2 … conv3"], "inputs": ["conv1"]}
    assert drawn(("x", ("a",)), ("y", ("b",))) == {**losses, "heads": ["x", "y"]}
    long = [
        ("net.stem.conv1", ("a", "b", "c")),
        ("net.heads.0", ("a",)),
        ("net.heads.1.b", ("b",)),
        ("far.conv1", ("c",)),
    ]
    assert drawn(*long) == {**losses, "heads": ["heads.0", "net.heads.1.b", "conv1"], "inputs": ["net.stem.conv1"]}
    assert drawn() == losses


def test_what_some_share_stands_on_top_and_colors_keep_the_order_of_the_losses():
    layers = [Layer("stem", ("a", "b", "c")), Layer("neck", ("b", "c")), Layer("x", ("a",)), Layer("y", ("b",))]
    flow = loss_flow(["a", "b", "c"], layers, "")
    assert list(flow.stages["losses"]) == ["b", "c", "a"]
    assert list(flow.stages["heads"]) == ["y", "x"]
    assert flow.terms == ["a", "b", "c"]
    assert flow.html("k").count("ribbon c0") == 2 * 2  # a to x to stem, drawn broad and slim


def test_layers_merge_as_deep_as_fits():
    groups = [f"{i}{j}" for i in range(3) for j in range(4)]
    squares = {**{("a", group): 1.0 for group in groups}, ("b", "h"): 9.0}
    gram = Gram.of_pairs(squares, {}, dict.fromkeys("ab", 1.0), dict.fromkeys("ab", 1.0))
    layers = [Layer(f"body.{g[0]}.conv{g[1]}", ("a",), (g,), gram) for g in groups]
    layers.append(Layer("head", ("b",), ("h",), gram))
    assert at_most(layers, 13) == layers
    assert [layer.name for layer in at_most(layers, 12)] == ["body.0", "body.1", "body.2", "head"]
    assert [layer.name for layer in at_most(layers, 3)] == ["body", "head"]
    body = at_most(layers, 3)[0]
    assert body.norm("a") == pytest.approx(math.sqrt(12))
    assert body.norm("b") is None
    assert len(body.groups) == 12
    assert span(layers[:4]) == "body.0"
    assert span(layers) == "body … head"


def test_trace_and_jacobian_agree_on_who_reaches_what(tables):
    traced = {layer.name: set(layer.losses) for layer in traced_layers(tables["trace"])}
    assert traced == {layer.name: set(layer.losses) for layer in measured_layers(tables["jacobian"])}


def test_a_gradient_of_zero_has_no_conflict(tables):
    table = tables["jacobian"]
    gram = replace(table.gram, products=torch.zeros_like(table.gram.products))
    assert Layer("body.0", ("close", "distant"), ("body.0",), gram).cosine("close", "distant") is None


def test_findings_name_what_no_loss_trains(tables):
    (remarks,) = blocks(attribution_page(trace=tables["trace"]), Remarks)
    said = " ".join(text for _, text in remarks.items)
    assert "far[:, 2], spare" in said
    assert "unused.weight, unused.bias" in said
    good = replace(tables["trace"], outputs=(), parameters=tables["trace"].parameters[:2])
    assert blocks(attribution_page(trace=good), Remarks)[0].items[0][0] == "good"


def test_a_loss_without_a_graph_is_a_problem():
    network = TwoHeads()
    near = network(torch.ones(2, 4))["near"].sum()
    page = attribution_page(trace=trace({"near": near, "lost": near.detach()}, network))
    assert any(
        kind == "problem" and text.startswith("lost: trains nothing") for kind, text in blocks(page, Remarks)[0].items
    )
    assert "lost" in block(page, "From losses to inputs").stages["losses"]


def test_history_is_drawn_over_its_steps(tables):
    page = attribution_page(history=tables["history"])
    share = block(page, "Share of the total")
    assert share.stacked
    assert share.steps == [0, 1, 2]
    assert share.series["close"] == [books["close"].share for books in tables["history"]]
    assert {curves.title for curves in blocks(page, Curves)} > {"Gradient norm of each term"}


def test_effect_is_a_table(tables):
    table = block(attribution_page(effect=tables["effect"]), "Effect of the step")
    assert [row[:3] for row in table.rows] == [
        [loss, value, change]
        for loss, value, change in zip(
            *(getattr(tables["effect"], n) for n in ("losses", "values", "changes")), strict=True
        )
    ]
    assert {row[4] for row in table.rows} <= {"helped", "harmed"}


def test_every_figure_says_level_scope_and_exactness(tables):
    page = attribution_page(**tables)
    for figure in (*blocks(page, HeatMap), *blocks(page, Flow)):
        assert "Level: parameter, global" in figure.caption
        assert "exact" in figure.caption
    for curves in blocks(page, Curves):
        assert "local" in curves.caption
        assert "xact" in curves.caption
    gram = tables["jacobian"].gram
    own = replace(gram, where=replace(gram.where, scope="local"))
    local = attribution_page(jacobian=replace(tables["jacobian"], gram=own))
    assert all("local: of this process's samples" in heat.caption for heat in blocks(local, HeatMap))
    assert all(table.caption for table in blocks(page, Table))


def test_the_page_is_whole_and_needs_no_network(tables, tmp_path):
    path = write_attribution(tmp_path / "folder" / "page.html", **tables, subtitle="two heads")
    page = ParsedPage(path)
    assert not [address for address in page.addresses() if not address.startswith(("#", "data:"))]
    assert "two heads" in page.text
    assert path.stat().st_size < 1_000_000


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one of trace, jacobian, effect"):
        write_attribution(tmp_path / "page.html")
