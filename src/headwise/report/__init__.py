"""Reports: read tables, compute nothing. One HTML page per run, PNG files, and tables for the terminal.

A file here writes one kind of page: on a run (`write`), on runs while they train (`live`), on several (`compare`), on
which loss trains what (`attribution`), on an audit (`audit`); `terminal` does without one. Pages have `sections`, which
show `figures` and `pictures`, which are made of the parts of a `page`.
"""

from headwise.report.figures.charts import Curves
from headwise.report.figures.flow import Flow, Link
from headwise.report.figures.heatmap import HeatMap
from headwise.report.page.blocks import Remarks, Table, Text, Tiles
from headwise.report.page.page import Page, Section
from headwise.report.terminal import Cell, render_table
from headwise.report.write import write_report

__all__ = [
    "write_report",
    "Page",
    "Section",
    "Curves",
    "HeatMap",
    "Flow",
    "Link",
    "Table",
    "Tiles",
    "Remarks",
    "Text",
    "render_table",
    "Cell",
]
