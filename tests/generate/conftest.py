"""The small model that all these tests share, so that it is compiled once."""

import pytest
import small_decoder


@pytest.fixture(scope="session")
def cfg():
    return small_decoder.CFG


@pytest.fixture(scope="session")
def stacks():
    """The weights as training has them."""
    return small_decoder.random_weights(small_decoder.CFG)


@pytest.fixture(scope="session")
def weights():
    """The same weights as decoding reads them."""
    return small_decoder.prepared(small_decoder.CFG)
