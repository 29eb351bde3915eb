import pytest
import torch

from headwise import normalizers

TARGET = torch.tensor([[[0.0, 2.0, torch.nan]], [[-1.0, 3.0, 4.0]]])
MASK = torch.tensor([[[True, True, True]], [[True, False, True]]])


def test_by_hand():
    assert normalizers.count(TARGET) == 6
    assert normalizers.count(TARGET, MASK) == 5
    assert normalizers.positive(TARGET, MASK) == 3
    assert normalizers.positive(TARGET) == 4
    assert normalizers.one(TARGET, MASK) == 1
    assert normalizers.labeled(torch.tensor([0, -100, 2])) == 2
    assert normalizers.labeled(ignore_index=2)(torch.tensor([0, -100, 2]), torch.tensor([0, 1, 1])) == 1


def test_a_mask_without_channels_counts_all_of_them():
    target = torch.zeros(2, 3, 4)
    mask = torch.ones(2, 4, dtype=torch.bool)
    assert normalizers.elements(target, mask) == 24
    assert normalizers.elements(target) == 24
    assert normalizers.elements(target, torch.ones_like(target)) == 24
    assert normalizers.count(target, mask) == 8
    assert normalizers.positive(target + 1, mask) == 24


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, 4), (2.0, 6), (9.0, 8), (0.5, 3)])
def test_mined(ratio, expected):
    text = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0]])
    assert normalizers.mined(ratio=ratio)(text) == expected


def test_mined_fallback_is_per_group():
    text = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert normalizers.mined(text, ratio=2, num_fallback=3) == 1 + 2
    assert normalizers.mined(text, ratio=2, num_fallback=3, per_image=True) == 1 + 2 + 3
    assert normalizers.mined(text, torch.zeros_like(text)) == 0
    assert normalizers.mined(text[:0], per_image=True) == 0


@pytest.mark.parametrize("options", [{"ratio": -1.0}, {"ratio": "3"}, {"num_fallback": -1}, {"num_fallback": 1.5}])
def test_mined_refuses_options_by_which_nothing_can_be_chosen(options):
    with pytest.raises(ValueError, match=r"^mined: .*found "):
        normalizers.mined(**options)


def test_counts_are_exact_beyond_the_steps_of_float32_addition():
    """A running float32 sum would stop at 2^24."""
    mask = torch.ones((), dtype=torch.bool).expand(2**24 + 2)
    assert normalizers.count(mask, mask) == 2**24 + 2
