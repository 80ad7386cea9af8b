"""Rephrasing asks our own server as it asks any other endpoint."""

import asyncio
import json

import pytest
from scripted import Scripted
from served import Served

from kanana_jax.data.curate.document import of_text
from kanana_jax.synthesize import client, rephrase, running

SAID = "Each of the 12 pears was sold by Ann Lee for 3 euros at the market in Oslo."
SOURCE = "Ann Lee had 12 pears. At the market in Oslo she sold each one for 3 euros."


@pytest.mark.slow
def test_our_server_rephrases(loaded, tmp_path):
    document = of_text(SOURCE, "test")._replace(language="en")
    settings = rephrase.Settings(model="small", styles=("wiki", "note"), max_tokens=200)
    engine = Scripted(lambda prompt: SAID)
    with Served(loaded, engine=engine, length=4096) as server:
        asked = client.Settings(endpoint=f"http://127.0.0.1:{server.port}/v1")
        for _ in range(2):
            report = asyncio.run(running.run([document], settings, {"small": asked}, tmp_path))
            assert report["usable"] == {"wiki": 1, "note": 1}, (
                tmp_path / "left_out.jsonl"
            ).read_text()
    assert len(engine.asked) == 2  # the second run asks nothing
    assert len({one.sampling.seed for one in engine.asked}) == 2
    lines = (tmp_path / "documents.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [SAID, SAID]
