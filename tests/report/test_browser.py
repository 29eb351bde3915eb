"""The page in a real browser: no error, figures drawn, numbers under the pointer, no sideways scrolling."""

import json
import re
import shutil
import subprocess
import threading
from base64 import b64encode
from hashlib import sha256

import pytest

from headwise.report import Curves, Flow, HeatMap, Link, Page, Section
from headwise.report.compare import write_comparison
from headwise.report.live import LivePage, LiveServer
from headwise.runs.comparing import compare
from headwise.runs.reading import read_run
from tests.report.builder import TERMS, build_run, read_lines, write_lines
from tests.report.parsed import ParsedPage

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
pytestmark = pytest.mark.skipif(
    not BROWSER, reason="no chromium, chromium-browser or google-chrome on PATH (Debian: apt install chromium)"
)
QUIET = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--v=0", "--virtual-time-budget=3000",
]  # fmt: skip


@pytest.fixture
def visit(tmp_path):
    def opened(page, width=1400):
        """The page after its self-test, and what the browser wrote to its console."""
        command = [
            BROWSER, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1000", "--dump-dom",
            page if isinstance(page, str) else f"{page.as_uri()}#selftest",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        dump = tmp_path / "dump.html"
        dump.write_text(done.stdout)
        return ParsedPage(dump), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return opened


def body(page):
    return next(attributes for tag, attributes in page.tags if tag == "body")


@pytest.mark.parametrize("width", [1400, 400])
def test_report_works_in_a_browser(finished_run, visit, width):
    page, console = visit(finished_run / "report" / "index.html", width)
    assert console == []
    assert body(page)["data-selftest"] == "done"
    assert "data-errors" not in body(page)
    assert body(page)["data-overflow"] == "0"
    assert body(page)["data-blank"] == "0"
    assert sum(tag == "img" for tag, _ in page.tags) > 10
    charts = [a for tag, a in page.tags if tag == "figure" and "data-hover" in a]
    assert len(charts) == len(page.data) == 9
    assert [a for a in charts if a["data-toggled"] != "true"] == []
    assert sum(tag == "svg" and attributes.get("tabindex") == "0" for tag, attributes in page.tags) == 9


def test_hovering_shows_the_number_of_the_log(finished_run, visit):
    page, _ = visit(finished_run / "report" / "index.html")
    figure = next(a for tag, a in page.tags if tag == "figure" and "data-hover" in a)
    lines = {line["step"]: line for line in read_lines(finished_run / "log.jsonl")}
    for told in (figure["data-hover"], figure["data-keyed"]):
        found = re.match(r"step (\d+) ", told)
        assert found
        for name, entry in lines[int(found[1])]["terms"].items():
            assert f"{name} {float(format(entry['value'], '.4g')):g}" in told
    assert figure["data-keyed"].startswith(f"step {max(lines)} ")


def test_a_click_on_a_column_sorts_the_table(finished_run, visit):
    def terms(page):
        first = page.source[page.source.index('<table class="data"') :]
        return re.findall(r'<th scope="row">(\w+)</th>', first[: first.index("</table>")])

    page, _ = visit(finished_run / "report" / "index.html")
    written = ParsedPage(finished_run / "report" / "index.html")
    assert terms(written) == list(TERMS)
    assert terms(page) == sorted(TERMS) != list(TERMS)


def test_errors_in_a_page_are_seen(tmp_path, visit):
    """The check above can fail: a script that throws is on the console and in the page."""
    path = Page("broken").write(tmp_path / "page.html")
    broken = path.read_text().replace("start();\n</script>", "start(); nothing.here();\n</script>")
    run = re.findall(r"<script>(.*?)</script>", broken, re.DOTALL)[-1]
    allowed = b64encode(sha256(run.encode()).digest()).decode()  # else the page's own policy stops it unseen
    path.write_text(broken.replace("script-src ", f"script-src 'sha256-{allowed}' "))
    page, console = visit(path)
    assert len(console) == 1
    assert "nothing is not defined" in body(page)["data-errors"]


def test_shares_of_one_step_and_below_zero_are_drawn_in_the_frame(tmp_path, visit):
    """Of a lone step nothing was seen, and parts below 0 were drawn over the others and out of the frame."""
    one = Curves("one", [7], {"a": [0.6], "b": [0.4]}, stacked=True)
    signs = Curves("signs", [1, 2], {"a": [0.6, 0.5], "b": [-0.3, -0.5], "c": [0.1, None]}, stacked=True)
    across = Curves("across", [1, 2], {"a": [0.5, 0.6], "b": [0.5, -0.4]}, stacked=True)
    page, console = visit(Page("p").add(Section("s", [one, signs, across])).write(tmp_path / "page.html"))
    assert console == []
    drawn = [a["d"] for tag, a in page.tags if tag == "path" and (a.get("class") or "").startswith("fill c")]
    bands = [[tuple(map(float, point.split())) for point in d[1:-1].split("L")] for d in drawn]
    lone = bands[0]
    assert max(x for x, _ in lone) - min(x for x, _ in lone) == 40
    ys = [[y for _, y in band] for band in bands]
    assert min(ys[0]) == max(ys[1])
    a, b, c, *parts = ys[2:]
    assert len(parts) == 3  # what changes sides has a band on each, and none from one to the other
    assert max(parts[1]) <= max(parts[0]) == min(parts[2])
    assert max(a) == min(b)  # one stands on 0, the other hangs from it
    assert max(c) <= max(a)
    assert min(map(min, ys)) == 26
    assert max(map(max, ys)) <= 340 - 34


def test_pictures_of_attribution_work_in_a_browser(tmp_path, visit):
    layers = [f"backbone.layer{i}.weight" for i in range(40)]
    heat = HeatMap("terms x layers", ["sin", "cos"], layers, [[10.0**-i for i in range(40)]] * 2, log=True)
    flow = Flow("flow", {"losses": ["sin"], "heads": ["h"], "trunk": ["t"], "inputs": ["image"]},
                [Link("sin", "h", 2.0), Link("h", "t", 1.5), Link("t", "image", 0.0)], unit="norm")  # fmt: skip
    path = Page("audit").add(Section("Attribution", [heat, flow])).write(tmp_path / "page.html")
    for width in (1400, 400):
        page, console = visit(path, width)
        assert console == []
        assert body(page)["data-overflow"] == "0"
        told = [a["data-hover"] for _, a in page.tags if "data-hover" in a]
        assert "sin → h: 2 norm" in told
        assert "backbone.layer3.weight · sin: 0.001" in told


def test_a_comparison_works_in_a_browser(tmp_path, visit):
    runs = [read_run(build_run(tmp_path / name, num_lines=70, samples=0)) for name in ("one", "other")]
    runs[1].log.column("terms", "sin", "weight")[50] = 3.0
    path = write_comparison(runs, compare(runs), tmp_path / "page.html")
    for width in (1400, 400):
        page, console = visit(path, width)
        assert console == []
        assert body(page)["data-selftest"] == "done"
        assert body(page)["data-overflow"] == "0"
        assert len([a for tag, a in page.tags if tag == "figure" and "data-hover" in a]) == 2 * len(TERMS) + 1
    assert "sin departs first, by its weight at step 510: 1 in one, 3 in other." in path.read_text()


class Growing(LivePage):
    """A page whose runs log twenty steps more between its first answer and the next."""

    def __init__(self, folders, lines):
        super().__init__(folders)
        self._lines, self.answers = lines, 0

    def look(self):
        self.answers += 1
        if self.answers == 2:
            with (self._runs[0].folder / "log.jsonl").open("a") as log:
                log.writelines(json.dumps(line) + "\n" for line in self._lines)
            self._next = 0.0
        return super().look()


@pytest.mark.parametrize("num_runs", [1, 2])
def test_the_live_page_takes_new_points_without_a_reload(tmp_path, visit, num_runs):
    folders = [build_run(tmp_path / f"run{number}", num_lines=40, samples=0) for number in range(num_runs)]
    lines = read_lines(folders[0] / "log.jsonl")
    write_lines(folders[0] / "log.jsonl", lines[:20])
    live = Growing(folders, lines[20:])
    with LiveServer(live) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        page, console = visit(server.url)
        server.shutdown()
        thread.join()
    assert console == []
    assert live.answers >= 2
    assert "data-errors" not in body(page)
    assert body(page)["data-taken"] == "1"
    assert body(page)["data-version"] == "2"
    ticks = re.findall(r'class="tick"[^>]*>(\d+)<', page.source)
    assert "400" in ticks  # of the steps that came later
