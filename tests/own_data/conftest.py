"""What a trained run costs only once."""

import pytest

from tests.own_data import kit


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Recipe -> folder of a run of one step, trained when first asked for."""
    return kit.Runs(tmp_path_factory.mktemp("trained"))
