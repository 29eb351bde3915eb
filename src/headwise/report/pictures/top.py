"""The samples that make each term on the page: a row of small pictures a term, the largest gradient first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headwise.attribution.ledger.samples.samples import By
from headwise.report.page.blocks import figure
from headwise.report.page.markup import Markup, breakable, element, number
from headwise.report.pictures.images import data_uri
from headwise.runs.top_samples import ReadSamples, TopSample

TITLE = "Samples that make each term"
_SIDE = 96
_MOST_TERMS = 24


@dataclass(frozen=True)
class TopRows:
    """The samples of all terms.

    Attributes:
        samples: as the run wrote them.
        terms: in the order in which they are shown.
        title: of the figure.
    """

    samples: ReadSamples
    terms: Sequence[str]
    title: str = TITLE

    def html(self, key: str) -> Markup:
        """A row a term; each picture is on the page once, however many terms name it."""
        told = {term: [*found["gradient"], *found["value"]] for term, found in self.samples.terms.items()}
        known = [term for term in self.terms if told.get(term) or self.samples.notes.get(term)]
        shown = known[:_MOST_TERMS]
        ids = dict.fromkeys(each.id for term in shown for each in told[term])
        places = {name: f"{key}-p{place}" for place, name in enumerate(ids) if name in self.samples.pictures}
        pictures = [
            element("symbol", _picture(self.samples.pictures[name]), id=place, viewBox=f"0 0 {_SIDE} {_SIDE}")
            for name, place in places.items()
        ]
        held = element("svg", element("defs", *pictures), width=0, height=0, class_="hatches", aria_hidden="true")
        rows = element("div", *(self._row(term, places) for term in shown), class_="all-samples")
        return figure(key, self.title, held, rows, caption=self._caption(len(known) - len(shown)), wide=True)

    def _row(self, term: str, places: Mapping[str, str]) -> Markup:
        note = [element("p", self.samples.notes[term], class_="note")] if term in self.samples.notes else []
        rankings = [
            element("div", element("p", f"by {by}"), element("div", *tiles, class_="samples"))
            for by, found in self.samples.terms[term].items()
            if (tiles := [_tile(each, by, places.get(each.id)) for each in found])
        ]
        return element("div", element("h4", breakable(term)), element("div", *rankings, class_="rankings"), *note)

    def _caption(self, num_left: int) -> str:
        left = f" {num_left} more terms are left out." if num_left else ""
        return (
            "Of each term the samples with the largest gradient at the network's outputs, and those with the largest "
            f"value, each N times the sample's part, as it was when it came last, up to step {self.samples.step:,}. "
            f"One that leads by far is worth a look: a wrong label, a broken picture, or a case of its own.{left}"
        )


def _tile(sample: TopSample, by: By, place: str | None) -> Markup:
    value = "" if sample.value is None else f", value {number(sample.value)}"
    told = f"{sample.name}: gradient norm {number(sample.grad_norm)}{value}, step {sample.step + 1:,}"
    use = element("use", href=f"#{place}")
    picture = element("svg", use, viewBox=f"0 0 {_SIDE} {_SIDE}", role="img", aria_label=sample.name)
    words = [
        element("span", breakable(sample.name), class_="name"),
        element("span", number(sample.grad_norm if by == "gradient" else sample.value), class_="amount"),
    ]
    return element("div", *([picture] if place else []), *words, class_="sample", data_tip=told, tabindex=0)


def _picture(content: bytes) -> Markup:
    return element(
        "image", href=data_uri(content, "jpeg"), width=_SIDE, height=_SIDE, preserveAspectRatio="xMidYMid meet"
    )
