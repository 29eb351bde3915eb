"""What is wrong with the logs of runs, beside what a verb says of the rest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwise.runs.reading import Recording


def tell_remarks(*runs: Recording) -> None:
    """Write what of their logs could not be read to standard error.

    Args:
        runs: as they were read.

    Raises:
        ValueError: nothing of a log that is there could be read, or it is gone.
    """
    for run in runs:
        path = run.folder / "log.jsonl"
        if not run.log.steps and not (path.is_file() and path.stat().st_size == 0):
            raise ValueError(f"{run.folder}: {' '.join(run.log.remarks)} Give a run whose log is whole.")
        for remark in run.log.remarks if run.log.steps else ():
            sys.stderr.write(f"headwise: {run.folder}: {remark}\n")
