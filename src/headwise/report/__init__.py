"""Reports: read tables, compute nothing. One HTML page per run, PNG files, and tables for the terminal."""

from headwise.report.figures.charts import Curves
from headwise.report.figures.flow import Flow, Link
from headwise.report.figures.heatmap import HeatMap
from headwise.report.page import Page, Remarks, Section, Table, Text, Tiles
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
