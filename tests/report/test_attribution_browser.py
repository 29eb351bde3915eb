"""The page on attribution in a real browser, on a ResNet-18 with three heads."""

import runpy
from pathlib import Path

import pytest

from tests.report.test_browser import BROWSER, body, visit  # noqa: F401  the fixture

EXAMPLE = Path(__file__).parents[2] / "examples" / "which_loss_trains_what.py"
pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium on PATH (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("torchvision", reason="pip install headwise[vision]")
    path = tmp_path_factory.mktemp("attribution") / "page.html"
    runpy.run_path(str(EXAMPLE))["main"](str(path), steps=2)
    return path


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_works_in_a_browser(written, visit, width):  # noqa: F811
    page, console = visit(written, width)
    assert console == []
    assert body(page)["data-selftest"] == "done"
    assert "data-errors" not in body(page)
    assert body(page)["data-overflow"] == "0"
    told = [attributes["data-hover"] or "" for _, attributes in page.tags if "data-hover" in attributes]
    assert any(text.startswith("label: label → label_head: ") for text in told)
    assert any(text.startswith("stem.0 · label: ") for text in told)
    assert any(text.startswith("step ") for text in told)
