"""How properties are searched: in `make test` always alike, on every machine; in `make search` freely.

What `make search` finds becomes a case of its own, by `hypothesis.example` or as a plain test.
"""

import os

from hypothesis import settings

settings.register_profile("test", derandomize=True)
settings.register_profile("search", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))
