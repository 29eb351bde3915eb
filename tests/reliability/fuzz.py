"""Random declarations: valid ones against an independent float64 oracle, invalid ones for how they are refused.

The oracle shares no code with Headwise: it indexes, masks, divides and weighs with plain PyTorch in float64. An invalid
declaration must be refused by a ValueError of one line that names the term (or the word that is wrong); an error with a
note, or where it passes a warning, that names it serves as well. A failure's seed alone reproduces it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import random
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F

import headwise as hw
from headwise import losses, normalizers

KEYS = ["maps", "a", "b1", "_x", "odd key", "a-b", "é", "0", "x.y", "it's", "class", "T" * 40, "a|b", "~n", "(p)"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5, torch.bfloat16: 4e-2}
Pair = collections.namedtuple("Pair", "p q")
# What one term reads, and what the oracle makes of it: loss and count of each level, the least pooled count.
Reading = collections.namedtuple("Reading", "name leaves view loss targets masks count weight level_weights pooled")


def step(prefix: str, key: str) -> str:
    """A path one key longer."""
    if key.isidentifier():
        return f"{prefix}.{key}" if prefix else key
    return f"{prefix}[{key!r}]"


class Case:
    """One random declaration: outputs, targets, terms, and the oracle's readings."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.draw.choices(list(TOLERANCE), [10, 3, 1])[0]
        self.size = self.draw.choice([0, 1, 2, 3])
        self.leaves: list[torch.Tensor] = []
        self.outputs, self.targets = {}, {}  # type: dict[str, Any], dict[str, Any]
        self.nodes: list[tuple[str, list[int], bool]] = []  # path, numbers of leaves, whether they are levels
        self.terms, self.readings = [], []  # type: list[Any], list[Reading]
        self.channels: dict[int, set[int] | None] = {}  # leaf -> channels that are read; None: all
        self.step = self.draw.choice([0, 0, 1, 4])
        for key in self.draw.sample(KEYS, self.draw.randint(1, 3)):
            self.add_output(key)
        for number in range(self.draw.randint(1, 4)):
            self.add_term(number)
        self.unread = self.find_unread()

    def leaf(self, shape: tuple[int, ...]) -> torch.Tensor:
        made = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.dtype)
        self.leaves.append(made.requires_grad_())
        return self.leaves[-1]

    def shape(self) -> tuple[int, ...]:
        return (self.size, self.draw.randint(1, 5), *[self.draw.randint(1, 4) for _ in range(self.draw.randint(0, 3))])

    def add_output(self, key: str) -> None:
        first, base, shape, number = len(self.leaves), step("", key), self.shape(), self.draw.randint(1, 3)
        kind = self.draw.choices(["tensor", "levels", "indexed", "dict", "pair", "rows"], [5, 3, 1, 1, 1, 1])[0]
        if kind == "tensor":
            self.outputs[key], self.nodes = self.leaf(shape), [*self.nodes, (base, [first], False)]
        elif kind in ("levels", "indexed"):
            wide = len(shape) > 2 and self.draw.random() < 0.5
            shapes = [
                (*shape[:2], *[self.draw.randint(1, 4) for _ in shape[2:]]) if wide else shape for _ in range(number)
            ]
            self.outputs[key] = [self.leaf(each) for each in shapes]
            single = [(f"{base}[{place}]", [first + place], False) for place in range(number)]
            self.nodes += [(base + "[*]", [*range(first, first + number)], True)] if kind == "levels" else single
        elif kind == "rows":
            self.outputs[key] = tuple({"u": self.leaf(shape), "v": self.leaf(shape)} for _ in range(number))
            for place, part in enumerate("uv"):
                self.nodes.append((f"{base}[*].{part}", list(range(first + place, first + 2 * number, 2)), True))
        else:
            one, other = self.leaf(shape), self.leaf(self.shape())
            self.outputs[key] = {"p": one, "q": other} if kind == "dict" else Pair(one, other)
            self.nodes += [(base + ".p", [first], False), (base + ".q", [first + 1], False)]

    def find_unread(self) -> list[str]:
        """Whole outputs, and channels, that no term reads."""
        found = []
        for path, leaves, _ in self.nodes:
            read = [self.channels.get(leaf, set()) for leaf in leaves]
            if not any(each is None or each for each in read):
                found.append(path)
            elif read[0] is not None:
                missing = set(range(self.leaves[leaves[0]].shape[1])) - read[0]
                found += [f"{path}[:, {channel}]" for channel in sorted(missing)]
        return found

    def put(self, name: str, each: list[torch.Tensor], levels: bool) -> str:
        self.targets[name] = each if levels else each[0]
        return f"{name}[*]" if levels else name

    def slice(self, leaves: list[int]) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
        """A slice of channels, and what the oracle does for it."""
        size = self.leaves[leaves[0]].shape[1]
        start = self.draw.randrange(size)
        kind = self.draw.choice(["whole", "whole", "one", "range", "from the end"])
        stop = start + 1 if kind == "one" else self.draw.randint(start + 1, size)
        for leaf in leaves:
            read = self.channels.get(leaf, set())
            self.channels[leaf] = None if read is None or kind == "whole" else read | set(range(start, stop))
        if kind == "whole":
            return "", lambda tensor: tensor
        if kind == "one":
            return f"[:, {self.draw.choice([start, start - size])}]", lambda tensor: tensor[:, start]
        begin, end = (start - size, "" if stop == size else stop) if kind == "from the end" else (start, stop)
        return f"[:, {begin}:{end}]", lambda tensor: tensor[:, start:stop]

    def add_term(self, number: int) -> None:
        path, leaves, levels = self.draw.choice(self.nodes)
        text, view = self.slice(leaves)
        seen = [view(self.leaves[leaf]) for leaf in leaves]
        kind = self.draw.choice(["squared", "absolute", "smooth", "binary", "own", "cross"])
        if kind == "cross" and seen[0].dim() < 2:
            kind = "squared"
        name = self.draw.choice(["term", "né", "a b", "x/y"]) + str(number)
        targets, masks = [self.target(kind, each) for each in seen], [None] * len(seen)
        options: dict[str, Any] = {"output": path + text, "target": self.put(f"t{number}", targets, levels)}
        if self.draw.random() < 0.5:
            options["mask"], masks = self.mask(f"m{number}", targets, levels)
        weight: Any = self.draw.choice([1.0, 0.3, 2.5, 0, -1.5, 1e-3, "schedule", "tensor"])
        options["weight"] = {
            "schedule": lambda at: 1.0 / (1 + at),
            "tensor": torch.tensor(0.7, dtype=torch.float64),
        }.get(weight, weight)
        weight = {"schedule": 1.0 / (1 + self.step), "tensor": 0.7}.get(weight, weight)
        level_weights, pooled = [1.0] * len(seen), None
        if levels and self.draw.random() < 0.6:
            level_weights = [self.draw.choice([1.0, 0.5, 0.0, 0.1]) for _ in seen]
            pooled = self.draw.choice([None, 0.0, 5.0])
            normalize = sum(level_weights) > 0 and self.draw.random() < 0.3
            pool: Literal["each", "all"] = "each" if pooled is None else "all"
            options["levels"] = hw.Levels(level_weights, normalize=normalize, pool=pool, least=pooled or 0.0)
            if normalize:
                level_weights = [each / sum(level_weights) for each in level_weights]
        loss, oracle = LOSSES[kind]
        normalizer, count = self.draw.choice(COUNTS)
        self.terms.append(hw.Term(name, loss, normalizer, **options))
        self.readings.append(Reading(name, leaves, view, oracle, targets, masks, count, weight, level_weights, pooled))

    def target(self, kind: str, seen: torch.Tensor) -> torch.Tensor:
        if kind == "cross":
            return torch.randint(0, seen.shape[1], (seen.shape[0], *seen.shape[2:]), generator=self.generator)
        made = torch.rand(seen.shape, generator=self.generator, dtype=torch.float64)
        return made if kind == "binary" else 2 * made - 1

    def mask(self, name: str, targets: list[torch.Tensor], levels: bool) -> tuple[str, list[Any]]:
        """An expression over one or two masks of some dtype, and its value."""
        chance = self.draw.choice([0.0, 0.3, 0.7, 1.0])
        drawn = [[torch.rand(each.shape, generator=self.generator) < chance for each in targets] for _ in range(2)]
        cast = self.draw.choice(
            [lambda m: m, lambda m: m.float() * 0.3, lambda m: m.to(torch.uint8), lambda m: m.long() * 5]
        )
        one = self.put(name + "a", [cast(each) for each in drawn[0]], levels)
        kind = self.draw.choice(["", "&", "|", "~"])
        if kind in ("", "~"):
            return kind + one, [~each if kind else each for each in drawn[0]]
        other = self.put(name + "b", [cast(each) for each in drawn[1]], levels)
        both = [a & b if kind == "&" else a | b for a, b in zip(*drawn, strict=True)]
        return f"({one} {kind} {other})", both


