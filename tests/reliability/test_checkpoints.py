"""A checkpoint is what was written, or it is refused by name and an earlier one is used."""

import io
import random
import zipfile

import pytest
import torch

from headwise.recipes import RECIPES
from headwise.training.folder.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from tests.reliability import kit


def state(seed):
    torch.manual_seed(seed)
    return {
        "preset": "p", "recipe": "p", "arguments": {"rate": 0.5}, "network": {"w": torch.randn(30, 30)},
        "optimizer": {"state": {}}, "scheduler": {"last": seed}, "scores": {"iou50": 0.25}, "seconds": 1.5,
    }  # fmt: skip


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


def flip(path, position, bit=6):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(bytes(content))


def newest(folder):
    """The newest checkpoint that serves, and what was said of the others."""
    said: list[str] = []
    return newest_checkpoint(folder, "p", said.append), " ".join(said)


@pytest.mark.parametrize("number", range(3))
def test_flipped_bits(tmp_path, number):
    path = save_checkpoint(tmp_path, 5, state(0))
    whole, good = load_checkpoint(path), path.read_bytes()
    draw, silent = random.Random(number), 0
    for _ in range(25):
        path.write_bytes(good)
        flip(path, draw.randrange(len(good)), draw.randrange(8))
        try:
            silent += not same(whole, load_checkpoint(path))
        except ValueError as error:
            kit.check_line(error, path.name)
    assert not silent, f"{silent} of 25 flipped bits load with other content"


@pytest.mark.parametrize("where", [0.3, 0.5, 0.7])
def test_the_last_good_one_is_used(tmp_path, where):
    save_checkpoint(tmp_path, 5, state(0))
    path = save_checkpoint(tmp_path, 10, state(1))
    flip(path, int(where * path.stat().st_size))
    found, said = newest(tmp_path)
    assert found["step"] == 5, f"step {found['step']} is used"
    assert path.name in said


def archive(pickled, form="archive/"):
    """A file as torch writes it, around any bytes of a pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            file.writestr(form + name, text)
    return content.getvalue()


BROKEN = {
    "a stack that is empty": archive(b"\x80\x02."),
    "an item of a number": archive(b"\x80\x02K\x01K\x01K\x01s."),
    "a call of a number": archive(b"\x80\x02K\x01)R."),
    "a memo that is missing": archive(b"\x80\x02h\x07."),
    "a storage of no kind": archive(b"\x80\x02K\x01Q."),
    "a storage of the wrong form": archive(b"\x80\x02(K\x01K\x02tQ."),
    "a list from nowhere": archive(b"\x80\x02K\x01K\x02e."),
    "words that are no text": archive(b"\x80\x02X\x04\x00\x00\x00\xff\xfe\xfd\xfc."),
}


@pytest.mark.parametrize("what", BROKEN)
def test_whatever_the_reader_raises(tmp_path, what):
    save_checkpoint(tmp_path, 5, state(0))
    path = save_checkpoint(tmp_path, 10, state(1))
    path.write_bytes(BROKEN[what])
    with kit.refused(path.name):
        load_checkpoint(path)
    found, said = newest(tmp_path)
    assert found["step"] == 5
    assert path.name in said


def test_two_files_in_each_other_s_place(tmp_path):
    """The newest content, or an older one with a word, or a refusal."""
    one, other = save_checkpoint(tmp_path, 5, state(0)), save_checkpoint(tmp_path, 10, state(1))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    try:
        found, said = newest(tmp_path)
    except ValueError as error:
        kit.check_line(error, (one.name, other.name))
    else:
        assert found["step"] == 10 or other.name in said, f"step {found['step']} is used, and nothing said"


def test_a_resumed_run_says_which_checkpoint_is_broken(tmp_path, capfd):
    """By the loop itself: from the one before, to the end, or a refusal."""
    start = {"out": tmp_path / "run", "steps": 12, "num_workers": 0, **kit.SMALL}
    RECIPES["weighted_unet"](**start)
    paths = sorted((tmp_path / "run" / "checkpoints").glob("*.pt"))
    flip(paths[-1], paths[-1].stat().st_size // 2)
    capfd.readouterr()
    try:
        RECIPES["weighted_unet"](**start, resume=True)
    except ValueError as error:
        kit.check_line(error, paths[-1].name)
    else:
        said = "".join(capfd.readouterr())
        assert paths[-1].name in said, f"not a word: {said[-300:]!r}"


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_file_cut_short(tmp_path, part):
    save_checkpoint(tmp_path, 5, state(0))
    path = save_checkpoint(tmp_path, 10, state(1))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with kit.refused(path.name):
        load_checkpoint(path)
    found, said = newest(tmp_path)
    assert found["step"] == 5
    assert path.name in said


def test_a_whole_file(tmp_path):
    save_checkpoint(tmp_path, 5, state(0))
    save_checkpoint(tmp_path, 10, state(1))
    found, said = newest(tmp_path)
    assert found["step"] == 10
    assert not said
    assert same({key: found[key] for key in state(1)}, state(1))
