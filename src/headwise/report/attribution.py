"""One page on which loss trains what: the tables of `headwise.attribution` as figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from headwise.attribution.jacobians.effect import Effect
from headwise.attribution.jacobians.jacobian_table import JacobianTable
from headwise.attribution.ledger.books import Books
from headwise.attribution.tracing.trace_table import Trace
from headwise.report.figures.charts import Curves
from headwise.report.figures.heatmap import HeatMap
from headwise.report.page.blocks import Block, Remarks, Table
from headwise.report.page.page import Page, Section
from headwise.report.sections.layers import Layer, at_most, measured_layers, merged, traced_layers
from headwise.report.sections.streams import loss_flow

_MOST_LAYERS = 32
_MOST_PAIRS = 12

_SCOPES = {"local": "local: of this process's samples", "global": "global: of the whole batch"}


def write_attribution(
    path: Path | str,
    *,
    trace: Trace | None = None,
    jacobian: JacobianTable | None = None,
    history: Sequence[Books] | None = None,
    effect: Effect | None = None,
    title: str = "Which loss trains what",
    subtitle: str = "",
) -> Path:
    """Write one self-contained HTML page on any of attribution's tables.

    Every figure has its numbers beside it and says at which level they were taken, whether they are local or global,
    and that they are exact.

    Args:
        path: The file; its folder is made where it is missing.
        trace: What each loss reaches.
        jacobian: Terms by parameters; with a Gramian there is a matrix of conflicts as well.
        history: Books of several steps: ``ledger.history()``, or a callback's ``history``.
        effect: What a step does to each loss.
        title: Of the page.
        subtitle: A line under it.

    Returns:
        `path`.

    Raises:
        ValueError: There is no table at all, or the file cannot be written.
    """
    return attribution_page(trace, jacobian, history, effect, title, subtitle).write(Path(path))


def attribution_page(
    trace: Trace | None = None,
    jacobian: JacobianTable | None = None,
    history: Sequence[Books] | None = None,
    effect: Effect | None = None,
    title: str = "Which loss trains what",
    subtitle: str = "",
) -> Page:
    """The page of `write_attribution`, not yet written.

    Args:
        trace: What each loss reaches.
        jacobian: Terms by parameters.
        history: Books of several steps.
        effect: What a step does to each loss.
        title: Of the page.
        subtitle: A line under it.

    Returns:
        The page, with a section per table.

    Raises:
        ValueError: There is no table at all.
    """
    page = Page(title, subtitle)
    if trace is not None:
        page.add(Section("Findings", [Remarks(_remarks(trace))]))
    if trace is not None or jacobian is not None:
        page.add(Section("Where each loss goes", [_flow(trace, jacobian)]))
    if jacobian is not None:
        page.add(Section("How hard each loss pulls", _strength(jacobian)))
        if len(jacobian.losses) > 1 and jacobian.shared:
            page.add(Section("Whether the losses agree", _agreement(jacobian)))
    if effect is not None:
        page.add(Section("What the step does to each loss", [_effect_table(effect)]))
    if history:
        page.add(Section("Over time", _over_time(history)))
    if trace is not None:
        page.add(Section("What each loss reaches", _reach(trace)))
    if not page.sections:
        raise ValueError(
            "write_attribution: nothing to show. Give at least one of trace, jacobian, effect, or a history of books."
        )
    return page


def _flow(trace: Trace | None, table: JacobianTable | None) -> Block:
    stages = (
        "Heads: what one loss trains alone (where nothing is, the last layer); trunk: what the most losses share; "
        "inputs: the first of these layers, which reads them."
    )
    traced = [row.name for row in trace.losses] if trace is not None else []
    if table is None:
        assert trace is not None
        how = "From the graph, exact; nothing was measured. A ribbon says that the loss reaches what it ends at."
        return loss_flow(traced, traced_layers(trace), f"{how} {stages}")
    how = (
        f"{_where(table)} A ribbon is as wide as the norm of the loss's gradient at the parameters it ends at, a bar "
        "as high as their sum; dotted: reached, with a gradient of 0."
    )
    names = list(dict.fromkeys([*traced, *table.losses]))
    return loss_flow(names, measured_layers(table), f"{how} {stages}", "gradient norm")


def _where(table: JacobianTable) -> str:
    return f"Level: {table.level}, {_SCOPES[table.scope]}, exact."


def _strength(table: JacobianTable) -> list[Block]:
    layers = measured_layers(table)
    shown = at_most(layers, _MOST_LAYERS)
    together = "" if len(shown) == len(layers) else f" {len(layers)} layers are shown as {len(shown)} modules."
    cells = [[layer.norm(loss) for layer in shown] for loss in table.losses]
    heat = HeatMap(
        "Terms x layers", table.losses, [layer.name for layer in shown], cells, unit="gradient norm", log=True,
        absent="not reached",
        caption=f"{_where(table)} The norm of each loss's gradient at each layer's parameters; layers from the inputs "
        f"on.{together} A dash: the loss does not reach the layer.",
    )  # fmt: skip
    rows = [[row.group, row.loss, row.norm, row.share, row.cosine] for row in table.rows]
    numbers = Table(
        ("layer", "loss", "gradient norm", "share of the norms", "cosine with the sum"),
        rows,
        title="All layers",
        caption=f"{_where(table)} Share: of the sum of all losses' norms at the layer.",
        folded=True,
    )
    return [heat, numbers]


def _agreement(table: JacobianTable) -> list[Block]:
    shared = [layer for layer in measured_layers(table) if len(layer.losses) > 1]
    shown = at_most(shared, _MOST_LAYERS)
    blocks: list[Block] = []
    if not table.gram.knows_pairs:
        note = "Conflict between losses needs the Gramian: jacobian(..., gramian=True)."
        blocks.append(Remarks([("note", note)]))
    else:
        blocks += [_matrix(table, merged("all", shared)), _by_layer(table, shown)]
    if table.gram.knows_total:
        blocks.append(_with_the_sum(table, shown))
    return blocks


def _matrix(table: JacobianTable, shared: Layer) -> HeatMap:
    cells = [[1.0 if one == other else shared.cosine(one, other) for other in table.losses] for one in table.losses]
    return HeatMap(
        "Conflict between losses", table.losses, table.losses, cells, unit="cosine", diverging=True,
        absent="a gradient is 0",
        caption=f"{_where(table)} The cosine between two losses' gradients, over all parameters that losses share. 1: "
        "they ask for the same change; -1 (hatched): for opposite changes.",
    )  # fmt: skip


def _by_layer(table: JacobianTable, shown: Sequence[Layer]) -> HeatMap:
    pairs: list[tuple[str, list[float | None]]] = []
    for one, other in combinations(table.losses, 2):
        pairs.append((f"{one} | {other}", [layer.cosine(one, other) for layer in shown]))
    pairs.sort(key=lambda pair: min((value for value in pair[1] if value is not None), default=2.0))
    kept = pairs[:_MOST_PAIRS]
    left_out = f" The {len(kept)} pairs with the lowest values of {len(pairs)}." if len(kept) < len(pairs) else ""
    return HeatMap(
        "Conflict by layer", [name for name, _ in kept], [layer.name for layer in shown], [line for _, line in kept],
        unit="cosine", diverging=True, absent="not shared, or a gradient of 0",
        caption=f"{_where(table)} The same per layer: where two losses part.{left_out}",
    )  # fmt: skip


def _with_the_sum(table: JacobianTable, shown: Sequence[Layer]) -> HeatMap:
    return HeatMap(
        "Cosine with the sum", table.losses, [layer.name for layer in shown],
        [[layer.cosine(loss) for layer in shown] for loss in table.losses],
        unit="cosine", diverging=True, absent="not reached, or a gradient of 0",
        caption=f"{_where(table)} Each loss's gradient against the gradient of the sum, at the parameters that losses "
        "share. Below 0 (hatched): the update works against the loss there.",
    )  # fmt: skip


def _effect_table(effect: Effect) -> Table:
    rows: list[list[object]] = []
    for loss, value, change in zip(effect.losses, effect.values, effect.changes, strict=True):
        verdict = "harmed" if change > 0 else "helped" if change < 0 else "unmoved"
        rows.append([loss, value, change, change / value if value else None, verdict])
    how = "one forward-mode pass" if effect.method == "forward" else f"one backward pass per loss ({effect.reason})"
    return Table(
        ("loss", "value", "change", "change / value", "the step"),
        rows,
        title="Effect of the step",
        caption=f"Level: parameter, to first order, by {how}. Change: the inner product of the loss's gradient with "
        "the step; above 0 the step raises the loss.",
    )


def _over_time(history: Sequence[Books]) -> list[Block]:
    names = list(dict.fromkeys(name for books in history for name in books.names))
    steps = [books.step for books in history]
    scope = _SCOPES["global" if all(books.scope == "global" for books in history) else "local"]

    def column(what: str) -> dict[str, list[float | None]]:
        return {name: [getattr(b[name], what) if name in b else None for b in history] for name in names}

    return [
        Curves("Share of the total", steps, column("share"), stacked=True, unit="share", wide=True,
               caption=f"Exact, {scope}. Each band's height is one term's part of the total. A share is not an "
               "influence: see the gradient norms."),
        Curves("Gradient norm of each term", steps, column("grad_norm"), log=True, unit="gradient norm",
               caption=f"Level: output, {scope}, exact: the norm of d(weight x value) / d(what the term reads)."),
        Curves("Value of each term", steps, column("value"), log=True, unit="value",
               caption=f"Exact, {scope}. The term's sum over its denominator, before its weight."),
    ]  # fmt: skip


def _remarks(trace: Trace) -> list[tuple[str, str]]:
    found = [
        ("problem", f"{row.name}: trains nothing. {row.reason.capitalize()}.") for row in trace.losses if row.reason
    ]
    for kind, label, names in (
        ("problem", "Outputs, or channels of them, that no loss trains", trace.untrained_outputs),
        ("problem", "Parameters that no loss reaches", trace.unreached_parameters),
        ("note", "Outputs reached through weight 0 only", trace.zero_weight_outputs),
        ("note", "Parameters reached through weight 0 only", trace.zero_weight_parameters),
    ):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            found.append((kind, f"{label}: {', '.join(names[:8])}{more}."))
    found += [("note", f"{row.node} hides what lies behind it: {row.reason}.") for row in trace.opaque]
    what = "output and parameter" if trace.outputs else "parameter"
    return found or [("good", f"Every loss reaches parameters, and some loss reaches every {what}.")]


def _reach(trace: Trace) -> list[Block]:
    losses = [row.name for row in trace.losses]
    modules = [
        [row.name or "(model)", row.kind, row.num_parameters, *(_mark(row.losses, row.zero_weight, x) for x in losses)]
        for row in trace.modules
        if row.num_parameters
    ]
    caption = "From the graph, exact. A dash: no path from the loss leads there."
    blocks: list[Block] = []
    if trace.outputs:
        rows = [
            [row.name, " x ".join(map(str, row.shape)),
             *(str(row.channels[x]) if x in row.channels else None for x in losses)]
            for row in trace.outputs
        ]  # fmt: skip
        blocks.append(Table(("output", "shape", *losses), rows, title="Outputs: which channels each loss reads",
                            caption=caption))  # fmt: skip
    head = ("module", "kind", "parameter tensors", *losses)
    return [*blocks, Table(head, modules, title="Modules", caption=caption, folded=len(modules) > _MOST_LAYERS)]


def _mark(losses: Sequence[str], zero_weight: Sequence[str], loss: str) -> str | None:
    if loss not in losses:
        return None
    return "weight 0" if loss in zero_weight else "yes"