def masked(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return (values if mask is None else torch.where(mask, values, torch.zeros_like(values))).sum()


def own(output: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """A loss of a user's."""
    return masked(torch.log1p((output.double() - target.double()).square()), mask)


LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., torch.Tensor]]] = {
    "squared": (losses.squared_error, lambda o, t, m: masked((o - t).square(), m)),
    "absolute": (losses.absolute_error, lambda o, t, m: masked((o - t).abs(), m)),
    "smooth": (losses.smooth_l1, lambda o, t, m: masked(F.smooth_l1_loss(o, t, reduction="none"), m)),
    "binary": (losses.binary_cross_entropy, lambda o, t, m: masked(F.softplus(o) - o * t, m)),
    "own": (own, own),
    "cross": (losses.cross_entropy, lambda o, t, m: masked(-o.log_softmax(1).gather(1, t[:, None])[:, 0], m)),
}
COUNTS: list[tuple[Any, Callable[..., float]]] = [
    (normalizers.count, lambda t, m: float(t.numel() if m is None else m.sum())),
    (normalizers.one, lambda t, m: 1.0),
    (normalizers.images, lambda t, m: float(t.shape[0])),
    (0.25, lambda t, m: 0.25),
    (1000, lambda t, m: 1000.0),
    (lambda t, mask=None: t.numel() + 1.5, lambda t, m: t.numel() + 1.5),
]


