"""Run folders: one room that writes them and reads their lines, whoever trains."""

from headwise.runs.run import Run

__all__ = ["Run"]
