"""What the page on a run shows, section by section."""

from __future__ import annotations

import json
from collections.abc import Mapping

from headwise.report.figures.charts import Curves, sparkline
from headwise.report.figures.flow import Flow, Link
from headwise.report.figures.heatmap import HeatMap
from headwise.report.page.blocks import Block, Table, Tiles
from headwise.report.page.markup import NOTHING, number, percent
from headwise.report.page.page import Section
from headwise.report.pictures.top import TopRows
from headwise.report.sections.card import card_blocks
from headwise.report.sections.evaluations import headline
from headwise.runs.columns import finite, first, last, logged, median
from headwise.runs.reading import LOOP, Recording
from headwise.runs.top_samples import read_top_samples


def tiles(run: Recording) -> Tiles:
    """The facts a reader wants first, as far as the run tells them."""
    steps, total = run.log.steps, logged(run.log.column("total"))
    planned = run.config.get("steps")
    remark = f"of {planned:,} planned" if isinstance(planned, int) else ""
    facts = [("last step", f"{steps[-1]:,}" if steps else NOTHING, remark)]
    facts.append(("total loss", number(total[-1]) if total else NOTHING, f"from {number(total[0])}" if total else ""))
    judged = headline(run)
    if judged is not None:
        value, step = max(judged.values) if judged.higher_is_better else judged.values[-1]
        name = f"best {judged.name}" if judged.higher_is_better else judged.name
        facts.append((name, number(value), f"at step {step:,}"))
    elif run.config.get("loop") != LOOP:
        facts.append(("held-out pictures", NOTHING, "not evaluated"))
    speed, seconds = finite(run.log.column("images_per_second")), finite(run.log.column("time"))
    if speed:
        facts.append(("throughput", number(median(speed)), "images per second, median"))
    facts.append(("logged time", _duration(seconds[-1]) if seconds else NOTHING, ""))
    return Tiles(facts)


def term_table(run: Recording) -> Table:
    """One row per term: weight, values, share, gradient norm, whether all was finite."""
    header = ("term", "weight", "value, first", "value, last", "value, curve", "share, first", "share, last",
              "gradient norm, first", "gradient norm, last", "gradient norm, curve", "finite steps")  # fmt: skip
    rows: list[list[object]] = []
    for name in run.terms:
        value, norm, share = (run.term(name, quantity) for quantity in ("value", "grad_norm", "share"))
        flags = logged(run.term(name, "finite"))
        row: list[object] = [
            name,
            last(run.term(name, "weight")),
            first(value),
            last(value),
            sparkline(value),
        ]
        row += [percent(first(share)), percent(last(share)), first(norm), last(norm), sparkline(norm)]
        rows.append([*row, f"{sum(1 for flag in flags if flag == 1.0):,} of {len(flags):,}"])
    caption = (
        "Value: the sum over the term's denominator, unweighted. Share: weight x value over the sum of their sizes, "
        "which is the total unless one is below 0. Gradient norm: of d(weight x value) / d(what the term reads), at "
        "the network's outputs. Small curves: over all logged steps, each on its own scale."
    )
    return Table(header, rows, title="Terms", caption=caption)


def losses(run: Recording) -> list[Curves]:
    """Raw and weighted values, and shares of the total."""
    steps, names = run.log.steps, run.terms
    weighted = {name: run.term(name, "weighted") for name in names}
    total = "total" if "total" not in weighted else "total of all"
    return [
        Curves("Value of each term", steps, {name: run.term(name, "value") for name in names}, log=True, unit="value",
               caption="The term's sum over its denominator, before its weight. Read the slope: on a log axis equal "
               "slopes are equal relative progress."),
        Curves("Weighted value of each term, and the total", steps, {**weighted, total: run.log.column("total")},
               log=True, unit="weight x value",
               caption="What each term adds to the total on which backward is called."),
        Curves("Share of the total", steps, {name: run.term(name, "share") for name in names}, stacked=True,
               unit="share", wide=True,
               caption="Each band's height is one term's part of the total. A share is not an influence: see the "
               "gradient norms."),
    ]  # fmt: skip


