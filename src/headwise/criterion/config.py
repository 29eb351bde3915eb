"""Criteria as plain data: dict, JSON and YAML, and the Keras-style mapping.

A configuration looks like this (a loss without hyper-parameters may be its bare name)::

    terms:
      - name: sin
        loss: {name: direction_smooth_l1, component: 0}
        normalizer: count
        output: maps[:, 4:6]
        target: sin
        mask: valid & center_line
        weight: {schedule: StepDecay, initial: 1.0, factor: 0.1, every: 10000}
        levels: {weights: [1, 0.5], pool: each}
    unread: [aux]
    on_nonfinite: keep

Without a normalizer, a loss is divided by the count that it declares. Functions of the user are named
``package.module:function``; they run only where the reader allows their module.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Literal

from torch import Tensor

from headwise import losses, normalizers
from headwise.criterion import schedules
from headwise.criterion.naming import Allow, function_from_config, function_to_config, import_function
from headwise.criterion.terms.levels import Levels
from headwise.criterion.terms.term import AnyTerm, RatioTerm, Term
from headwise.files import each_once
from headwise.require import require
from headwise.structure import one_line
from headwise.tabular import is_number

_TERM_KEYS = ("name", "loss", "normalizer", "output", "target", "mask", "weight", "levels", "ratio")
_CRITERION_KEYS = ("terms", "unread", "on_nonfinite", "compile")


def terms_to_list(terms: Iterable[AnyTerm], weights: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Writes terms as plain data.

    Args:
        terms: The terms.
        weights: Their present weights.

    Returns:
        One dict a term; `terms_from_list` reads it back.

    Raises:
        ValueError: A function has no name under which it could be found again.
    """
    return [_term_to_dict(term, weights[term.name]) for term in terms]


def _term_to_dict(term: AnyTerm, weight: Any) -> dict[str, Any]:
    where = f"term {term.name!r}"
    found: dict[str, Any] = {"name": term.name, "loss": function_to_config(where, term.loss, losses)}
    if isinstance(term, RatioTerm):
        found["ratio"] = True
    elif isinstance(term.normalizer, int | float):
        found["normalizer"] = term.normalizer
    elif term.normalizer is not None:
        found["normalizer"] = function_to_config(where, term.normalizer, normalizers)
    for key in ("output", "target", "mask"):
        value = getattr(term, key)
        if value is not None:
            found[key] = list(value) if isinstance(value, tuple) else value
    found["weight"] = _weight_to_config(where, weight)
    if term.levels is not None:
        found["levels"] = _levels_to_config(where, term.levels)
    return found


def terms_from_list(rows: Any, allow: Allow = ()) -> list[AnyTerm]:
    """Reads terms from plain data.

    Args:
        rows: What `terms_to_list` wrote.
        allow: The modules from which functions may be imported; True for all.

    Returns:
        The terms.

    Raises:
        ValueError: A key, a function or a schedule is unknown, or a key is missing.
    """
    if not isinstance(rows, list | tuple):
        raise ValueError(f"a configuration's terms are a list of dicts; found {type(rows).__name__}")
    return [_term_from_dict(number, row, allow) for number, row in enumerate(rows)]


def _term_from_dict(number: int, row: Any, allow: Allow) -> AnyTerm:
    if not isinstance(row, Mapping):
        raise ValueError(f"term number {number} of the configuration is a dict; found {row!r}")
    where = f"term {row.get('name', number)!r}"
    try:
        return _read_term(where, row, allow)
    except Exception as error:
        said = one_line(error)
        raise ValueError(said if where in said else f"{where}: {said}") from error


def _read_term(where: str, row: Mapping[str, Any], allow: Allow) -> AnyTerm:
    check_keys(where, row, _TERM_KEYS, needed=("name", "loss", "output"))
    rest = {key: row[key] for key in ("output", "target", "mask") if row.get(key) is not None}
    for key, value in rest.items():
        rest[key] = tuple(value) if isinstance(value, list) else value
    rest["weight"] = _weight_from_config(where, row.get("weight", 1.0), allow)
    if row.get("levels") is not None:
        rest["levels"] = _levels_from_config(where, row["levels"], allow)
    loss = function_from_config(where, row["loss"], losses, "loss", allow)
    ratio = row.get("ratio", False)
    if not isinstance(ratio, bool):
        raise ValueError(f"{where}: ratio is true or false; found {ratio!r}")
    if ratio:
        if "normalizer" in row:
            raise ValueError(f"{where}: a ratio term has no normalizer; its loss returns both sums. Leave one out")
        return RatioTerm(row["name"], loss, **rest)
    normalizer = row.get("normalizer")
    if normalizer is not None and not is_number(normalizer):
        normalizer = function_from_config(where, normalizer, normalizers, "normalizer", allow)
    return Term(row["name"], loss, normalizer, **rest)


def check_keys(where: str, row: Mapping[str, Any], known: Iterable[str], needed: Iterable[str] = ()) -> None:
    """Refuses keys that are unknown or missing.

    Args:
        where: What the keys belong to, for the message.
        row: The configuration.
        known: The keys that may occur.
        needed: The keys that must.

    Raises:
        ValueError: Says which key, and the nearest known one.
    """
    known = tuple(known)
    for key in row:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where}: unknown key {key!r}. Known: {', '.join(known)}.{hint}")
    for key in needed:
        if key not in row:
            raise ValueError(f"{where}: the key {key!r} is missing. Found: {', '.join(map(str, row))}")


