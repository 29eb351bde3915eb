"""How `make docs` builds the site: Markdown pages, and the API from the docstrings."""

import importlib
import inspect
import re
from importlib import metadata
from pathlib import Path

from sphinx.util import logging

project = "Headwise"
author = "The Headwise developers"
copyright = "The Headwise developers, Apache-2.0"
version = release = metadata.version("headwise")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
myst_heading_anchors = 3
nb_execution_mode = "force"  # the tutorials hold no outputs: what the site shows was run for it
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_execution_raise_on_error = True
default_role = "code"  # a name in a docstring is code; tests/docs/test_names_in_docstrings.py finds what does not exist
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Reference", "Differs"]
napoleon_use_rtype = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"Headwise {version}"
html_copy_source = False
templates_path: list[str] = []
exclude_patterns = ["_gallery"]
GALLERY = Path(__file__).parent / "_gallery"
html_extra_path = [str(GALLERY)] if GALLERY.exists() else []


def _plain_bars(app, what, name, obj, options, lines):
    """A bar in a formula is a bar, not the name of a substitution."""
    lines[:] = [line if "``" in line else line.replace("|", "\\|") for line in lines]


def _undocumented(app, env):
    """Every public name has an entry on the API pages, wherever it is imported from; `make docs` fails without."""
    told = {id(found) for name in env.get_domain("py").objects if (found := _found(name)) is not None}
    record = Path(__file__).parents[1] / "tests" / "package" / "public_names.txt"
    for line in record.read_text(encoding="utf-8").splitlines():
        name = "headwise." + line.partition("(")[0].removeprefix("api.")
        found = _found(name)
        if not inspect.ismodule(found) and id(found) not in told:
            logging.getLogger(__name__).warning(f"{name}: is public, and on no page of docs/api")


def _found(name):
    *path, last = name.split(".")
    for depth in range(len(path), 0, -1):
        try:
            found = importlib.import_module(".".join(path[:depth]))
        except ImportError:
            continue
        for part in [*path[depth:], last]:
            found = getattr(found, part, None)
        return found
    return None


def _made_pages(app, name, text):
    """The gallery links the pages that `make gallery` has made, and says so where there are none."""
    if name == "gallery":
        page = re.compile(r'<a href="(gallery/\w+\.html)">(.*?)</a>')
        text[0] = page.sub(
            lambda found: found[0] if (GALLERY / found[1]).exists() else f"{found[2]} (not made)", text[0]
        )


def setup(app):
    app.connect("source-read", _made_pages)
    app.connect("env-check-consistency", _undocumented)
    app.connect("autodoc-process-docstring", _plain_bars)
