"""The TextSnake preset against numbers recorded from the authors' code, and its invariances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import headwise as hw
from tests.criterion.test_junction import NoSync

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "textsnake_loss.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})
OURS = {"tr": "text_region", "tcl": "center_line", "radii": "radius", "sin": "sin", "cos": "cos"}


def load(case: str, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    maps = torch.from_numpy(GOLDEN[f"{case}/in/pred"]).to(dtype).requires_grad_()
    rows = {"text_region": "tr_mask", "center_line": "tcl_mask", "valid": "train_mask"}
    targets = {ours: torch.from_numpy(GOLDEN[f"{case}/tgt/{theirs}"]) > 0 for ours, theirs in rows.items()}
    maps_of = {"sin": "sin_map", "cos": "cos_map", "radius": "radii_map"}
    return maps, targets | {o: torch.from_numpy(GOLDEN[f"{case}/tgt/{t}"]).to(dtype) for o, t in maps_of.items()}


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_published_values_and_gradients(case, dtype, tol):
    maps, targets = load(case, dtype)
    breakdown = hw.presets.textsnake(as_published=True)({"maps": maps}, targets)
    for theirs, ours in {**OURS, "total": "total"}.items():
        scalar = breakdown.total if ours == "total" else breakdown[ours].value
        assert float(scalar.detach()) == pytest.approx(float(GOLDEN[f"{case}/out/{theirs}"]), rel=tol, abs=tol * 1e-3)
        name = f"{case}/grad/pred" if ours == "total" else f"{case}/grad_{theirs}/pred"
        if name not in GOLDEN:  # single terms were recorded for some cases only
            continue
        wanted = GOLDEN[name]
        (found,) = torch.autograd.grad(scalar, maps, retain_graph=True, allow_unused=True)
        found = torch.zeros_like(maps) if found is None else found
        np.testing.assert_allclose(found.double().numpy(), wanted, rtol=0, atol=tol * max(np.abs(wanted).max(), 1e-3))


@pytest.mark.parametrize("case", CASES)
def test_the_mended_preset_agrees_where_nothing_is_to_mend(case):
    maps, targets = load(case, torch.float64)
    published = hw.presets.textsnake(as_published=True)({"maps": maps}, targets)
    mended = hw.presets.textsnake()({"maps": maps}, targets)
    for name in ("text_region", "center_line"):
        torch.testing.assert_close(mended[name].value, published[name].value, rtol=1e-12, atol=0)
    if not (targets["center_line"] & ~targets["valid"]).any():
        torch.testing.assert_close(mended.total, published.total, rtol=1e-10, atol=0)


def test_selection_within_images_is_split_invariant():
    maps, targets = load(CASES[0], torch.float64)
    criterion = hw.presets.textsnake(selection="image")
    criterion({"maps": maps}, targets).total.backward()
    whole, maps.grad = maps.grad, None
    parts = [{name: each[i : i + 1] for name, each in targets.items()} for i in range(len(maps))]
    denominators = hw.pool_denominators(criterion, parts)
    for i, part in enumerate(parts):
        criterion({"maps": maps[i : i + 1]}, part, denominators).total.backward()
    torch.testing.assert_close(maps.grad, whole, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("as_published", [False, True])
def test_no_operator_waits_for_the_device_and_all_compiles_as_one_graph(as_published):
    maps, targets = load(CASES[0], torch.float32)
    criterion = hw.presets.textsnake(as_published=as_published)
    with NoSync(), hw.Ledger(criterion):
        criterion({"maps": maps}, targets).total.backward()
    wanted, maps.grad = maps.grad, None
    compiled = torch.compile(lambda m: criterion({"maps": m}, targets).total, fullgraph=True, backend="aot_eager")
    compiled(maps).backward()
    torch.testing.assert_close(maps.grad, wanted)


def test_configuration_and_card():
    criterion = hw.presets.textsnake(ratio=2.0)
    again = hw.Criterion.from_json(criterion.to_json())
    assert again.to_dict() == criterion.to_dict()
    assert criterion.names == ("text_region", "center_line", "radius", "sin", "cos")
    for name in criterion.names:
        assert name in hw.presets.card("textsnake")
    with pytest.raises(ValueError, match="no preset 'textsnek'"):
        hw.presets.card("textsnek")
    with pytest.raises(ValueError, match="selection"):
        hw.presets.textsnake(as_published=True, selection="image")
