"""The lock file of a criterion: thirty mutations, each of which fails with the term's name, and none without one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses, normalizers
from headwise.testing import assert_books
from tests.presets.samples import sample

Mutation = Callable[[dict[str, dict[str, Any]]], None]


def declarations() -> dict[str, dict[str, Any]]:
    """Each term's declaration, to be changed."""
    levels = hw.Levels([1, 0.5])
    return {
        "label": {"loss": losses.cross_entropy, "output": "logits", "target": "label", "mask": "valid"},
        "depth": {"loss": losses.smooth_l1, "output": "depth", "target": "depth", "mask": "valid & near"},
        "edge": {"loss": losses.squared_error, "output": "edge", "target": "edge", "weight": 0.5},
        "scales": {"loss": losses.absolute_error, "output": "levels[*]", "target": "scale", "levels": levels},
    }


def subject(terms: dict[str, dict[str, Any]], dtype: torch.dtype = torch.float64) -> tuple[hw.Criterion, Any, Any]:
    """A criterion of declarations, and of a fixed batch what it reads."""
    draw = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=draw, dtype=torch.float64)
    shapes = {"logits": (3, 3, 6, 6), "depth": (3, 6, 6), "edge": (3, 6, 6)}
    outputs: dict[str, Any] = {name: normal(*shape).to(dtype) for name, shape in shapes.items()}
    outputs["levels"] = [normal(3, 4).to(dtype) for _ in range(2)]
    targets = {name: torch.randint(0, 3, (3, 6, 6), generator=draw) for name in ("label", "other")}
    targets |= {name: 2 * normal(3, 6, 6).to(dtype) for name in ("depth", "edge")} | {"scale": normal(3, 4).to(dtype)}
    masks = {"valid": 0.8, "near": 0.5, "far": 0.5}
    targets |= {name: torch.rand(3, 6, 6, generator=draw) < share for name, share in masks.items()}
    read = " ".join(each["output"] for each in terms.values())
    used = " ".join(f"{each['target']} {each.get('mask')}" for each in terms.values())
    unread = ["levels[1]"] if "levels[0]" in read else []
    declared = [
        hw.Term(name, each["loss"], **{key: value for key, value in each.items() if key != "loss"})
        for name, each in terms.items()
    ]
    outputs = {name: each for name, each in outputs.items() if name in read}
    targets = {name: each for name, each in targets.items() if name in used}
    return hw.Criterion(declared, unread=unread), outputs, targets


def changed(term: str, **changes: Any) -> tuple[str, Mutation]:
    return term, lambda terms: terms[term].update(changes)


def halved(loss: Any) -> Any:
    return lambda *read, **options: 0.5 * loss(*read, **options)


MUTATIONS = {
    **{f"weight of {t}": changed(t, weight=1.01) for t in ("label", "depth", "edge", "scales")},
    **{f"weight 0 of {t}": changed(t, weight=0.0) for t in ("label", "depth", "edge", "scales")},
    "label without its mask": changed("label", mask=None),
    "depth without its mask": changed("depth", mask=None),
    "depth with half its mask": changed("depth", mask="valid"),
    "depth with another mask": changed("depth", mask="valid & far"),
    "depth with the mask turned": changed("depth", mask="valid & ~near"),
    "label with a wider mask": changed("label", mask="valid | near"),
    "edge with a mask": changed("edge", mask="valid"),
    "edge absolute": changed("edge", loss=losses.absolute_error),
    "edge smooth": changed("edge", loss=losses.smooth_l1),
    "depth absolute": changed("depth", loss=losses.absolute_error),
    "depth squared": changed("depth", loss=losses.squared_error),
    "depth with another beta": changed("depth", loss=partial(losses.smooth_l1, beta=0.9)),
    "scales squared": changed("scales", loss=losses.squared_error),
    "label that ignores a class": changed("label", loss=partial(losses.cross_entropy, ignore_index=2)),
    "label with another target": changed("label", target="other"),
    "edge of another output": changed("edge", output="depth"),
    "depth of another output": changed("depth", output="edge"),
    "edge with another target": changed("edge", target="depth"),
    "depth with another target": changed("depth", target="edge"),
    "edge by one": changed("edge", normalizer=normalizers.one),
    "depth by one": changed("depth", normalizer=normalizers.one),
    "scales of other level weights": changed("scales", levels=hw.Levels([1, 0.25])),
    "scales pooled": changed("scales", levels=hw.Levels([1, 0.5], pool="all")),
    "scales of one level": changed("scales", output="levels[0]", levels=None),
    "label halved": changed("label", loss=halved(losses.cross_entropy), normalizer=normalizers.count),
    "edge is gone": ("edge", lambda terms: terms.pop("edge") and None),
    "one more term": ("more", lambda terms: terms.update(more={**terms["edge"], "weight": 0.1})),
}


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lock") / "books.lock.json"
    assert_books(*subject(declarations()), path, update=True)
    assert_books(*subject(declarations()), path)
    return path


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_fails_with_the_terms_name(lock: Path, name: str) -> None:
    term, mutate = MUTATIONS[name]
    terms = declarations()
    mutate(terms)
    with pytest.raises(AssertionError, match=f"term {term!r}") as error:
        assert_books(*subject(terms), lock)
    others = [line for line in str(error.value).splitlines() if line.startswith("term ") and f"{term!r}" not in line]
    assert others == []
    assert "HEADWISE_UPDATE_LOCKS=1" in str(error.value)


