"""Rules and shares in one word, as a command line or a configuration says them."""

from __future__ import annotations

from collections.abc import Callable

from headwise.attribution.ledger.weighing.rule import Rule
from headwise.balance.grad_norm import GradNorm
from headwise.balance.shares import Shares
from headwise.balance.uncertainty import Uncertainty

_RULES: dict[str, Callable[[], Rule]] = {"equal": Shares, "grad_norm": GradNorm, "uncertainty": Uncertainty}


def read_rule(text: str) -> Rule:
    """The rule that a word names.

    Args:
        text: "equal", "grad_norm", "uncertainty", or shares such as ``box=2,classification=1``.

    Returns:
        The rule, with its own numbers.

    Raises:
        ValueError: It names none.
    """
    if "=" in text:
        return Shares(read_shares(text))
    if text not in _RULES:
        raise ValueError(f"balance: {', '.join(_RULES)}, or shares such as box=2,classification=1; found {text!r}.")
    return _RULES[text]()


def read_shares(text: str) -> dict[str, float]:
    """Shares by term.

    Args:
        text: Such as ``box=2,classification=1``.

    Returns:
        The shares.

    Raises:
        ValueError: A part is not of this form, or a term has two shares.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.rpartition("=")
        if name.strip() in found:
            raise ValueError(f"shares: {name.strip()!r} is given twice, {text!r}. Give each term one.")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise ValueError(
                "shares are equal, or NAME=NUMBER with commas between, such as box=2,classification=1; found "
                f"{part!r}. Where a name holds a comma, give shares in Python, as a dict."
            )
    return found
