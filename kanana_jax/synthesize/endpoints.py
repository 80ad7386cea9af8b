"""Several endpoints behind one `ask`: a request goes where its model is."""

import contextlib
from collections.abc import Mapping

from kanana_jax.synthesize import client
from kanana_jax.synthesize.client import Client, Counts
from kanana_jax.synthesize.records import Records
from kanana_jax.synthesize.replies import Answer
from kanana_jax.synthesize.requests import Request

ByModel = Mapping[str, client.Settings]


class Endpoints:
    """Opened by `async with`. Models of equal settings share a client, and so its limits."""

    def __init__(self, by_model: ByModel, records: Records):
        clients = {one: Client(one, records) for one in by_model.values()}
        self._by_model = {model: clients[one] for model, one in by_model.items()}
        self._clients = list(clients.values())
        self._opened = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Endpoints":
        for one in self._clients:
            await self._opened.enter_async_context(one)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def ask(self, request: Request) -> Answer:
        """As `Client.ask`."""
        return await self._by_model[request.model].ask(request)

    def counts(self) -> Counts:
        """The counts of all clients together."""
        return sum((one.counts for one in self._clients), Counts())


def shown(counts: Counts, prices: tuple[float, float]) -> str:
    """Text for a progress bar. Prices are per million tokens in and out; 0, 0: not shown."""
    text = f"{counts.retried} again, {counts.failed} failed"
    spent = (counts.tokens_in * prices[0] + counts.tokens_out * prices[1]) / 1e6
    return f"{text}, {spent:.2f} spent" if any(prices) else text
