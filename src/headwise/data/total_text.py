"""Reader for Total-Text folders: pictures with curved words outlined by polygons."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headwise.data.annotation import Picture, Polygon, TextAnnotation, check_area
from headwise.data.checks.inspection import Progress, check_files, inspect
from headwise.data.checks.mistakes import Mistakes
from headwise.data.checks.oddities import Oddity, odd_words
from headwise.data.pictures import ENDINGS, Look, check_picture, load_picture
from headwise.files import composed, visible

_ANNOTATIONS = (".mat", ".txt")
_LINE = re.compile(
    r"x:\s*\[\[(?P<x>[^\]]*)\]\]\s*,\s*y:\s*\[\[(?P<y>[^\]]*)\]\]"
    r"(?:\s*,\s*ornt:\s*\[(?P<ornt>[^\]]*)\])?"
    r"\s*,\s*transcriptions:\s*\[\s*u?(?P<quote>['\"])(?P<word>.*?)(?P=quote)\s*\]",
    re.DOTALL,
)


class _AnnotatedWord(NamedTuple):
    polygon: Polygon
    text: str


class TotalText:
    """Annotated pictures, decoded when asked for; see `read_total_text`."""

    def __init__(self, where: Path, pictures: list[Path], annotations: list[TextAnnotation]) -> None:
        self.where = where
        self._pictures = pictures
        self._annotations = annotations

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Picture:
        """Decode picture number `index`.

        Args:
            index: 0 to the length less one.

        Returns:
            The picture, as it is displayed, with its annotation.
        """
        path = self._pictures[index]
        return Picture(path.stem, load_picture(path), self._annotations[index])

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the file of picture number `index`."""
        return (self._pictures[index],)

    def told_size(self, index: int) -> None:
        """Return nothing: the annotations do not say it."""

    def look(self, index: int) -> Look:
        """Decode picture number `index` for what is wrong with it.

        Args:
            index: 0 to the length less one.

        Returns:
            What the file shows of itself.

        Raises:
            OSError: the picture cannot be decoded.
            ValueError: its values have more than 8 bits.
        """
        return check_picture(self._pictures[index])

    def select(self, indices: Sequence[int]) -> TotalText:
        """Return some of the pictures."""
        pictures, annotations = [self._pictures[index] for index in indices], [self._annotations[i] for i in indices]
        return TotalText(self.where, pictures, annotations)

    def objects_by_class(self) -> dict[tuple[int, str], int]:
        """Return nothing: words are of one kind."""
        return {}

    def oddities(self, looks: Sequence[Look]) -> list[Oddity]:
        """Return what of the words cannot be meant, on pictures of the sizes that were seen."""
        return odd_words(self._annotations, [look.size for look in looks])


def read_total_text(
    folder: str | Path, split: str | Path, *, check_pictures: bool = True, progress: Progress | None = None
) -> TotalText:
    """Read one split of a Total-Text folder.

    Pictures lie in ``Images/<split>``; annotations in any other folder called ``<split>``
    (``Groundtruth/Polygon/Train`` in the original archive), one file per picture, called
    ``poly_gt_<picture>``, ``gt_<picture>`` or ``<picture>``: MATLAB's ``.mat`` with the cells ``polygt`` (or
    ``gt``), or ``.txt`` with lines such as ``x: [[1 2 3]], y: [[4 5 6]], ornt: [u'c'], transcriptions:
    [u'word']``. The word ``#`` means ignored, and so does ``###``, as other data sets write it. Everything is checked
    here, before any training: each annotation, and each picture to its last byte. Pictures are read as they are
    displayed, turned by their EXIF orientation.

    Args:
        folder: the data set.
        split: "Train" or "Test"; upper and lower case are the same.
        check_pictures: decode all pictures once now, in as many processes as the machine has cores.
        progress: called with the number of pictures that were checked, and of all.

    Returns:
        The data set, sorted by name of the picture.

    Raises:
        OSError: a folder is missing, or a picture does not decode.
        ValueError: a picture without annotation, an annotation without picture, or one that cannot be read.

    Reference:
        Ch'ng and Chan, "Total-Text", ICDAR 2017; the data set's own readme for both formats.
    """
    root, split = Path(folder), str(split)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder. Give the folder that holds Total-Text's 'Images'.")
    images = _split_folder(_images_folder(root), split)
    mistakes = Mistakes()
    pictures = _by_name(images, ENDINGS, mistakes)
    annotations = _by_name(_annotation_folder(root, split), _ANNOTATIONS, mistakes)
    for name in sorted(annotations.keys() - pictures.keys()):
        lost = f"{annotations[name]}: no picture {name!r} in this split. Add it or remove the annotation."
        mistakes.add(annotations[name].name, ValueError(lost))
    for name in sorted(pictures.keys() - annotations.keys()):
        lost = f"{pictures[name]}: the picture has no annotation. Add one or remove the picture."
        mistakes.add(pictures[name].name, ValueError(lost))
    if not pictures:
        mistakes.add(split, ValueError(f"{root}: split {split!r} holds no pictures. Put them into Images/{split}."))
    names = sorted(pictures.keys() & annotations.keys())
    read = [_read(annotations[name], mistakes) for name in names]
    if mistakes.count:
        # Pictures that are broken too are told first: they are the ones to be fetched again.
        files = TotalText(images, [pictures[name] for name in names], [])
        inspect(files, progress).refuse(files)
    mistakes.refuse()
    data = TotalText(images, [pictures[name] for name in names], [each for each in read if each is not None])
    if check_pictures:
        check_files(data, progress)
    return data


