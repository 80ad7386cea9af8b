"""Syntax trees of the repository's files, and what the tests here count in them."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def imports(file: Path, parsed: ast.Module | None = None) -> set[str]:
    """Dotted names of every import in a file; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(parsed or tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write it from the top"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def compared(parsed: ast.AST) -> Iterator[ast.expr]:
    """Every expression that a comparison, a `match` or the key of a table looks at."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Compare):
            yield from (node.left, *node.comparators)
        elif isinstance(node, ast.Match):
            yield node.subject
        elif isinstance(node, ast.Subscript):
            yield node.slice


def functions(parsed: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function and method below a tree, with its dotted name."""
    for node in ast.iter_child_nodes(parsed):
        name = f"{prefix}{getattr(node, 'name', '')}"
        if isinstance(node, Function):
            yield name, node
        is_named = isinstance(node, Function | ast.ClassDef)
        yield from functions(node, f"{name}." if is_named else prefix)


def parameters(function: Function) -> list[ast.arg]:
    """The parameters that have a name of their own."""
    given = function.args
    return [*given.posonlyargs, *given.args, *given.kwonlyargs]


def words(parsed: ast.AST) -> set[str]:
    """Names, attributes, arguments and the words of texts and docstrings, in lower case."""
    found: set[str] = set()
    for node in ast.walk(parsed):
        texts = [value for _, value in ast.iter_fields(node) if isinstance(value, str)]
        for text in texts:
            plain = "".join(c if c.isalnum() or c == "_" else " " for c in text)
            found |= {word.lower() for word in plain.split()}
    return found
