"""Collectives of a compiled program: how often each runs, over which mesh axes, and its bytes.

Loops multiply what is in their bodies; one whose length cannot be read counts once. Bytes are those
that one device receives, with n devices in a group and the result's size s:

    all-gather, all-to-all   s (n - 1) / n        all-reduce   2 s (n - 1) / n
    reduce-scatter           s (n - 1)            collective-permute   s
    ragged-all-to-all        s (n - 1) / n at most: what is sent depends on the data
"""

import collections
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
_BITS = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}
_NAMES = r"%[\w.\-]+"


class Traffic(NamedTuple):
    count: int  # executions in one step
    num_bytes: float  # received by one device in one step


def traffic(hlo: str, mesh_sizes: Mapping[str, int]) -> dict[tuple[str, str], Traffic]:
    """(kind, mesh axes joined by "+") -> its traffic in one run of the program's text."""
    bodies, entry = _computations(hlo)
    totals: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0, 0.0])
    seen: set[str] = set()
    for name, times in _executions(bodies, entry).items():
        for line in bodies[name]:
            found = re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
            if found is None or _is_repeated(line, seen):
                continue
            kind, axes = found[2], _axes(line, mesh_sizes)
            size = _result_bytes(found[1], is_start=found[3] is not None)
            n = math.prod(mesh_sizes[axis] for axis in axes)
            if n == 1:
                continue
            total = totals[kind, "+".join(axes)]
            total[0] += times
            total[1] += times * _received(kind, size, n)
    return {key: Traffic(int(count), size) for key, (count, size) in totals.items()}


def _is_repeated(line: str, seen: set[str]) -> bool:
    """Whether a line is another part of a chain, one collective that XLA stretches over fusions."""
    channel = re.search(r"channel_id=\d+", line)
    if "chain_id=" not in line or channel is None:
        return False
    is_repeated = channel[0] in seen
    seen.add(channel[0])
    return is_repeated


def _received(kind: str, size: float, n: int) -> float:
    return {
        "all-reduce": 2 * size * (n - 1) / n,
        "reduce-scatter": size * (n - 1),
        "collective-permute": size,
    }.get(kind, size * (n - 1) / n)


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation, and the name of the first to run."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        start = re.match(rf"(ENTRY )?({_NAMES}) \(.*\{{$", line)
        if start:
            lines = bodies[start[2]] = []
            entry = start[2] if start[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return bodies, entry


def _executions(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs."""
    times: dict[str, int] = collections.Counter()

    def visit(name: str, factor: int):
        times[name] += factor
        for line in bodies.get(name, ()):
            loop = re.search(rf" while\(.*body=({_NAMES})", line)
            if loop:
                visit(loop[1], factor * (_trips(line, bodies) or 1))
                continue
            for called in re.findall(rf"(?:calls|to_apply)=({_NAMES})", line):
                visit(called, factor)
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            for called in re.findall(_NAMES, branches[1]) if branches else ():
                visit(called, factor)

    visit(entry, 1)
    return {name: count for name, count in times.items() if name in bodies}


def num_unknown_loops(hlo: str) -> int:
    """Loops that `traffic` counts once because their length cannot be read."""
    bodies, _ = _computations(hlo)
    loops = [line for lines in bodies.values() for line in lines if " while(" in line]
    return sum(_trips(line, bodies) is None for line in loops)


def _trips(line: str, bodies: dict[str, list[str]]) -> int | None:
    """A loop's length: what XLA notes, else the one number that its condition compares with."""
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    if noted:
        return int(noted[1])
    condition = re.search(rf"condition=({_NAMES})", line)
    lines = bodies.get(condition[1], []) if condition else []
    bounds = {n for x in lines for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", x)}
    return int(bounds.pop()) if len(bounds) == 1 else None


def _result_bytes(shape: str, *, is_start: bool) -> float:
    """Bytes of a result such as (bf16[8,4]{1,0}, f32[]); a start's tuple holds operands too."""
    sizes = []
    for dtype, dims in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape):
        bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype) or 8)
        sizes.append(bits / 8 * math.prod(int(d) for d in dims.split(",") if d))
    return max(sizes, default=0.0) if is_start else sum(sizes)


def _axes(line: str, mesh_sizes: Mapping[str, int]) -> list[str]:
    """The mesh axes along which the devices of one group of a collective differ."""
    places = np.array(np.unravel_index(_a_group(line), tuple(mesh_sizes.values())))
    return [name for name, row in zip(mesh_sizes, places, strict=True) if len(set(row)) > 1]


def _a_group(line: str) -> list[int]:
    """One group of devices that a collective joins, numbered as in the mesh."""
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", line)
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        joined = tuple(slice(None) if f"'{name}'" in named[2] else 0 for name in sizes)
        shape = tuple(sizes.values())
        return np.arange(math.prod(shape)).reshape(shape)[joined].reshape(-1).tolist()
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return [int(device) for device in listed[1].split(",")]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota:
        shape, dims, order = ([int(x) for x in (g or "").split(",") if x] for g in iota.groups())
        ids = np.arange(math.prod(dims)).reshape(dims).transpose(order or range(len(dims)))
        return ids.reshape(shape)[0].tolist()
    pair = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line)
    if pair is None:
        raise ValueError(f"expected a collective with its groups of devices, got {line.strip()!r}")
    return [int(pair[1]), int(pair[2])]
