"""Where amounts go: a Sankey diagram from losses to heads to the trunk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from headwise.report.page.blocks import ROOM_BESIDE, Table, figure
from headwise.report.page.markup import Markup, element, number

_HEIGHT, _BAR, _GAP, _TOP = 300.0, 14.0, 18.0, 34.0
_LETTER = 7.6  # width of one, roughly
_NARROW = 344.0  # what a screen of 400 pixels leaves
_LINE = 20.0  # height of a ribbon that a name can stand on without being struck through


@dataclass(frozen=True)
class Link:
    """An amount that goes from one node to another.

    Attributes:
        source: name of a node.
        target: name of a node in a later stage.
        amount: not negative; 0 and non-finite amounts are listed, and drawn as a dotted line.
        term: the loss it began at, which gives the color; empty means the source.
    """

    source: str
    target: str
    amount: float
    term: str = ""


@dataclass(frozen=True)
class Flow:
    """Nodes in stages, left to right, and links between them as wide as their amounts.

    Attributes:
        title: what is shown.
        stages: heading -> names of the nodes in it, top to bottom; a name stands in one stage only.
        links: what goes where.
        unit: of the amounts.
        caption: what was measured, at which level, and how to read it.
        terms: the losses in the order of their colors; empty: the first stage's order.
    """

    title: str
    stages: Mapping[str, Sequence[str]]
    links: Sequence[Link]
    unit: str = ""
    caption: str = ""
    terms: Sequence[str] = ()

    def html(self, key: str) -> Markup:
        """The figure: the diagram, and beside it (below, where it is broad) a table that sorts.

        Args:
            key: its identifier on the page.

        Returns:
            The figure.

        Raises:
            ValueError: a link names a node that no stage has, or an amount is negative.
        """
        self._check()
        header, rows = self._numbers()
        table = Table(header, rows, title=f"{self.title}: numbers", bare=True).html(key)
        lanes = max(1, len(self.stages) - 1)
        broad = max(540.0 / lanes, min(220.0, 640.0 / lanes))  # two stages or five fill the width that four have
        picture = element(
            "div",
            self._svg(broad, "broad", self.stages),
            *(self._svg(150.0, "slim", stages) for stages in self._slim_parts()),
            class_="scroll",
            tabindex=0,
            role="region",
            aria_label=self.title,
        )
        is_broad = self._width(broad, self.stages) > ROOM_BESIDE
        beside = element("details", element("summary", "Numbers"), table, open=not is_broad)
        body = element("div", picture, beside, class_="beside below" if is_broad else "beside")
        return figure(key, self.title, body, caption=self.caption, wide=True)

    def _numbers(self) -> tuple[tuple[str, ...], list[list[object]]]:
        """A row a link; where all begin at their losses, that is said once."""
        told = [(link.term or link.source, link) for link in self.links]
        unit = self.unit or "amount"
        if all(loss == link.source for loss, link in told):
            return ("loss", "to", unit), [[loss, link.target, link.amount] for loss, link in told]
        return ("loss", "from", "to", unit), [[loss, link.source, link.target, link.amount] for loss, link in told]

    def _check(self) -> None:
        nodes = {name for names in self.stages.values() for name in names}
        for link in self.links:
            for name in (link.source, link.target):
                if name not in nodes:
                    raise ValueError(
                        f"flow '{self.title}': a link names '{name}', which is in no stage. Stages hold: "
                        f"{', '.join(sorted(nodes))}."
                    )
            if link.amount < 0:
                raise ValueError(
                    f"flow '{self.title}': {link.source} to {link.target} is {link.amount}. Amounts are not negative."
                )

    def _slim_parts(self) -> list[Mapping[str, Sequence[str]]]:
        """What stands one below the other on a narrow screen: all stages, or where they are too wide, two and two."""
        lane = _lane(150.0, self.stages)
        if len(self.stages) < 3 or self._width(lane, self.stages, amounts=False) <= _NARROW:
            return [self.stages]
        ends = [(link.source, link.target) for link in self.links]
        pairs = [dict(pair) for pair in combinations(self.stages.items(), 2)]
        return [
            pair
            for pair in pairs
            for first, second in [pair.values()]
            if any(source in first and target in second for source, target in ends)
        ]

    def _svg(self, lane: float, kind: str, stages: Mapping[str, Sequence[str]]) -> Markup:
        inner = [name for names in [*stages.values()][:-1] for name in names]
        first = next(iter(stages.values()), ()) if kind == "broad" else ()
        margin = max((_LETTER * (len(name) + 2 + len(self._said(name))) for name in first), default=0.0)
        lane = _lane(lane, stages)
        places = self.layout(lane, stages)
        amounts = kind == "broad" or self._width(lane, stages) <= _NARROW  # behind the last names
        width = self._width(lane, stages, amounts) + margin
        bottom = max((y + h for _, y, h in places.values()), default=_HEIGHT) + 10
        heads = [
            element("text", stage, x=f"{index * lane:.0f}", y=14, class_="stage") for index, stage in enumerate(stages)
        ]
        nodes = (
            self._node(name, place, lane if name in inner else None, before=name in first, last_amount=amounts)
            for name, place in places.items()
        )
        shapes = [*heads, *self._ribbons(places), *nodes]
        return element("svg", *shapes, viewBox=f"{-margin:.0f} 0 {width:.0f} {bottom:.0f}", width=f"{width:.0f}",
                       class_=f"flow {kind}",
                       role="img", aria_label=f"{self.title}; the table with it has the numbers")  # fmt: skip

    @staticmethod
    def _width(lane: float, stages: Mapping[str, Sequence[str]], amounts: bool = True) -> float:
        longest = max((len(name) for name in [*stages.values()][-1]), default=0) if stages else 0
        return lane * (len(stages) - 1) + _BAR + min(380.0, (84.0 if amounts else 28.0) + _LETTER * longest)

    def layout(
        self, lane: float = 220.0, stages: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, tuple[float, float, float]]:
        """Where the nodes stand.

        Args:
            lane: from one stage's left edge to the next one's.
            stages: those that are drawn; all by default.

        Returns:
            Left edge, top and height of each node; heights share one scale over all stages.
        """
        stages = self.stages if stages is None else stages
        totals = {name: self._through(name) for names in stages.values() for name in names}
        fullest = max((sum(totals[name] for name in names) for names in stages.values()), default=0.0)
        scale = _HEIGHT / fullest if fullest > 0 else 0.0
        places = {}
        for index, names in enumerate(stages.values()):
            y = _TOP
            for name in names:
                height = max(3.0, totals[name] * scale)
                places[name] = (index * lane, y, height)
                y += max(height, 22.0) + _GAP
        return places

    def _through(self, name: str) -> float:
        outward = sum(_finite(link.amount) for link in self.links if link.source == name)
        inward = sum(_finite(link.amount) for link in self.links if link.target == name)
        return max(outward, inward)

    def norm(self, name: str) -> float | None:
        """The norm of all that passes a node.

        Args:
            name: of the node.

        Returns:
            Of what leaves for places of its own the root of the sum of squares; of what arrives the one amount, and
            `None` where several meet: the norm of their sum depends on their directions.
        """
        inward = [_finite(link.amount) for link in self.links if link.target == name]
        if inward:
            return inward[0] if len(inward) == 1 else None
        return math.hypot(*(_finite(link.amount) for link in self.links if link.source == name))

    def _ribbons(self, places: Mapping[str, tuple[float, float, float]]) -> list[Markup]:
        used_out, used_in = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0.0)
        terms = self.terms or next(iter(self.stages.values()), ())
        colors = {name: index % 8 for index, name in enumerate(terms)}
        ribbons = []
        drawn = [link for link in self.links if link.source in places and link.target in places]
        for link in sorted(drawn, key=lambda link: (places[link.source][1], places[link.target][1])):
            x0, y0, height = places[link.source]
            x1, y1, _ = places[link.target]
            through = self._through(link.source)
            thick = _finite(link.amount) * height / through if through > 0 else 0.0
            start, end = y0 + used_out[link.source] + thick / 2, y1 + used_in[link.target] + thick / 2
            used_out[link.source] += thick
            used_in[link.target] += thick
            middle = (x0 + _BAR + x1) / 2
            tip = f"{link.term + ': ' if link.term else ''}{link.source} → {link.target}: {number(link.amount)}"
            ribbons.append(element(
                "path", d=f"M{x0 + _BAR:.1f} {start:.1f}C{middle:.1f} {start:.1f}"
                f" {middle:.1f} {end:.1f} {x1:.1f} {end:.1f}",
                class_=f"ribbon c{colors.get(link.term or link.source, 7)}" + ("" if thick else " silent"),
                stroke_width=f"{max(thick, 1.5):.2f}", tabindex=0, data_tip=f"{tip} {self.unit}".strip(),
            ))  # fmt: skip
        return ribbons

    def _said(self, name: str) -> str:
        norm = self.norm(name)
        return "" if norm is None else number(norm)

    def _node(
        self, name: str, place: tuple[float, float, float], room: float | None, *, before: bool, last_amount: bool
    ) -> Markup:
        """A bar with its name: before it, or behind it; there over a ribbon that is too thin to be written on."""
        x, y, height = place
        said = self._said(name)
        thin = height < _LINE and room is not None and not before
        middle = y - 5 if thin else max(y + height / 2 + 4, y + 8)
        amount = element("tspan", f"  {said}", class_="amount")
        needs = _BAR + 14 + _LETTER * (len(name) + 2 + len(said))
        fits = before or (last_amount if room is None else needs <= room)  # else tip and table have it
        label = element("tspan", name) + (amount if fits else "")
        left = x - 7 if before else x if thin else x + _BAR + 7
        anchor = "end" if before else None
        return element(
            "g",
            element("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=_BAR, height=f"{height:.1f}", class_="node"),
            element("text", Markup(label), x=f"{left:.1f}", y=f"{middle:.1f}", text_anchor=anchor),
            data_tip=f"{name}: {said} {self.unit}".strip() if said else name,
        )


def _lane(least: float, stages: Mapping[str, Sequence[str]]) -> float:
    """From one stage to the next: names end before the next bar."""
    inner = [len(name) for names in [*stages.values()][:-1] for name in names]
    return max(least, _BAR + 14 + _LETTER * max(inner, default=0))


def _finite(amount: float) -> float:
    return amount if math.isfinite(amount) else 0.0
