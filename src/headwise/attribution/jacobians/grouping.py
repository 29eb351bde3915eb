"""Which parameters a table looks at, and how they are grouped into its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from torch import Tensor, nn

from headwise.refusals import refuse_no_model

Patterns: TypeAlias = "str | Sequence[str]"
Group: TypeAlias = "Literal['parameter', 'module'] | Callable[[str], str | None] | Mapping[str, Patterns]"


def chosen_parameters(what: str, model: nn.Module, patterns: Patterns | None) -> dict[str, Tensor]:
    """The parameters that ask for a gradient and match.

    Args:
        what: The function that asks, for the message.
        model: The network.
        patterns: Names or shell patterns (`backbone.*`); None: all.

    Returns:
        Name to parameter, tied ones once.

    Raises:
        ValueError: If the model is no module, a pattern matches nothing, or nothing asks for a gradient.
    """
    refuse_no_model(what, model)
    known: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if patterns is not None:
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        for pattern in wanted:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise ValueError(f"parameters: {pattern!r} matches no parameter that asks for a gradient.")
        known = {name: p for name, p in known.items() if any(fnmatchcase(name, pattern) for pattern in wanted)}
    if not known:
        raise ValueError("parameters: the model has none that asks for a gradient (requires_grad=True).")
    return known


def group_names(names: Sequence[str], group: Group) -> dict[str, tuple[str, ...]]:
    """Sort parameters into groups.

    Args:
        names: The names of the parameters.
        group: "parameter": each its own. "module": by the module that holds them. A function from a name to that of its
            group, or None to leave it out. A mapping from groups to names or shell patterns; the first match counts,
            and what matches none is left out.

    Returns:
        Group to names, in the order of first appearance (of the mapping).

    Raises:
        ValueError: If the grouping is none of these, or leaves every parameter out.
    """
    found: dict[str, list[str]] = {key: [] for key in group} if isinstance(group, Mapping) else {}
    for name in names:
        key = _group_of(name, group)
        if key is not None:
            found.setdefault(key, []).append(name)
    groups = {key: tuple(members) for key, members in found.items() if members}
    if not groups:
        raise ValueError(f"group: no parameter belongs to any group of {group!r}. The first is {names[0]!r}.")
    return groups


def _group_of(name: str, group: Group) -> str | None:
    if group == "parameter":
        return name
    if group == "module":
        return name.rpartition(".")[0] or "(model)"
    if isinstance(group, Mapping):
        return next((key for key, patterns in group.items() if _matches(name, patterns)), None)
    if callable(group):
        return group(name)
    raise ValueError(f"group: expected 'parameter', 'module', a function or a mapping; found {group!r}.")


def _matches(name: str, patterns: Patterns) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))
