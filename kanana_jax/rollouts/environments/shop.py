"""A shop: items with prices and stock, a cart, and money to pay with.

level 1: one call    2: one request that takes two calls    3: the third request of a user
"""

import random
from collections.abc import Callable
from typing import Any

from kanana_jax.rollouts import tools
from kanana_jax.rollouts.environments import world
from kanana_jax.rollouts.environments.world import Request
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import MistakeError, Tool, call

_ITEMS = (
    ("pen", "연필"), ("cup", "컵"), ("hat", "모자"), ("bag", "가방"), ("map", "지도"),
    ("jam", "잼"), ("fan", "부채"), ("box", "상자"),
)  # fmt: skip
_MONEY = 150
State = dict[str, Any]


def _found(state: State, item: str) -> dict[str, int]:
    if item not in state["items"]:
        raise MistakeError(f"no item {item[:40]!r}")
    return state["items"][item]


def _total(state: State) -> int:
    return sum(state["items"][item]["price"] * n for item, n in state["cart"].items())


def _search(state: State, word: str) -> str:
    found = [item for item in state["items"] if word in item]
    for item in found:
        world.read(state, "stock", item)
    shown = [f"{item} {state['items'][item]['stock']}" for item in found]
    return ", ".join(shown) or "none"


def _price(state: State, item: str) -> str:
    price = _found(state, item)["price"]
    world.read(state, "price", item)
    return str(price)


def _add(state: State, item: str, count: int) -> str:
    stock, held = _found(state, item)["stock"], state["cart"].get(item, 0)
    if count < 1:
        raise MistakeError("count must be 1 or more")
    if held + count > stock:
        raise MistakeError(f"only {stock} {item} in stock")
    state["cart"][item] = held + count
    return f"total {_total(state)}"


def _remove(state: State, item: str, count: int) -> str:
    held = state["cart"].get(item, 0)
    if not 1 <= count <= held:
        raise MistakeError(f"{held} {item[:40]} in the cart")
    state["cart"] = {**state["cart"], item: held - count}
    if held == count:
        del state["cart"][item]
    return f"total {_total(state)}"


def _checkout(state: State) -> str:
    total = _total(state)
    if not state["cart"]:
        raise MistakeError("the cart is empty")
    if total > state["money"]:
        raise MistakeError(f"total {total}, money {state['money']}")
    for item, count in state["cart"].items():
        state["items"][item]["stock"] -= count
    state["cart"], state["money"] = {}, state["money"] - total
    return f"left {state['money']}"


TOOLS = tools.by_name(
    Tool(
        name="search",
        description="Items whose name has a word, with their stock",
        parameters={"word": "string"},
        function=_search,
    ),
    Tool(
        name="price",
        description="The price of an item",
        parameters={"item": "string"},
        function=_price,
    ),
    Tool(
        name="add",
        description="Puts items into the cart",
        parameters={"item": "string", "count": "integer"},
        function=_add,
    ),
    Tool(
        name="remove",
        description="Takes items out of the cart",
        parameters={"item": "string", "count": "integer"},
        function=_remove,
    ),
    Tool(name="checkout", description="Pays for the cart", function=_checkout),
)


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    pairs = rng.sample(_ITEMS, 3)
    prices, stocks = rng.sample(range(2, 20), 3), rng.sample(range(5, 20), 3)
    counts = [rng.randint(2, 4) for _ in pairs]
    choice = rng.randrange(3)

    def built(language: Language) -> tuple[State, list[Request]]:
        names = [pair[language == "ko"] for pair in pairs]
        items = {
            name: {"price": price, "stock": stock}
            for name, price, stock in zip(names, prices, stocks, strict=True)
        }
        state = {"items": items, "cart": {}, "money": _MONEY, "reads": []}
        say = _english if language == "en" else _korean
        return state, _requests(names, prices, stocks, counts, choice, level, say)

    return world.make("shop", TOOLS, level, built, language)


def _requests(
    names: list[str],
    prices: list[int],
    stocks: list[int],
    counts: list[int],
    choice: int,
    level: int,
    say: Callable[..., str],
) -> list[Request]:
    a, b, _ = names
    m, n, _ = counts
    cost, both = m * prices[0], m * prices[0] + n * prices[1]
    add_a, add_b = call("add", item=a, count=m), call("add", item=b, count=n)
    one = (
        Request(text=say("price", a), turns=((call("price", item=a),),), answer=str(prices[0])),
        Request(text=say("stock", a), turns=((call("search", word=a),),), answer=str(stocks[0])),
        Request(text=say("add", a, m), turns=((add_a,),), answer=str(cost)),
    )
    two = (
        Request(text=say("both", a, m, b, n), turns=((add_a, add_b),), answer=str(both)),
        Request(
            text=say("buy", a, m),
            turns=((add_a,), (call("checkout"),)),
            answer=str(_MONEY - cost),
        ),
    )
    three = (
        Request(
            text=say("back", a),
            turns=((call("remove", item=a, count=1),),),
            answer=str(both - prices[0]),
        ),
        Request(text=say("pay"), turns=((call("checkout"),),), answer=str(_MONEY - both)),
    )
    match level:
        case 1:
            return [one[choice]]
        case 2:
            return [two[choice % 2]]
        case _:
            then_b = Request(text=say("add", b, n), turns=((add_b,),), answer=str(both))
            return [one[2], then_b, three[choice % 2]]


def _english(kind: str, a: str = "", m: int = 0, b: str = "", n: int = 0) -> str:
    return {
        "price": f"Price of {a}?",
        "stock": f"How many {a} in stock?",
        "add": f"Add {m} {a}. Total?",
        "both": f"Add {m} {a} and {n} {b}. Total?",
        "buy": f"Buy {m} {a}. Money left?",
        "back": f"Put 1 {a} back. Total?",
        "pay": "Pay. Money left?",
    }[kind]


def _korean(kind: str, a: str = "", m: int = 0, b: str = "", n: int = 0) -> str:
    return {
        "price": f"{a} 값은?",
        "stock": f"{a} 재고는?",
        "add": f"{a} {m}개 담기. 합계는?",
        "both": f"{a} {m}개, {b} {n}개 담기. 합계는?",
        "buy": f"{a} {m}개 사기. 남은 돈은?",
        "back": f"{a} 1개 빼기. 합계는?",
        "pay": "계산하기. 남은 돈은?",
    }[kind]


FAMILY = TaskFamily(name="shop", levels=(1, 2, 3), draw=_draw, verify=world.verify, tools=TOOLS)
