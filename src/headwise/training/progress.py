"""What a run tells the person who waits for it: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from headwise.require import require


class Progress(Protocol):
    """Shows a run."""

    def show(self, entry: Mapping[str, Any], num_steps: int) -> None:
        """Show the log line of a step."""
        ...

    def say(self, text: str) -> None:
        """Show a line that stays."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


def open_progress() -> Progress:
    """Return the live table where standard output is a terminal, plain lines elsewhere.

    Raises:
        ImportError: the package rich is missing.
    """
    require("headwise.training", "train", "rich")
    from rich.console import Console

    console = Console()
    return LiveProgress(console) if console.is_terminal else PlainProgress()


class PlainProgress:
    """One line of text per log line."""

    def show(self, entry: Mapping[str, Any], num_steps: int) -> None:
        """Show step, total, each term's value, share and gradient norm, throughput and time left."""
        shares = " ".join(
            f"{name} {term['value']:.3f} ({term['share']:.0%}, |g| {term['grad_norm']:.1e})"
            for name, term in entry["terms"].items()
        )
        self.say(
            f"step {entry['step']}/{num_steps} total {entry['total']:.4f} {shares} "
            f"{entry['images_per_second']:.1f} images/s, {time_left(entry, num_steps)} left"
        )

    def say(self, text: str) -> None:
        """Write a line to standard output at once; where nobody reads it any more, ask the run to end."""
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for the rest of the process
            signal.raise_signal(signal.SIGHUP if hasattr(signal, "SIGHUP") else signal.SIGTERM)

    def close(self) -> None:
        """Nothing was changed."""


class NoProgress:
    """What the other processes of a run show: nothing."""

    def show(self, entry: Mapping[str, Any], num_steps: int) -> None:
        """Leave it to the first process."""

    def say(self, text: str) -> None:
        """Leave it to the first process."""

    def close(self) -> None:
        """Nothing was changed."""


class LiveProgress:
    """A table that is redrawn in place.

    Args:
        console: rich's console.
    """

    def __init__(self, console: Any) -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, entry: Mapping[str, Any], num_steps: int) -> None:
        """Redraw the table: each term's value, weighted value, share and gradient norm."""
        from rich.console import Group
        from rich.table import Table

        done = entry["step"] / num_steps
        bar = ("█" * round(24 * done)).ljust(24, "·")
        pace = f"{entry['images_per_second']:.1f} images/s"
        heading = f"{bar} {entry['step']}/{num_steps}  {pace}  {time_left(entry, num_steps)} left"
        table = Table()
        table.add_column("term")
        for column in ("value", "weighted", "share", "gradient norm"):
            table.add_column(column, justify="right")
        for name, term in entry["terms"].items():
            numbers = [f"{term['value']:.4f}", f"{term['weighted']:.4f}", f"{term['share']:.1%}"]
            style = None if term["finite"] else "bold red"
            norm = f"{term['grad_norm']:.2e}" if math.isfinite(term["grad_norm"]) else "not finite"
            table.add_row(name, *numbers, norm, style=style)
        table.add_row("total", "", f"{entry['total']:.4f}", "", "", style="bold")
        self._live.update(Group(heading, table), refresh=True)

    def say(self, text: str) -> None:
        """Write a line above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last table standing."""
        self._live.stop()


def time_left(entry: Mapping[str, Any], num_steps: int) -> str:
    """Return the time that the remaining steps will take at the average pace so far, as minutes and seconds."""
    seconds = round(entry["time"] / entry["step"] * (num_steps - entry["step"]))
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
