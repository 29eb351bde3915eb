"""The page of an audit: findings in words, and the gradients they were judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from headwise.attribution import AuditReport, Finding
from headwise.report.figures.flow import Flow, Link
from headwise.report.figures.heatmap import HeatMap
from headwise.report.page.blocks import Block, Remarks, Table, Tiles
from headwise.report.page.page import Page, Section


def write_audit(report: AuditReport, path: Path, title: str = "") -> Path:
    """Write the page of an audit: one HTML file that needs no network.

    Args:
        report: What `headwise.attribution.audit` returned.
        path: The file.
        title: What was audited.

    Returns:
        The path.
    """
    return audit_page(report, title).write(path)


def audit_page(report: AuditReport, title: str = "") -> Page:
    """The page of an audit, not yet written.

    Args:
        report: What `headwise.attribution.audit` returned.
        title: What was audited.

    Returns:
        The page.
    """
    page = Page(f"Audit · {title}" if title else "Audit", report.summary())
    page.add(Section("Findings", [_tiles(report), Remarks(_remarks(report)), *_table(report.findings)]))
    gradients = _gradients(report)
    if gradients:
        lead = "What each loss sends back: medians over the batches, exact. Nothing here is weighted by the total."
        page.add(Section("Gradients", gradients, lead))
    if report.cosines:
        page.add(Section("Conflict", [_cosines(report)]))
    return page


def _tiles(report: AuditReport) -> Tiles:
    return Tiles([
        ("findings", str(len(report.faults)), ""),
        ("notes", str(len(report.notes)), "counted as findings" if report.strict else ""),
        ("losses", str(len(report.losses)), ""),
        ("outputs", str(len(report.outputs)), "with a gradient"),
        ("parameters", str(report.num_parameters), "trainable"),
        ("batches", str(report.num_batches), ""),
    ])  # fmt: skip


def _remarks(report: AuditReport) -> list[tuple[str, str]]:
    told = [
        ("note" if each.is_note else "problem", f"{each.kind}: {each.subject}. {each.evidence[:1].upper()}"
         f"{each.evidence[1:]}. {each.remedy}")
        for each in report.findings
    ]  # fmt: skip
    told = told or [("good", f"Nothing was found over {report.num_batches} batches.")]
    told += [("note", f"Not audited: {kind}: {reason}.") for kind, reason in report.unaudited.items()]
    return told + [("note", f"The code warned: {text}") for text in report.warned]


def _table(findings: Sequence[Finding]) -> list[Block]:
    rows = [
        [each.kind, each.subject, name, value]
        for each in findings
        for name, value in each.numbers.items()
    ]  # fmt: skip
    return [Table(("kind", "subject", "number", "value"), rows, title="The numbers", folded=True)] if rows else []


def _gradients(report: AuditReport) -> list[Block]:
    blocks: list[Block] = []
    for title, table, level in (
        ("Which loss trains which output", report.at_outputs, "Level: output."),
        ("Which loss trains which part", report.at_groups, "Level: parameters, by the module at the top."),
    ):
        sites = list(dict.fromkeys(site for row in table.values() for site in row))
        if sites:
            blocks.append(_heat(title, report.losses, sites, table, level))
    links = [Link(loss, site, norm) for loss, row in report.at_outputs.items() for site, norm in row.items()]
    if links:
        blocks.append(_flow(links))
    return blocks


def _heat(
    title: str, losses: Sequence[str], sites: list[str], table: Mapping[str, Mapping[str, float]], level: str
) -> HeatMap:
    values = [[table.get(loss, {}).get(site) for site in sites] for loss in losses]
    caption = f"{level} Norm of d(loss) / d(what the column names)."
    return HeatMap(title, losses, sites, values, "gradient norm", caption, log=True, absent="no gradient")


def _flow(links: list[Link]) -> Flow:
    losses = list(dict.fromkeys(link.source for link in links))
    sites = list(dict.fromkeys(link.target for link in links))
    shown = {site: f"{site} (output)" if site in losses else site for site in sites}
    moved = [Link(link.source, shown[link.target], link.amount) for link in links]
    stages = {"losses": losses, "outputs": [shown[site] for site in sites]}
    return Flow("From losses to outputs", stages, moved, "gradient norm", "Level: output. As wide as the norm.")


def _cosines(report: AuditReport) -> HeatMap:
    names = list(report.losses)
    cells = [
        [1.0 if a == b else report.cosines.get(a, {}).get(b, report.cosines.get(b, {}).get(a)) for b in names]
        for a in names
    ]
    caption = "Level: parameters both reach. -1: the losses ask for opposite changes; 1: for the same."
    return HeatMap(
        "Cosine between gradients", names, names, cells, "cosine", caption, diverging=True, absent="share none"
    )
