"""Every head its own loss, and one set of books.

Declare which loss reads which output, target and mask; call ``breakdown.total.backward()``; read the books::

    import headwise as hw

    criterion = hw.presets.textsnake()
    ledger = hw.Ledger(criterion)
    breakdown = criterion(network(images), targets)
    breakdown.total.backward()
    print(ledger.table())

The names are those of `headwise.api`. They are loaded when they are first asked for, so that ``headwise --help`` need
not wait for torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwise.api import *  # noqa: F403
    from headwise.api import __all__ as __all__

    __version__: str
else:

    def __getattr__(name):
        """Return a room, a public name or the version of the package, and keep it."""
        from importlib import import_module, metadata, util

        if name == "__version__":
            value = metadata.version("headwise")
        elif name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'headwise' has no attribute {name!r}")
        elif util.find_spec(f"headwise.{name}") is not None:
            return import_module(f"headwise.{name}")
        else:
            value = getattr(import_module("headwise.api"), name)
        globals()[name] = value
        return value

    def __dir__():
        """Return the public names."""
        from headwise import api

        return sorted({*globals(), *api.__all__, "__version__"})
