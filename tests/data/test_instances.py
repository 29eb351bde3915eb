import re

import numpy as np
import pytest
import torch
from PIL import Image

from headwise.data import InstanceAnnotation, InstanceAugmentation, Picture, embedded_instances, read_instances
from headwise.data.embedded.instances import COINS_CUT, cutouts

HEIGHT, WIDTH = 12, 16


def write(folder, name="a", label=None, image=None, ending=".png"):
    for inside in ("pictures", "labels"):
        (folder / inside).mkdir(parents=True, exist_ok=True)
    image = np.full((HEIGHT, WIDTH, 3), 7, np.uint8) if image is None else image
    label = np.zeros((HEIGHT, WIDTH), np.uint16) if label is None else label
    Image.fromarray(image).save(folder / "pictures" / f"{name}{ending}")
    Image.fromarray(label).save(folder / "labels" / f"{name}.png")


def test_pictures_and_labels_are_read_in_order(tmp_path):
    label = np.zeros((HEIGHT, WIDTH), np.uint16)
    label[2:4, 3:9], label[8:, 1] = 40_000, 2
    write(tmp_path / "train", "b", label)
    write(tmp_path / "train", "a", (label > 0).astype(np.uint8), ending=".JPG")
    data = read_instances(tmp_path, "train")
    assert [data[index].name for index in range(len(data))] == ["a", "b"]
    assert np.array_equal(data[1].annotation.label, label)
    assert data[1].annotation.label.dtype == np.int32
    assert data[1].annotation.numbers.tolist() == [2, 40_000]
    assert data[1].image.shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(IndexError):
        data[2]


def test_a_label_with_a_palette_is_its_numbers_not_its_colors(tmp_path):
    write(tmp_path)
    label = Image.fromarray(np.full((HEIGHT, WIDTH), 3, np.uint8)).convert("P")
    label.putpalette([0, 0, 0, 9, 9, 9, 1, 2, 3, 200, 100, 50])
    label.save(tmp_path / "labels" / "a.png")
    assert read_instances(tmp_path)[0].annotation.numbers.tolist() == [3]


def spoil(folder, case):
    pictures, labels = folder / "pictures", folder / "labels"
    if case == "no labels":
        (labels / "a.png").unlink()
        labels.rmdir()
    elif case == "no pictures":
        (pictures / "a.png").unlink()
    elif case == "no label":
        write(folder, "b")
        (labels / "b.png").unlink()
    elif case == "no picture":
        write(folder, "b")
        (pictures / "b.png").unlink()
    elif case == "twice":
        write(folder, ending=".bmp")
    elif case == "truncated picture":
        content = (pictures / "a.png").read_bytes()
        (pictures / "a.png").write_bytes(content[:-30])
    elif case == "truncated label":
        content = (labels / "a.png").read_bytes()
        (labels / "a.png").write_bytes(content[:-30])
    elif case == "16 bits":
        write(folder, image=np.full((HEIGHT, WIDTH), 3000, np.uint16))
    elif case == "colors":
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(labels / "a.png")
    elif case == "sizes":
        write(folder, label=np.zeros((WIDTH, HEIGHT), np.uint8))


@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("no labels", FileNotFoundError, "labels: no such folder"),
        ("no pictures", ValueError, "pictures: no pictures"),
        ("no label", FileNotFoundError, r"labels/b.png: no such label, but there is .*pictures/b.png"),
        ("no picture", FileNotFoundError, r"pictures/b: no such picture, but there is .*labels/b.png"),
        ("twice", ValueError, r"a\.(png|bmp): two pictures are called 'a'"),
        ("truncated picture", OSError, r"pictures/a.png: the picture cannot be decoded"),
        ("truncated label", OSError, r"labels/a.png: the picture cannot be decoded"),
        ("16 bits", ValueError, r"pictures/a.png: a picture of mode 'I;16', whose values have more than 8 bits"),
        ("colors", ValueError, r"labels/a.png: a PNG of mode 'RGB'.*not their colors"),
        ("sizes", ValueError, r"labels/a.png: 12 x 16 pixels, but .*pictures/a.png has 16 x 12"),
    ],
)
def test_what_does_not_fit_is_told_with_its_file(tmp_path, case, error, words):
    write(tmp_path)
    read_instances(tmp_path)
    spoil(tmp_path, case)
    with pytest.raises(error, match=words):
        read_instances(tmp_path)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("TIFF", {"compression": "jpeg"})])
def test_a_label_whose_numbers_were_compressed_is_refused_whatever_it_is_called(tmp_path, kind, options):
    """Else the four objects of a map are a hundred."""
    write(tmp_path)
    path = tmp_path / "labels" / "a.png"
    Image.open(path).convert("L").save(path, kind, **options)
    with pytest.raises(ValueError, match=rf"a\.png: its content is a {kind} whose compression changes numbers"):
        read_instances(tmp_path)


def test_endings_of_labels_may_be_upper_case(tmp_path):
    label = np.eye(HEIGHT, WIDTH, dtype=np.uint8)
    write(tmp_path, label=label)
    (tmp_path / "labels" / "a.png").rename(tmp_path / "labels" / "a.PNG")
    assert np.array_equal(read_instances(tmp_path)[0].annotation.label, label)


def test_bad_annotations_are_refused():
    with pytest.raises(ValueError, match=re.escape("(H, W) int32, found (2, 2) int64")):
        InstanceAnnotation(np.zeros((2, 2), np.int64))
    with pytest.raises(ValueError, match="found -1"):
        InstanceAnnotation(np.full((2, 2), -1, np.int32))


@pytest.fixture(scope="module")
def pictures():
    data = embedded_instances("train", num_pictures=30)
    return [data[index] for index in range(20)]