def gradients(run: Recording) -> list[Block]:
    """Gradient norms over time, and which term sends how much to which output."""
    blocks: list[Block] = [
        Curves("Gradient norm of each term", run.log.steps, {n: run.term(n, "grad_norm") for n in run.terms}, log=True,
               unit="gradient norm", wide=True,
               caption="Level: at the network's outputs, exact, at each logged step: the norm of "
               "d(weight x value) / d(what the term reads). Higher pulls harder. Where a line is absent on the log "
               "axis, the norm is 0 and the term trains nothing."),
    ]  # fmt: skip
    links = _output_links(run)
    outputs = list(dict.fromkeys(link.target for link in links))
    if not links:
        return blocks
    amounts = {(link.source, link.target): link.amount for link in links}
    cells = [[amounts.get((term, path)) for path in outputs] for term in run.terms]
    where = (
        "Level: at the network's outputs; the median over all logged steps of the norm of "
        "d(weight x value) / d(output)."
    )
    heat = HeatMap(
        "Which term trains which output",
        run.terms,
        outputs,
        cells,
        unit="gradient norm",
        log=True,
        caption=f"{where} A dash: the term does not read that output.",
        absent="does not read it",
    )
    taken = set(run.terms)
    shown = {path: path if path not in taken else f"{path} (output)" for path in outputs}
    flow = Flow(
        "From losses to outputs", {"losses": run.terms, "outputs": list(shown.values())},
        [Link(link.source, shown[link.target], link.amount) for link in links], unit="gradient norm",
        caption=f"{where} Ribbons are as wide as their norms; a dotted line carries nothing.",
    )  # fmt: skip
    return [*blocks, flow, heat]


def conflict(run: Recording) -> list[Block]:
    """Cosines between the terms' gradients, over time and as a matrix; nothing for a single term."""
    if len(run.terms) < 2:
        return []
    where = "Level: at outputs, over the outputs both read, exact."
    medians = {pair: median(column) for pair, column in run.pairs().items()}
    pairs = {pair: column for pair, column in run.pairs().items() if medians[pair] is not None}
    worst = set(sorted(pairs, key=lambda pair: medians[pair] or 0.0)[:_MOST_PAIRS])
    curves = {f"{first} | {second}": pairs[first, second] for first, second in pairs if (first, second) in worst}
    num_left = len(pairs) - len(curves)
    cells = [
        [1.0 if a == b else medians.get((a, b), medians.get((b, a))) for b in run.terms] for a in run.terms
    ]  # fmt: skip
    heat = HeatMap(
        "Cosine between the terms' gradients", run.terms, run.terms, cells, unit="cosine", diverging=True,
        absent="share no output",
        caption=f"{where} The median over all logged steps. 1: the terms ask for the same change; 0: they do not touch "
        "each other; -1: they ask for opposite changes. A dash: the two share no output, so they can only meet in the "
        "network's parameters, which this level does not see.",
    )  # fmt: skip
    if not curves:
        return [heat]
    left = f" Drawn: the {_MOST_PAIRS} pairs with the lowest medians; the table has the other {num_left}."
    drawn = Curves("Conflict over time", run.log.steps, curves, unit="cosine", bounds=(-1.0, 1.0), wide=True,
                   caption=f"{where} Below 0 the two terms ask for opposite changes of what both read."
                   f"{left if num_left else ''}")  # fmt: skip
    return [drawn, heat]


def samples(run: Recording) -> list[Block]:
    """The samples that make each term; nothing where the run kept none."""
    found = read_top_samples(run.folder)
    return [TopRows(found, run.terms)] if found and found.terms else []


def speed(run: Recording) -> list[Curves]:
    """Throughput and the learning rate."""
    steps = run.log.steps
    images, rate = run.log.column("images_per_second"), run.log.column("learning_rate")
    fastest = max(finite(images), default=0.0)
    drawn = []
    if fastest > 0:
        drawn.append(
            Curves("Throughput", steps, {"training": images}, unit="images per second", bounds=(0.0, 1.1 * fastest),
                   caption="Images per second of wall-clock time, as logged. The axis begins at 0.")
        )  # fmt: skip
    if logged(rate):
        drawn.append(
            Curves("Learning rate", steps, {"learning rate": rate}, smooth=False, unit="learning rate",
                   caption="What the optimizer used at each logged step.")
        )  # fmt: skip
    return drawn


def configuration(run: Recording) -> Section:
    """The preset's card, and the configuration the run was started with."""
    config = {key: value for key, value in run.config.items() if key != "card"}
    rows = [[name, value] for name, value in _flat(config, "")]
    blocks: list[Block] = [Table(("setting", "value"), rows, title="Configuration")]
    card = run.config.get("card")
    if isinstance(card, str) and card.strip():
        blocks[:0] = card_blocks(card)
    return Section("The run", blocks)


def _output_links(run: Recording) -> list[Link]:
    links = []
    for term in run.terms:
        for path in run.log.names("terms", term, "outputs"):
            norm = median(run.log.column("terms", term, "outputs", path, "grad_norm"))
            if norm is not None:
                links.append(Link(term, path, norm))
    return links


def _flat(node: Mapping[str, object], prefix: str, depth: int = 0) -> list[tuple[str, str]]:
    rows = []
    for key, value in node.items():
        if isinstance(value, dict) and depth < _DEEPEST:
            rows += _flat(value, f"{prefix}{key}.", depth + 1)
        elif value != "":
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else _as_json(value)))
    return rows


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply to be shown"


_DEEPEST = 8
_MOST_PAIRS = 12
"""Curves of cosines that can be told apart."""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
