"""The checks that several files share say what they found, as those in the files themselves do."""

import pytest

pytest.register_assert_rewrite("tests.frameworks.independent")