def touching(label):
    """Pairs of numbers side by side."""
    sides = [(label[:, 1:], label[:, :-1]), (label[1:], label[:-1])]
    found = [np.stack([a, b])[:, (a != b) & (a > 0) & (b > 0)] for a, b in sides]
    return {tuple(sorted(pair)) for pair in np.concatenate(found, axis=1).T.tolist()}


def test_the_objects_are_the_24_coins_and_the_cell():
    train, held_out = cutouts("train"), cutouts("held_out")
    assert (len(train), len(held_out)) == (19, 6)
    for cutout in (*train, *held_out):
        radius = cutout.diameter / 2
        assert cutout.mask.sum() > 0.85 * np.pi * (min(cutout.mask.shape) / 2 - 2) ** 2, "round and without holes"
        assert not cutout.mask[[0, -1]].any()
        assert not cutout.mask[:, [0, -1]].any()
        assert cutout.image[cutout.mask].mean() > cutout.image[0].mean() + 20, "brighter than what is around"
        assert 15 < radius < 70


def test_splits_share_no_pixel_of_a_coin():
    """The rows of the photograph above and below the cut: whole coins on both sides, and nothing on the cut."""
    import skimage

    coins = skimage.data.coins()
    assert coins[COINS_CUT - 3 : COINS_CUT + 3, 20:370].max() < 110, "no coin lies on the cut"
    for split, rows in (("train", coins[:COINS_CUT]), ("held_out", coins[COINS_CUT:])):
        windows = {rows[y : y + 3, x : x + 3].tobytes() for y in range(len(rows) - 2) for x in range(382)}
        for cutout in cutouts(split)[:18]:
            middle = (slice(len(cutout.mask) // 2, len(cutout.mask) // 2 + 3), slice(10, 13))
            assert cutout.image[middle].astype(np.uint8).tobytes() in windows


def test_a_picture_is_a_function_of_seed_split_and_index(pictures):
    np.random.seed(5)  # noqa: NPY002  the global state must not matter
    again = embedded_instances("train", num_pictures=8)[7]
    assert np.array_equal(again.image, pictures[7].image)
    assert np.array_equal(again.annotation.label, pictures[7].annotation.label)
    for other in (embedded_instances("train", seed=1)[7], embedded_instances("held_out")[7]):
        assert not np.array_equal(again.image, other.image)


def test_objects_touch_and_stay_whole(pictures):
    from scipy import ndimage

    num_objects, num_pairs = 0, 0
    for picture in pictures:
        label = picture.annotation.label
        assert picture.image.shape == (128, 128, 3)
        num_objects += len(picture.annotation.numbers)
        num_pairs += len(touching(label))
        for number in picture.annotation.numbers:
            assert (label == number).sum() > 150
            assert ndimage.label(label == number)[1] == 1
        assert not label[[0, -1]].any()
    assert num_objects > 80
    assert num_pairs > 40


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="no split 'test'"):
        embedded_instances("test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size of at least 64"):
        embedded_instances(size=32)


def test_augmentation_is_a_function_of_the_seed(pictures):
    augment = InstanceAugmentation(48)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    image, label = augment(pictures[0], 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = augment(pictures[0], 3)
    assert torch.equal(image, again[0])
    assert torch.equal(label, again[1])
    assert not torch.equal(image, augment(pictures[0], 4)[0])
    assert (image.shape, label.shape) == ((3, 48, 48), (48, 48))
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("elastic", [0.0, 3.0])
def test_picture_and_map_move_together(elastic):
    """A picture that shows its own map: wherever an object ends up, its color does."""
    label = np.zeros((64, 64), np.int32)
    label[10:30, 10:30], label[30:50, 12:40] = 100, 200
    picture = Picture("map", np.repeat(label[..., None].astype(np.uint8), 3, axis=2), InstanceAnnotation(label))
    augment = InstanceAugmentation(64, elastic=elastic, brightness=0.0)
    for seed in range(5):
        image, moved = augment(picture, seed)
        shown = (image[0] * 0.229 + 0.485) * 255
        assert set(moved.unique().tolist()) <= {0, 100, 200}
        assert (moved > 0).sum() > 300
        assert ((shown - moved).abs() < 60).float().mean() > 0.93, "but for interpolated borders"
        assert not torch.equal(moved, torch.from_numpy(label).long())


def test_no_empty_corners_come_in():
    picture = Picture("white", np.full((40, 90, 3), 255, np.uint8), InstanceAnnotation(np.ones((40, 90), np.int32)))
    augment = InstanceAugmentation(64, elastic=4.0, brightness=0.0)
    for seed in range(5):
        image, label = augment(picture, seed)
        assert (label == 1).all()
        assert float(image[0].min()) == pytest.approx((1 - 0.485) / 0.229, abs=1e-2)


def test_displacements_have_the_deviation_asked_for():
    from headwise.data.augmentation.instances import _Elastic

    torch.manual_seed(0)
    elastic = _Elastic(3.0, 3)
    drawn = [elastic.make_params([torch.zeros(3, 21, 41)])["displacement"] for _ in range(400)]
    corners = torch.stack([each[0, 0, 0] for each in drawn]) * torch.tensor([20.5, 10.5])
    torch.testing.assert_close(corners.std(dim=0), torch.tensor([3.0, 3.0]), rtol=0.1, atol=0)


def test_bad_augmentation_is_refused():
    with pytest.raises(ValueError, match="found size=0"):
        InstanceAugmentation(0)
    with pytest.raises(ValueError, match=r"mirror=2"):
        InstanceAugmentation(8, mirror=2.0)
    with pytest.raises(ValueError, match=r"InstanceAugmentation: .*degrees=nan"):
        InstanceAugmentation(8, degrees=float("nan"))
