"""What needs an extra says which: ``headwise[extra]``, with everything of it that is missing."""

from __future__ import annotations

from importlib.util import find_spec

_CODERS = {"numpy": "numpy", "cv2": "opencv-python-headless", "skimage": "scikit-image", "shapely": "shapely"}
_VISION = {"torchvision": "torchvision"}
_REPORT = {"matplotlib": "matplotlib", "PIL": "pillow", "numpy": "numpy"}
_DATA = {
    "msgspec": "msgspec",
    **_VISION,
    **_CODERS,
    "PIL": "pillow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
}
_TRAIN = {
    **_DATA,
    **_REPORT,
    "lightning_fabric": "lightning-fabric",
    "tensorboard": "tensorboard",
    "rich": "rich",
    "faster_coco_eval": "faster-coco-eval",
}
EXTRAS = {
    "yaml": {"yaml": "pyyaml"},
    "vision": _VISION,
    "coders": _CODERS,
    "data": _DATA,
    "train": _TRAIN,
    "report": _REPORT,
    "aggregate": {"torchjd": "torchjd"},
    "frames": {"pandas": "pandas"},
    "loops": {
        "lightning": "lightning",
        "transformers": "transformers",
        "accelerate": "accelerate",
        "tensorboard": "tensorboard",
    },
}
"""Per extra of pyproject.toml its packages: as they are imported, and as they are installed."""


def require(what: str, extra: str, *packages: str) -> None:
    """Checks that an extra is installed, before anything of it is imported.

    Args:
        what: The function or command that needs it, for the message.
        extra: Its name in pyproject.toml.
        packages: What of it is needed, as it is imported; by default all.

    Raises:
        ImportError: A package is missing; the message names every one and the extra.
    """
    needed = EXTRAS[extra]
    missing = [needed[package] for package in packages or needed if not _is_there(package)]
    if missing:
        raise ImportError(f"{what} needs {', '.join(missing)}. Install with: pip install 'headwise[{extra}]'")


def missing(what: str, extra: str, error: ImportError) -> ImportError:
    """The error of a module that needs an extra to be imported at all.

    Args:
        what: The module.
        extra: As in `require`.
        error: What the import raised.

    Returns:
        The error to raise in its place.
    """
    absent = [name for package, name in EXTRAS[extra].items() if not _is_there(package)]
    return ImportError(f"{what} needs {', '.join(absent) or error}. Install with: pip install 'headwise[{extra}]'")


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a finder that refuses, or a module without a spec
        return False
