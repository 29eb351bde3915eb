from pathlib import Path

import pytest

from headwise.report import write_report
from tests.report.builder import build_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A run that went to its end, with its report written; tests must not change it."""
    run = build_run(tmp_path_factory.mktemp("runs") / "finished")
    write_report(run)
    return run


@pytest.fixture
def fresh_run(tmp_path) -> Path:
    """A short run without a report, to break."""
    return build_run(tmp_path / "fresh", num_lines=12, samples=1)
