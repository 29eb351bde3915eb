"""The examples on books in other people's loops run, and end with books."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning")  # lightning 2.6, newer torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # a hint of lightning's; the data is in memory
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")  # transformers pins without a GPU too
@pytest.mark.parametrize("loop", ["lightning", "transformers", "accelerate"])
def test_example_runs(loop, tmp_path, monkeypatch, capsys):
    pytest.importorskip(loop, reason=f"pip install {loop} (dependency group loops)")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"books_in_{loop}.py"))["main"](str(tmp_path))
    assert "grad norm" in capsys.readouterr().out
    assert list(tmp_path.rglob("events.out.tfevents*"))