def list_splits(root: Path) -> list[str]:
    """Return the names of the splits of a folder: those of the folders in ``Images``."""
    try:
        return [folder.name for folder in visible(_images_folder(root)) if folder.is_dir()]
    except OSError:
        return []


def _images_folder(root: Path) -> Path:
    for folder in visible(root):
        if folder.is_dir() and folder.name.lower() == "images":
            return folder
    raise FileNotFoundError(f"{root / 'Images'}: no such folder. Give the folder that holds 'Images'.")


def _split_folder(images: Path, split: str) -> Path:
    folders = [folder.name for folder in visible(images) if folder.is_dir()]
    for name in folders:
        if name.lower() == split.lower():
            return images / name
    raise FileNotFoundError(
        f"{images / split}: no such folder. There are: {', '.join(folders) or 'none'}. Name one of these."
    )


def _annotation_folder(root: Path, split: str) -> Path:
    """Find the one folder of the split that holds annotations and is not among the pictures."""
    images = _images_folder(root)
    found = [
        folder
        for folder in sorted(root.rglob("*"))
        if folder.is_dir()
        and folder.name.lower() == split.lower()
        and images not in folder.parents
        and any(file.suffix.lower() in _ANNOTATIONS for file in visible(folder))
    ]
    if not found:
        raise FileNotFoundError(
            f"{root}: no folder '{split}' with .mat or .txt annotations. Put them into Groundtruth/{split}."
        )
    polygons = [folder for folder in found if "polygon" in str(folder.relative_to(root)).lower()]
    if len(found) > 1 and len(polygons) != 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in found)
        raise ValueError(f"{root}: several folders hold annotations of '{split}': {names}. Keep one of them.")
    return (polygons or found)[0]


def _by_name(folder: Path, suffixes: Sequence[str], mistakes: Mistakes) -> dict[str, Path]:
    """Return the files of a folder by the name of the picture that they stand for."""
    files: dict[str, Path] = {}
    for file in visible(folder):
        if file.suffix.lower() in suffixes:
            name = composed(file.stem).removeprefix("poly_").removeprefix("gt_")
            if name in files:
                twice = f"{file}: {files[name].name} stands for the same picture. Keep one of them."
                mistakes.add(file.name, ValueError(twice))
            files[name] = file
    return files


def _read(path: Path, mistakes: Mistakes) -> TextAnnotation | None:
    """Read one annotation file; a mistake names it."""
    try:
        return _annotation(_mat_words(path) if path.suffix.lower() == ".mat" else _txt_words(path))
    except (OSError, ValueError, TypeError) as error:  # cells that hold no numbers
        mistakes.add(path.name, ValueError(f"{path}: {getattr(error, 'strerror', None) or error}"))
    return None


def _annotation(words: Iterable[_AnnotatedWord]) -> TextAnnotation:
    words = list(words)
    annotation = TextAnnotation(
        tuple(word.polygon for word in words),
        tuple(_is_mark(word.text) for word in words),
        tuple(word.text for word in words),
    )
    for index, word in enumerate(words):
        if not _is_mark(word.text):
            check_area(word.polygon, f"polygon {index} ({word.text!r})")
    return annotation


def _is_mark(text: str) -> bool:
    """Whether a transcription says that its word does not count."""
    return set(text) == {"#"}


def _txt_words(path: Path) -> Iterator[_AnnotatedWord]:
    """Read the textual format, in which long lists of numbers run over several lines."""
    content = path.read_bytes()
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_wide else "utf-8-sig", errors="replace")
    unread = _LINE.sub("", text).split("\n")
    for line in filter(str.strip, unread):
        raise ValueError(
            f"{line.strip()[:40]!r} cannot be read; the format is "
            "x: [[1 2 3]], y: [[4 5 6]], ornt: [u'c'], transcriptions: [u'word']. Correct the file."
        )
    for number, match in enumerate(_LINE.finditer(text)):
        x, y = (match[name].replace(",", " ").split() for name in "xy")
        yield _word(number, x, y, match["word"])


def _mat_words(path: Path) -> Iterator[_AnnotatedWord]:
    """Read MATLAB's cells; a row is 'x:', xs, 'y:', ys, the word, the orientation."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # SciPy's reader raises any class: MatReadError, IndexError, struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"no readable .mat file ({reason}). Replace it.") from None
    cells: Any = content.get("polygt", content.get("gt"))
    if cells is None:
        raise ValueError("the .mat file holds neither 'polygt' nor 'gt'. Use the polygon annotations.")
    for number, row in enumerate(cells):
        if len(row) < 5:
            raise ValueError(f"word {number} has {len(row)} cells, expected 'x:', xs, 'y:', ys, word.")
        text = np.asarray(row[4]).reshape(-1)
        yield _word(number, np.ravel(row[1]), np.ravel(row[3]), str(text[0]) if len(text) else "#")


def _word(number: int, x: Any, y: Any, text: str) -> _AnnotatedWord:
    if len(x) != len(y):
        raise ValueError(f"word {number} ({text!r}) has {len(x)} x and {len(y)} y. Correct the file.")
    try:
        return _AnnotatedWord(np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=-1), text)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"word {number} ({text!r}): x and y are not all numbers ({error}). Correct the file."
        ) from None
