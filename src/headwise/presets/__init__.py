"""Published systems: each selects parts and holds no arithmetic; its card stands at the top of its file."""

import sys

from headwise.presets.textsnake import textsnake

__all__ = ["card", "textsnake"]


def card(name: str) -> str:
    """The card of a preset: per term its loss, normalizer, weight and source, and how ours differs.

    Args:
        name: The preset's name, such as "textsnake".

    Returns:
        The text.

    Raises:
        ValueError: There is no such preset.
    """
    module = sys.modules.get(f"{__name__}.{name}")
    if name not in __all__ or module is None:
        known = ", ".join(each for each in __all__ if each != "card")
        raise ValueError(f"no preset {name!r}. The presets are: {known}")
    return module.__doc__ or ""
