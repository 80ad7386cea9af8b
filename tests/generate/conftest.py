"""The small model that all these tests share, so that it is compiled once."""

import pytest
import small_decoder
from scripted import Scripted, say, with_template
from served import Served, write_model

from kanana_jax import generate
from kanana_jax.data import chat


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


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory):
    """A model of bytes with a chat template."""
    path = tmp_path_factory.mktemp("models") / "small"
    write_model(path)
    return path


@pytest.fixture(scope="session")
def loaded(served_folder):
    return generate.load(served_folder)


@pytest.fixture(scope="module")
def served(loaded):
    with Served(loaded) as server:
        yield server


@pytest.fixture(scope="module")
def hermes(loaded):
    """A scripted model of the format of hermes."""
    with Served(
        with_template(loaded, chat.HERMES.template), engine=Scripted(say), length=4096
    ) as server:
        yield server
