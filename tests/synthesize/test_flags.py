"""Which endpoint is asked for which model, and with which key."""

import argparse

from kanana_jax.synthesize import flags

FIRST, SECOND = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"


def _of(*given):
    parser = argparse.ArgumentParser()
    flags.add(parser, "judge", "")
    arguments = parser.parse_args([f"--endpoint={FIRST}", "--model=m", *given])
    found = flags.by_model(arguments, "judge")
    return {model: (one.endpoint, one.api_key) for model, one in found.items()}


def test_a_role_without_an_endpoint_shares_the_first_with_its_key(monkeypatch):
    monkeypatch.setenv("KEY", "secret")
    assert _of() == {"m": (FIRST, "")}
    shared = FIRST, "secret"
    assert _of("--judge-model=j", "--key-variable=KEY") == {"m": shared, "j": shared}
    assert _of("--judge-model=m") == {"m": (FIRST, "")}


def test_no_endpoint_gets_the_key_of_another(monkeypatch):
    monkeypatch.setenv("KEY", "secret")
    monkeypatch.setenv("OTHER", "hidden")
    second = "--judge-model=j", f"--judge-endpoint={SECOND}"
    assert _of(*second, "--key-variable=KEY") == {"m": (FIRST, "secret"), "j": (SECOND, "")}
    found = _of(*second, "--key-variable=KEY", "--judge-key-variable=OTHER")
    assert found == {"m": (FIRST, "secret"), "j": (SECOND, "hidden")}
