"""Flags of endpoints, which the commands of this package share."""

import argparse
import os

from kanana_jax.config import ConfigError
from kanana_jax.synthesize import client
from kanana_jax.synthesize.endpoints import ByModel


def add(parser: argparse.ArgumentParser, role: str, role_help: str) -> None:
    """`role` may have a model and an endpoint of its own."""
    add = parser.add_argument
    add("--endpoint", required=True, help="of OpenAI's interface, up to and with /v1")
    add("--model", required=True, help="as the endpoint calls it")
    add(f"--{role}-model", default="", help=role_help)
    add(f"--{role}-endpoint", default="", help="where that model is, if not at --endpoint")
    add(f"--{role}-key-variable", default="", help="as --key-variable, of that endpoint")
    add("--max-tokens", type=int, default=1024, help="most of an answer")
    add("--concurrency", type=int, default=16, help="requests under way at a time")
    add("--requests-per-minute", type=float, default=0.0, help="0: no limit")
    add("--tokens-per-minute", type=float, default=0.0, help="0: no limit")
    add("--timeout", type=float, default=300.0, help="seconds of one attempt")
    add("--attempts", type=int, default=6, help="of a request, where a fault may pass")
    add("--key-variable", default="", help="environment variable with the endpoint's key")
    add("--price-in", type=float, default=0.0, help="of a million tokens, for the progress bar")
    add("--price-out", type=float, default=0.0, help="the same of answers")
    add("--dry-run", action="store_true", help="read and check everything, ask nothing")


def by_model(arguments: argparse.Namespace, role: str) -> ByModel:
    """Where each model is asked. ConfigError for flags that cannot be used."""
    expect_positive(arguments, "max_tokens", "concurrency", "attempts")
    first = _settings(arguments, "")
    model, address, key = (
        getattr(arguments, f"{role}_{one}") for one in ("model", "endpoint", "key_variable")
    )
    if address and model in ("", arguments.model):
        raise ConfigError(
            f"--{role}-endpoint needs --{role}-model, of another name than --model; got {model!r}"
        )
    if key and not address:
        raise ConfigError(f"--{role}-key-variable is of --{role}-endpoint; give that, too")
    second = {model: _settings(arguments, f"{role}_") if address else first} if model else {}
    return {arguments.model: first} | second


def expect_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Raises ConfigError for a count of 0 or less."""
    for name in names:
        if getattr(arguments, name) < 1:
            raise ConfigError(f"{_flag(name)} must be 1 or more, got {getattr(arguments, name)}")


def _settings(arguments: argparse.Namespace, role: str) -> client.Settings:
    """Each endpoint has a key of its own: none is sent to another address."""
    name, of_key = f"{role}endpoint", f"{role}key_variable"
    endpoint, variable = getattr(arguments, name), getattr(arguments, of_key)
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"{_flag(name)} must begin with http:// or https://, got {endpoint!r}")
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise ConfigError(f"{_flag(of_key)}={variable}: there is no such variable; export it")
    return client.Settings(
        endpoint=endpoint,
        api_key=key,
        concurrency=arguments.concurrency,
        requests_per_minute=arguments.requests_per_minute,
        tokens_per_minute=arguments.tokens_per_minute,
        timeout_s=arguments.timeout,
        attempts=arguments.attempts,
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
