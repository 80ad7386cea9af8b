"""The small model that all these tests share, so that it is compiled once."""

import pytest
import small_decoder


@pytest.fixture(scope="session")
def cfg():
    return small_decoder.CFG


@pytest.fixture(scope="session")
def weights():
    return small_decoder.random_weights(small_decoder.CFG)