def _weight_to_config(where: str, weight: Any) -> Any:
    if isinstance(weight, Tensor):
        return float(weight.detach())
    if not callable(weight):
        return weight
    if is_dataclass(weight) and type(weight).__module__ == schedules.__name__:
        row = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(weight).items()}  # type: ignore[arg-type]
        return {"schedule": type(weight).__name__, **row}
    return {"schedule": function_to_config(where, weight, schedules)}


def _weight_from_config(where: str, given: Any, allow: Allow) -> Any:
    if not isinstance(given, Mapping):
        return given
    rest = dict(given)
    name = rest.pop("schedule", None)
    if isinstance(name, str) and ":" in name:
        return import_function(where, name, "schedule", allow)
    known = {each.__name__: each for each in vars(schedules).values() if isinstance(each, type) and is_dataclass(each)}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{where}: no schedule {name!r}. Known: {', '.join(known)}, or 'package.module:function'")
    wanted = fields(known[name])
    needed = [field.name for field in wanted if field.default is MISSING]
    check_keys(f"{where}: schedule {name!r}", rest, [field.name for field in wanted], needed)
    return known[name](**rest)


def _levels_to_config(where: str, levels: Levels) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for each in fields(levels):
        value = getattr(levels, each.name)
        if value != each.default:
            row[each.name] = list(value) if isinstance(value, tuple) else value
    if levels.weights is not None:
        row["weights"] = [_weight_to_config(where, weight) for weight in levels.weights]
    return row


def _levels_from_config(where: str, given: Any, allow: Allow) -> Levels:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: levels is a dict; found {given!r}")
    check_keys(f"{where}: levels", given, [each.name for each in fields(Levels)])
    rest = dict(given)
    if isinstance(rest.get("weights"), list | tuple):
        rest["weights"] = [_weight_from_config(where, weight, allow) for weight in rest["weights"]]
    return Levels(**rest)


def terms_from_mapping(mapping: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> list[AnyTerm]:
    """Terms from a Keras-style mapping: each output's loss reads the target of the same name.

    Args:
        mapping: ``{output path: loss}``. A loss is a function of `losses` or its name, a pair (loss, normalizer), any
            function (output, target) -> sum (divided by the count that it declares, or by the number of the target's
            elements), or one of torch's own loss modules (see `losses.from_torch`), whose mean is kept unless a pair
            says what divides its sum.
        weights: ``{output path: weight}``; 1 where nothing is said.

    Returns:
        The terms, named by their outputs.

    Raises:
        ValueError: A weight belongs to no output, or a loss is none of these.
    """
    weights = weights or {}
    for name in weights:
        if name not in mapping:
            raise ValueError(
                f"a weight is given for {name!r}, which is no output. The outputs are: {', '.join(mapping)}"
            )
    terms: list[AnyTerm] = []
    for name, given in mapping.items():
        loss, normalizer = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        if isinstance(given, AnyTerm):
            raise ValueError(
                f"output {name!r}: a mapping holds losses; found a {type(given).__name__}. Give a list of terms"
            )
        if losses.is_torch_loss(loss):
            if normalizer is None:
                loss, normalizer = losses.from_torch(loss)
        elif not callable(loss):
            loss = function_from_config(f"output {name!r}", loss, losses, "loss")
        if isinstance(normalizer, str):
            normalizer = function_from_config(f"output {name!r}", normalizer, normalizers, "normalizer")
        terms.append(Term(name, loss, normalizer, output=name, target=name, weight=weights.get(name, 1.0)))
    return terms


def read_text(text: str, kind: Literal["JSON", "YAML"]) -> Any:
    """Parses a document.

    Args:
        text: The document.
        kind: In which form it is written.

    Returns:
        Plain data.

    Raises:
        ImportError: PyYAML is missing.
        ValueError: The text is none.
    """
    errors: tuple[Any, ...] = () if kind == "JSON" else (_yaml().YAMLError, AttributeError)
    try:
        return json.loads(text, object_pairs_hook=each_once) if kind == "JSON" else _parse_yaml(text)
    except (ValueError, TypeError, RecursionError, *errors) as error:
        raise ValueError(f"the configuration is no {kind}: {one_line(error)}") from None


def _parse_yaml(text: str) -> Any:
    yaml = _yaml()

    class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            each_once([(str(key.value), None) for key, _ in node.value])
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader=Loader)


def write_yaml(data: Any) -> str:
    """Writes plain data as YAML, keys in their order.

    Args:
        data: Plain data.

    Returns:
        The document.

    Raises:
        ImportError: PyYAML is missing.
    """
    text: str = _yaml().safe_dump(data, sort_keys=False)
    return text


def check_criterion(config: Any) -> dict[str, Any]:
    """Refuses what is no configuration of a criterion.

    Args:
        config: Plain data.

    Returns:
        The same.

    Raises:
        ValueError: It is no dict, a key is unknown or missing, or `unread` holds no paths.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"a criterion's configuration is a dict with the key 'terms'; found {type(config).__name__}")
    check_keys("criterion", config, _CRITERION_KEYS, needed=("terms",))
    unread = config.get("unread", ())
    if not isinstance(unread, str | list | tuple) or not all(isinstance(path, str) for path in unread):
        raise ValueError(f"criterion: unread is a path or a list of paths; found {unread!r}")
    return dict(config)


def _yaml() -> Any:
    require("YAML", "yaml")
    import yaml

    return yaml
