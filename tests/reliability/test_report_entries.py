"""One odd entry of a run folder costs its own place on the page, not the page; and no more time than it is worth."""

import re
import time
import warnings

import pytest

from headwise.report import write_report
from tests.reliability import kit

TERMS = ["heat", "offset"]


def page_of(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fonts without these letters
        return write_report(folder, png=False).read_text()


def check_page(folder, *names):
    """A page that holds the terms; or one line that names the file."""
    refusal = None
    try:
        page = page_of(folder)
    except (ValueError, OSError) as error:
        refusal = error
    if refusal is not None:
        kit.check_line(refusal, ("log.jsonl", "config.json", "evaluation.jsonl"))
        assert "too long" not in str(refusal).lower()
        return
    for name in names:
        assert name in page, f"no {name!r} on the page"


def with_levels(name):
    """Two levels of one term, for which the page has a figure of their own."""

    def change(rows):
        for row in rows:
            numbers = {"value": 0.1, "weighted": 0.1, "share": 0.1, "grad_norm": 0.1, "finite": True}
            row["terms"][name]["levels"] = {"fine": numbers, "coarse": numbers}

    return change


ODD_NAMES = {
    "a thousand characters": "n" * 1_000, "three hundred letters of two bytes": "é" * 300,
    "a lone surrogate": "a\ud800b",
    "a way out of the folder": "../../up/and/away",
}  # fmt: skip


@pytest.mark.parametrize("case", ODD_NAMES)
def test_an_odd_term_name(tmp_path, case):
    name = ODD_NAMES[case]
    folder = kit.run_folder(tmp_path / "run", [*TERMS, name], change_lines=with_levels(name))
    assert "heat" in page_of(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_two_names_that_look_alike_as_files(tmp_path):
    """Each has its own picture."""
    pictures = []
    for names in (["one", "two"], ["a b", "a|b"]):

        def change(rows, names=names):
            for name in names:
                with_levels(name)(rows)

        folder = kit.run_folder(tmp_path / names[1].replace("|", "-"), names, lines=6, change_lines=change)
        pictures.append(len(list(write_report(folder).parent.rglob("*.png"))))
    assert pictures[0] == pictures[1], f"{pictures[0]} pictures of plain names, {pictures[1]} of these"


def surrogates(config):
    config.update(recipe="a\ud800b", card="\udfff", terms=[*TERMS, "\ud800"])


def test_surrogates_in_the_configuration(tmp_path):
    assert "heat" in page_of(kit.run_folder(tmp_path / "run", TERMS, change_config=surrogates))


def huge_value(rows):
    rows[2]["terms"]["heat"]["value"] = 10**400


def huge_step(rows):
    rows[-1]["step"] = 10**400


def huge_total(rows):
    rows[2]["total"] = -(10**400)


def huge_norm(rows):
    rows[2]["terms"]["heat"]["outputs"]["out[0]"]["grad_norm"] = 10**400


@pytest.mark.parametrize("change", [huge_value, huge_step, huge_total, huge_norm], ids=lambda change: change.__name__)
def test_an_integer_of_400_digits(tmp_path, change):
    check_page(kit.run_folder(tmp_path / "run", TERMS, change_lines=change), "heat", "offset")


def test_a_surrogate_in_an_output_s_name(tmp_path):
    def change(rows):
        for row in rows:
            row["terms"]["heat"]["outputs"]["\ud800"] = {"grad_norm": 0.1, "finite": True}

    check_page(kit.run_folder(tmp_path / "run", TERMS, change_lines=change), "heat", "offset")


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "evaluation.jsonl"])
def test_a_deep_file(tmp_path, name):
    folder = kit.run_folder(tmp_path / "run", TERMS)
    (folder / name).write_text('{"step": 1, "a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    check_page(folder)


def test_names_that_turn_the_line(tmp_path):
    """Bidirectional controls are isolated or shown, so that a name cannot rearrange its row."""
    page = page_of(kit.run_folder(tmp_path / "run", [*TERMS, "a\u202eb\u2066c"]))
    bare = [at.start() for at in re.finditer("[\u202a-\u202e\u2066-\u2069]", page)]
    isolated = "<bdi" in page or "unicode-bidi" in page
    assert not bare or isolated, f"{len(bare)} controls stand bare on the page"


HOSTILE = [
    "</script><script>1</script>", '"><img src=x onerror="1">', "'><svg onload=1>", "x" * 200, "&lt;b&gt;&amp;",
    "']]>",
    "javascript:1", "${1}", "`1`", "|", "a|b", " ", "constructor", "__proto__", "hasOwnProperty", "\u2028\u2029",
    "a\tb",
    "#" * 40, "🙂" * 20, "{}[]()",
]  # fmt: skip


def seconds(folder, terms):
    kit.run_folder(folder, terms, lines=6)
    start = time.process_time()
    page = page_of(folder)
    return time.process_time() - start, page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hostile_names_cost_no_more_than_plain_ones(tmp_path):
    """at most three times the time of as many plain names, and none of them is markup."""
    seconds(tmp_path / "warm", TERMS)
    plain, _ = seconds(tmp_path / "plain", [f"term{number}" for number in range(20)])
    hostile, page = seconds(tmp_path / "hostile", HOSTILE)
    assert hostile <= 3 * plain, f"20 hostile names take {hostile:.1f} s, 20 plain ones {plain:.1f} s"
    assert "<script>1" not in page
    assert "<img src=x" not in page
    assert "<svg onload" not in page


def test_an_ordinary_run(tmp_path):
    page = page_of(kit.run_folder(tmp_path / "run", TERMS))
    assert "heat" in page
    assert "offset" in page