def oracle(case: Case) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """The total, each term's value, and the gradients."""
    leaves, values = [leaf.detach().double().requires_grad_() for leaf in case.leaves], []
    for each in case.readings:
        levels = zip(each.leaves, each.targets, each.masks, strict=True)
        parts = [(each.loss(each.view(leaves[n]), t, m), each.count(t, m)) for n, t, m in levels]
        pooled = None if each.pooled is None else max(sum(count for _, count in parts), each.pooled)
        parts = [(sums, count if pooled is None else pooled) for sums, count in parts]
        quotients = [sums / count if count else sums * 0 for sums, count in parts]
        values.append(sum(scale * value for scale, value in zip(each.level_weights, quotients, strict=True)))
    total = sum(each.weight * value for each, value in zip(case.readings, values, strict=True))
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return total, values, [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def differ(found: Any, wanted: torch.Tensor, tolerance: float, scale: float = 0.0) -> bool:
    found, wanted = torch.as_tensor(found, dtype=torch.float64).detach(), wanted.detach()
    return bool(wanted.numel()) and not float((found - wanted).abs().max()) <= tolerance * max(
        float(wanted.abs().max()), scale, 1e-9
    )


def check_valid(seed: int) -> str | None:
    """What is wrong with a valid case, books included; None if nothing is."""
    case, gradients = Case(seed), []
    for keeps_books in (False, True):
        criterion = hw.Criterion(case.terms, unread=case.unread)
        criterion.advance(case.step)
        ledger = hw.Ledger(criterion) if keeps_books else None
        for leaf in case.leaves:
            leaf.grad = None
        breakdown = criterion(case.outputs, case.targets)
        breakdown.total.backward()
        gradients.append([leaf.grad for leaf in case.leaves])
    assert ledger is not None
    books = ledger.read()
    total, values, wanted = oracle(case)
    tolerance, exact = TOLERANCE[case.dtype], 1e-12 if case.dtype == torch.float64 else 1e-6
    scale = sum(
        abs(each.weight) * abs(float(value.detach())) for each, value in zip(case.readings, values, strict=True)
    )
    if differ(breakdown.total, total, tolerance, scale):
        return f"the total is {float(breakdown.total.detach())}, expected {float(total.detach())}"
    for each, value in zip(case.readings, values, strict=True):
        for number in (breakdown[each.name].value.detach(), books[each.name].value):
            if differ(number, value, tolerance):
                return f"{each.name!r}: the value is {float(number)}, expected {float(value.detach())}"
    for place, (off, on, right) in enumerate(zip(*gradients, wanted, strict=True)):
        if (off is None) != (on is None) or (off is not None and not torch.equal(off, on)):
            return f"gradient of output {place}: other bits with books on"
        if off is not None and differ(off, right, 4 * tolerance):
            return f"gradient of output {place}: off by {float((off.double() - right).abs().max()):.2e}"
    for each in case.readings:
        if not math.isclose(books[each.name].weight, each.weight, rel_tol=exact):
            return f"{each.name!r}: the booked weight is {books[each.name].weight}, expected {each.weight}"
    return None


# ---- invalid declarations

OTHER = [None, 3, -1.5, b"x", [], {}, set(), object(), math.nan, "", "\n", torch.ones(2), 1j, [None], ["x", 3], 10**400]
RAISED = [
    ValueError,
    KeyError,
    IndexError,
    RuntimeError,
    ZeroDivisionError,
    AttributeError,
    AssertionError,
    OverflowError,
]


def mutate(case: Case, draw: random.Random) -> tuple[str, list[str], Callable[[], Any]]:
    """What is broken, the words of which an error must hold one, and how to run it."""
    place = draw.randrange(len(case.terms))
    term, other, error = (
        case.terms[place],
        draw.choice(OTHER),
        draw.choice(RAISED)(draw.choice(["boom", "boom\nand more"])),
    )

    def fails(*arguments: Any, **options: Any) -> Any:
        raise error

    fields = {each.name: getattr(term, each.name) for each in dataclasses.fields(term)}
    odd: Any = draw.choice([(1, 2), None, 1.5, "z[0]", "z'\"", "z\nz", "*"])
    number = draw.choice([-3.0, math.nan, True, 2j, torch.tensor(2j), torch.ones(5), [7.0], "7"])
    text, kind, is_weight = (
        f"{other!r:.20}",
        type(error).__name__,
        isinstance(other, int | float) and abs(other) < 1e300,
    )
    changes: dict[str, dict[str, Any]] = {
        "a path to nothing": {"output": "zz"},
        "channels of nothing": {"output": "zz[:, 99]"},
        f"output {text}": {"output": other},
        "a slice of nothing": {"output": term.output.partition("[:")[0] + "[:, 5:3]"},
        "a target to nothing": {"target": "zz.deep"},
        "a mask to nothing": {"mask": "zz & zy"},
        f"mask {text}": {"mask": 3 if other is None else other},
        f"levels {text}": {"levels": 3 if other is None else other},
        f"weight {text}": {"weight": "1" if is_weight else other},
        "a weight that fails later": {"weight": lambda at: 1.0 if at == 0 else fails()},
        f"loss {text}": {"loss": other},
        f"a loss that raises {kind}": {"loss": fails},
        f"a normalizer that raises {kind}": {"normalizer": fails},
        f"a normalizer that returns {number!r:.20}": {"normalizer": lambda target, mask=None: number},
    }
    shown = [str(odd), repr(odd), repr(odd)[1:-1], repr(repr(odd))[2:-2]]
    others = {
        "an odd output": shown,
        "an odd target": shown,
        "two of one name": [term.name],
        "unread to nothing": ["nothing.here"],
        f"denominators {number!r:.20}": [each.name for each in case.terms],
    }
    what = draw.choice([*changes, *others])

    def run() -> Any:
        terms, outputs, targets, unread = list(case.terms), dict(case.outputs), dict(case.targets), list(case.unread)
        if what in changes:
            terms[place] = hw.Term(**{**fields, **changes[what]})
        elif what == "two of one name":
            terms.append(hw.Term(**fields))
        elif what == "unread to nothing":
            unread.append("nothing.here")
        elif what in ("an odd output", "an odd target"):
            (outputs if what == "an odd output" else targets)[odd] = torch.ones(
                2, 3, requires_grad=what == "an odd output"
            )
        criterion = hw.Criterion(terms, unread=unread)
        criterion.advance(1)
        denominators = {each.name: number for each in terms} if what.startswith("denominators") else None
        criterion(outputs, targets, denominators).total.backward()

    return what, others.get(what, [term.name]), run


def check_invalid(seed: int) -> str | None:
    """How an invalid case is refused wrongly; None if it is refused as it should be."""
    case, draw = Case(seed), random.Random(-1 - seed)
    what, words, run = mutate(case, draw)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run()
        except Exception as error:
            notes, text = getattr(error, "__notes__", []), str(error)
            if not isinstance(error, ValueError) and not any(
                term.name in note for term in case.terms for note in notes
            ):
                return f"{what}: {type(error).__name__}: {text[:100]!r}"
            if "\n" in text and not notes:
                return f"{what}: {text.count(chr(10)) + 1} lines"
            found = any(word in text + " ".join(notes) for word in words)
            return None if found else f"{what}: not a word of {words[0]!r}: {text[:120]}"
    told = any(word in str(each.message) for each in caught for word in words)
    return None if told else f"{what}: passed in silence"
