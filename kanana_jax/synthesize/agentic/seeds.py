"""What evolution starts from: specifications, topics and personas."""

import functools
from typing import Any

from kanana_jax.rollouts.environments import table_specs
from kanana_jax.rollouts.environments.tables import Spec

_LIBRARY: dict[str, Any] = {
    "name": "library",
    "about": "A library: books with copies on shelves.",
    "tables": {"book": {"shelf": "string", "copies": "integer"}},
    "tools": [
        {"name": "where", "about": "Shelf of", "table": "book", "kind": "read",
         "field": "shelf"},
        {"name": "copies", "about": "Copies of", "table": "book",
         "kind": "read", "field": "copies"},
        {"name": "on", "about": "Books on", "table": "book", "kind": "find",
         "field": "shelf"},
        {"name": "lend", "about": "Lend", "table": "book",
         "kind": "change", "field": "copies", "sign": -1},
        {"name": "bring", "about": "Bring back", "table": "book",
         "kind": "change", "field": "copies", "sign": 1},
        {"name": "move", "about": "Move", "table": "book", "kind": "set",
         "field": "shelf"},
    ],
    "rows": {"book": {
        "Emma": {"shelf": "A", "copies": 5}, "Ulysses": {"shelf": "B", "copies": 4},
        "Faust": {"shelf": "C", "copies": 7}, "Dune": {"shelf": "A", "copies": 6},
    }},
}  # fmt: skip
_STABLE: dict[str, Any] = {
    "name": "stable",
    "about": "A stable: horses in stalls, and the hay that is left for each.",
    "tables": {"horse": {"stall": "string", "hay": "integer"}},
    "tools": [
        {"name": "stall", "about": "Stall of", "table": "horse", "kind": "read",
         "field": "stall"},
        {"name": "hay", "about": "Hay of", "table": "horse",
         "kind": "read", "field": "hay"},
        {"name": "feed", "about": "Feed", "table": "horse", "kind": "change",
         "field": "hay", "sign": -1},
        {"name": "stock", "about": "Stock", "table": "horse",
         "kind": "change", "field": "hay", "sign": 1},
        {"name": "lead", "about": "Lead", "table": "horse",
         "kind": "set", "field": "stall"},
        {"name": "sell", "about": "Sell", "table": "horse",
         "kind": "delete"},
    ],
    "rows": {"horse": {
        "Bess": {"stall": "N1", "hay": 6}, "Juno": {"stall": "N2", "hay": 9},
        "Rex": {"stall": "S1", "hay": 4}, "Star": {"stall": "S2", "hay": 8},
    }},
}  # fmt: skip

# From the general to the particular, as a model is asked for: a topic, then parts of it.
TOPICS = (
    "a bakery", "a car workshop", "a hospital ward", "a theatre", "a post office", "a school",
    "a fish farm", "a hotel", "a museum", "a football club", "a print shop", "a ferry line",
)  # fmt: skip
PERSONAS = (
    "someone in a hurry who writes in half sentences",
    "a polite old customer who explains too much",
    "a new employee who is not sure of the terms",
    "an expert who asks for several things at once",
)


@functools.cache
def specs() -> tuple[Spec, ...]:
    return tuple(map(table_specs.from_json, (_LIBRARY, _STABLE)))