def test_there_are_thirty() -> None:
    assert len(MUTATIONS) >= 30


@pytest.mark.parametrize("preset", ["textsnake", "cornernet", "retinanet", "deep_supervision"])
def test_presets_are_held_at_any_precision(preset: str, tmp_path: Path) -> None:
    for dtype in (torch.float64, torch.float32):
        criterion, outputs, targets = sample(preset, 2, dtype=dtype)
        assert_books(criterion, outputs, targets, tmp_path / f"{dtype}.json", update=True)
        assert_books(sample(preset, 2)[0], outputs, targets, tmp_path / f"{dtype}.json")


def test_the_variable_writes_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "books.lock.json"
    call = partial(assert_books, *subject(declarations()), path)
    with pytest.raises(AssertionError, match="no such lock file"):
        call()
    assert not path.exists()
    monkeypatch.setenv("HEADWISE_UPDATE_LOCKS", "1")
    call()
    content = json.loads(path.read_text())
    assert list(content["terms"]) == ["label", "depth", "edge", "scales"]
    assert content["terms"]["edge"]["count"] == [108]
    assert len(content["terms"]["scales"]["count"]) == 2
    monkeypatch.delenv("HEADWISE_UPDATE_LOCKS")
    call()
    path.write_text('{"format": 7}')
    with pytest.raises(ValueError, match="no lock file of format 1"):
        call()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_held_also_where_the_caller_asks_for_none(lock: Path, tmp_path: Path, mode: Any) -> None:
    with mode():
        criterion, outputs, targets = subject(declarations())
        assert_books(criterion, outputs, targets, lock)
        assert_books(criterion, outputs, targets, tmp_path / "other.json", update=True)
    assert (tmp_path / "other.json").read_bytes() == lock.read_bytes()
    assert_books(criterion, outputs, targets, lock)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"value": "1.5"}, "value of 'edge' is '1.5', no number"),
        ({"value": None}, "value of 'edge' is None"),
        ({"weight": True}, "weight of 'edge' is True"),
        ({"value": 10**400}, "value of 'edge' is too large"),
        ({"count": []}, "IndexError"),
        ({"grad_norm": {"edge": "x"}}, "gradient norm at 'edge' of 'edge' is 'x'"),
    ],
)
def test_a_file_that_was_edited_to_no_numbers_is_refused(lock: Path, tmp_path: Path, changes: Any, told: str) -> None:
    content = json.loads(lock.read_text())
    content["terms"]["edge"].update(changes)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"edited\.json: no lock file of format 1 \(.*{told}"):
        assert_books(*subject(declarations()), path)


def test_small_differences_are_told_in_digits_that_show_them(lock: Path) -> None:
    terms = declarations()
    terms["edge"]["weight"] = 0.5 + 1e-8
    with pytest.raises(AssertionError, match=r"to 1e-09:\nterm 'edge': weight was 0\.5 and is 0\.5000000"):
        assert_books(*subject(terms), lock)
    terms["edge"]["weight"] = 1e-14
    path = lock.with_name("small.json")
    assert_books(*subject(terms), path, update=True)
    terms["edge"]["weight"] = 2e-14
    with pytest.raises(AssertionError, match=r"term 'edge': weight was 1e-14 and is 2e-14"):
        assert_books(*subject(terms), path)


@pytest.mark.parametrize("update", [True, False])
def test_what_is_not_finite_is_not_locked(tmp_path, update):
    criterion, outputs, targets = subject(declarations())
    lock = tmp_path / "books.lock.json"
    assert_books(criterion, outputs, targets, lock, update=True)
    before = lock.read_bytes()
    outputs["edge"][0, 0, 0] = math.nan
    with pytest.raises(AssertionError) as caught:
        assert_books(criterion, outputs, targets, lock, update=update)
    told = str(caught.value)
    assert "term 'edge': value is nan" in told
    assert "term 'edge': gradient norm at 'edge' is nan" in told
    assert "'depth'" not in told
    assert lock.read_bytes() == before


@pytest.mark.parametrize("rtol", [float("nan"), float("inf"), -1.0, 1.0])
def test_a_tolerance_that_holds_nothing_is_refused(tmp_path, rtol):
    with pytest.raises(ValueError, match="rtol is in"):
        assert_books(*subject(declarations()), tmp_path / "lock.json", rtol=rtol, update=True)


def test_what_is_no_criterion_and_a_folder_for_a_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no lock file of format"):
        assert_books(*subject(declarations()), tmp_path)
    with pytest.raises(ValueError, match="found MSELoss"):
        assert_books(torch.nn.MSELoss(), {}, {}, tmp_path / "lock.json")  # type: ignore[arg-type]
