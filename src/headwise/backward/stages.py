"""Which heads must run together: those whose outputs one term reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwise.criterion import Criterion
from headwise.criterion.binding.binding import bind_targets
from headwise.criterion.binding.unread import check_targets_read
from headwise.criterion.terms.paths import WILDCARD, Path, Step, expand, parse
from headwise.structure import Key, children, mapped_by_path


@dataclass(frozen=True, eq=False)
class Stage:
    """Heads that run together, and the terms that read them.

    Args:
        heads: Paths of the heads.
        criterion: Their terms, as a criterion.
        used: Concrete paths of the targets that these terms read.
    """

    heads: tuple[str, ...]
    criterion: Criterion
    used: frozenset[str]

    def place(self, results: Mapping[str, Any]) -> dict[Key, Any]:
        """The heads' results as nested outputs.

        Args:
            results: What each head returned, by its path.

        Returns:
            The outputs, made of dicts.

        Raises:
            ValueError: A path has [*], and the head did not return levels.
        """
        outputs: dict[Key, Any] = {}
        for path, result in results.items():
            _place(outputs, parse(path).steps, result, path)
        return outputs

    def prune(self, targets: Any) -> Any:
        """The targets that this stage's terms read, and None in place of the others."""
        return mapped_by_path(targets, lambda path, tensor: tensor if path in self.used else None)

    def unread(self, outputs: Any, declared: Sequence[str]) -> tuple[str, ...]:
        """What of the paths declared unread concerns this stage's outputs."""
        return tuple(path for path in declared if expand(parse(path), outputs, where_there=True))


def make_stages(criterion: Criterion, heads: Sequence[str], targets: Any) -> list[Stage]:
    """Groups heads into stages, in the order of their last heads.

    Args:
        criterion: The criterion.
        heads: The heads' paths in the outputs.
        targets: The nested targets.

    Returns:
        The stages; heads declared unread are in none.

    Raises:
        ValueError: A path holds a slice, a term reads what no head makes, a head or target is read by nobody.
    """
    readers = _readers(criterion, heads)
    used = {
        term.name: frozenset(read.path for binding in bind_targets(term, targets)[1] for read in binding.reads)
        for term in criterion.terms
    }
    check_targets_read(targets, set().union(*used.values()), [parse(path) for path in criterion.unread])
    stages = []
    for group in _components(readers):
        names = tuple(name for name in criterion.names if any(head in group for head in readers[name]))
        chosen = tuple(head for head in heads if head in group)
        stages.append(Stage(chosen, criterion.part(names), frozenset().union(*(used[name] for name in names))))
    return sorted(stages, key=lambda stage: max(heads.index(head) for head in stage.heads))


def _readers(criterion: Criterion, heads: Sequence[str]) -> dict[str, list[str]]:
    """Per term the heads whose outputs it reads."""
    parsed = {head: parse(head) for head in heads}
    sliced = next((head for head, path in parsed.items() if path.channels is not None), None)
    if sliced is not None:
        raise ValueError(f"staged: head {sliced!r}: a head makes whole outputs. Name the output without a slice")
    found: dict[str, list[str]] = {}
    for term in criterion.terms:
        for path in term.reads.paths:
            made = [head for head, where in parsed.items() if _touch(where, path)]
            if not made:
                raise ValueError(
                    f"staged: term {term.name!r}: output {str(path)!r} is made by no head. "
                    f"The heads are: {', '.join(heads)}. Add the head, by the path of its output"
                )
            found.setdefault(term.name, []).extend(made)
    read = {head for made in found.values() for head in made}
    unread = [parse(path) for path in criterion.unread]
    idle = next((head for head in heads if head not in read and not any(_touch(p, parsed[head]) for p in unread)), None)
    if idle is not None:
        raise ValueError(f"staged: head {idle!r} is read by no term. Leave it out, or declare unread=[{idle!r}]")
    return found


def _touch(one: Path, other: Path) -> bool:
    """Whether one path names the other's place, or something that holds it."""
    pairs = zip(one.steps, other.steps, strict=False)
    return all(WILDCARD in (a, b) or str(a) == str(b) for a, b in pairs)


def _components(readers: Mapping[str, Sequence[str]]) -> list[set[str]]:
    """Heads that terms connect."""
    groups: list[set[str]] = []
    for heads in readers.values():
        joined = set(heads).union(*(group for group in groups if group & set(heads)))
        groups = [group for group in groups if not group & joined] + [joined]
    return groups


def _place(into: dict[Key, Any], steps: tuple[Step, ...], result: Any, path: str) -> None:
    first, rest = steps[0], steps[1:]
    if first is not WILDCARD:
        _put(into, first, rest, result, path)
        return
    levels = children(result)
    if levels is None:
        raise ValueError(
            f"staged: head {path!r}: [*] needs a list with one result a level; found {type(result).__name__}. "
            "Return a list, or write the path without [*]"
        )
    for level, each in levels.items():
        _put(into, level, rest, each, path)


def _put(into: dict[Key, Any], key: Key, rest: tuple[Step, ...], result: Any, path: str) -> None:
    if rest:
        _place(into.setdefault(key, {}), rest, result, path)
    else:
        into[key] = result
