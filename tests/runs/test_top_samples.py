"""The samples that make each term, as a file of a run, on its page, and in its alerts."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import headwise as hw
from headwise import losses
from headwise.attribution import Sample, TermSamples
from headwise.report import write_report
from headwise.runs.alerts import Alert, replay
from headwise.runs.reading import read_run
from headwise.runs.top_samples import MOST_PICTURES, Shown, TopSamples, read_top_samples


def term(name, *ids, note=""):
    ranked = tuple(Sample(each, float(len(ids) - place), None, 3) for place, each in enumerate(ids))
    return TermSamples(name, ranked, (), note)


def spike(term="a", kind="spiking"):
    return Alert(kind, term, 4, 5, "It rose.", "Look.")


def train(folder, num=40, show=None, bad=()):
    """Eight samples a step, by name; those of `bad` steps hold one that is far off."""
    criterion = hw.Criterion([hw.Term(name, losses.squared_error, output="y", target=name) for name in ("a", "b")])
    draw = torch.Generator().manual_seed(0)
    told: list[Alert] = []
    with (
        hw.Ledger(criterion, samples=4) as ledger,
        hw.Run(folder, ledger, every=1, alerts=told.append, show=show) as run,
    ):
        for step in range(1, num + 1):
            y = torch.zeros(8, 3, requires_grad=True)
            targets = {name: torch.randn(8, 3, generator=draw) for name in ("a", "b")}
            ids = [f"{step}.{place}.png" for place in range(8)]
            if step in bad:
                targets["a"][5] = 300.0
            criterion({"y": y}, targets, ids=ids).total.backward()
            criterion.advance()
            run.log(step)
    return told


def test_a_run_keeps_the_samples_with_pictures_and_its_page_shows_them(tmp_path):
    asked = []

    def show(name):
        asked.append(name)
        return Shown(f"picture {name}", np.full((300, 200, 3), 128, np.uint8))

    train(tmp_path / "run", show=show)
    found = read_top_samples(tmp_path / "run")
    assert found is not None
    assert found.step == 40  # at the end too, though only every tenth step is written
    assert list(found.terms) == ["a", "b"]
    assert [len(each["gradient"]) for each in found.terms.values()] == [4, 4]
    norms = [each.grad_norm for each in found.terms["a"]["gradient"]]
    assert norms == sorted(norms, reverse=True)
    assert found.terms["a"]["gradient"][0].name == f"picture {found.terms['a']['gradient'][0].id}"
    assert len(asked) == len(set(asked))
    with Image.open(io.BytesIO(found.pictures[found.terms["a"]["gradient"][0].id])) as picture:
        assert picture.size == (75, 112)
    page = write_report(tmp_path / "run", png=False).read_text()
    assert "Samples that make each term" in page
    assert page.count("data:image/jpeg") == len(found.pictures)
    assert found.terms["b"]["gradient"][3].name in page


def test_an_alert_names_the_samples_of_its_step_and_so_does_its_replay(tmp_path):
    (alert,) = train(tmp_path / "run", bad=(33,))
    assert alert.samples[0] == "33.5.png"
    assert len(alert.samples) == 3
    assert "Samples of step 33 with its largest gradient: 33.5.png, " in str(alert)
    assert replay(read_run(tmp_path / "run")) == [alert]
    (tmp_path / "run" / "alerts.jsonl").write_text('{"kind": 3}\nno json\n[]\n7\n')
    assert replay(read_run(tmp_path / "run"))[0].samples == ()


def test_of_two_terms_and_of_the_total_all_count():
    samples = {"a": term("a", 1, 2), "b": term("b", 3, 2, 1), "c": term("c", 9, 8, 7, 6)}
    assert spike("a").blaming(samples).samples == ("1", "2")
    assert spike("a | b", "fighting").blaming(samples).samples == ("3", "1", "2")
    assert spike("total").blaming(samples).samples[:2] == ("9", "3")
    assert spike("b").blaming(samples, lambda each: f"<{each}>").samples == ("<3>", "<2>", "<1>")
    assert str(spike("a")) == "a: spiking since step 4. It rose. Look."


def test_ids_that_are_files_are_opened_and_what_cannot_be_is_a_name(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "there.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    ids = [str(tmp_path / "there.png"), str(tmp_path / "broken.png"), str(tmp_path / "gone.png"), ("call", 3)]
    TopSamples(tmp_path).write(3, {"a": term("a", *ids)})
    found = read_top_samples(tmp_path)
    assert found is not None
    assert [each.name for each in found.terms["a"]["gradient"]] == ["there.png", ids[1], ids[2], "('call', 3)"]
    assert list(found.pictures) == [ids[0]]

    def broken(name):
        raise KeyError(name)

    TopSamples(tmp_path, broken).write(3, {"a": term("a", 5)})
    found = read_top_samples(tmp_path)
    assert found is not None
    assert [each.name for each in found.terms["a"]["gradient"]] == ["5"]


def test_the_file_stays_small_and_strict(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    many = {str(n): term(str(n), *range(10 * n, 10 * n + 10)) for n in range(60)}
    many["odd"] = TermSamples("odd", (Sample(1, math.inf, math.nan, 0),), (), "values are not known")
    TopSamples(tmp_path, lambda each: Shown(str(each), noise)).write(3, many)
    content = (tmp_path / "top_samples.json").read_bytes()
    assert len(content) < 700_000
    json.loads(content, parse_constant=pytest.fail)
    found = read_top_samples(tmp_path)
    assert found is not None
    assert len(found.pictures) == MOST_PICTURES
    assert found.terms["odd"]["gradient"][0].grad_norm == math.inf
    assert found.notes == {"odd": "values are not known"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"step": 1, "terms": {"a": {}}, "pictures": {}}', b'{"step": 1, "terms": 3, "pictures": {}}'],
)
def test_a_broken_file_is_as_none(tmp_path, content):
    train(tmp_path / "run", num=3)
    (tmp_path / "run" / "top_samples.json").write_bytes(content)
    assert read_top_samples(tmp_path / "run") is None
    assert "Samples that make" not in write_report(tmp_path / "run", png=False).read_text()
