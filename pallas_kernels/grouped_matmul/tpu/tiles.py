"""How much of a grouped product a TPU core holds in VMEM at once.

A step holds its inputs and output twice: one is in use while the other is copied. With b and o
bytes per element of inputs and output (c copies of inputs: 2, and 3 in float32, which is multiplied
in parts)

    matmul   c b (m K + K n) + 2 o m n        all of K: sums stay in registers
    outer    c b m (k + n) + (2 o + 4) k n    sums of a group in float32 beside the output

bytes. In bfloat16, with 64 MiB of VMEM per core on v5p, 128 on v5e and v6e:

                                    v5p              MiB           v6e              MiB
    Kanana-2-30B  up     m, n       512,   768       4 + 6 + 1.5   512,   1536      4 + 12 + 3
     2048 x 1536  outer  m, k, n    512, 2048, 768   5.5 + 12      512, 2048, 1536  7 + 24
    Kimi-K2       up     m, n       512,  1024       14 + 28 + 2   512,   2048      14 + 56 + 4
     7168 x 4096  outer  m, k, n    512, 1792, 2048  7.5 + 28      512, 1792, 2048  7.5 + 28

Letters: K contracted width, N output width; m rows, k and n columns of a tile.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

LANES = 128
_VMEM_SHARE = 0.75  # of a core's VMEM, for inputs, outputs and sums
_VMEM_LIMIT = 0.9  # and with what the compiler keeps besides
_WIDTHS = (2048, 1024, 512, 256, 128)
_ROWS = (512, 256, 128)


class Chip(NamedTuple):
    """What decides the tiles."""

    num_cores: int
    vmem_bytes: int  # of a core
    mxu_rows: int


class Tiles(NamedTuple):
    """A step's share of a product, worked on in pieces of `piece_rows` rows."""

    rows: int
    k: int
    n: int
    piece_rows: int
    vmem_limit_bytes: int | None = None


def for_matmul(chip: Chip, k: int, n: int, in_bytes: int, out_bytes: int) -> Tiles | None:
    """Wide tiles before tall ones: lhs is read once per column of tiles. None: K is too wide."""
    columns = ((k, _split(n, largest, chip.num_cores)) for largest in _WIDTHS)
    return _first_that_fits(chip, columns, lambda tiles: matmul_bytes(tiles, in_bytes, out_bytes))


def for_outer(chip: Chip, k: int, n: int, in_bytes: int, out_bytes: int) -> Tiles | None:
    """Square tiles: each side is read once per row or column of tiles."""
    columns = ((_split(k, most, 1), _split(n, most, chip.num_cores)) for most in _WIDTHS)
    return _first_that_fits(chip, columns, lambda tiles: outer_bytes(tiles, in_bytes, out_bytes))


def matmul_bytes(tiles: Tiles, in_bytes: int, out_bytes: int) -> int:
    """VMEM of a step of `matmul`."""
    inputs = (tiles.rows + tiles.n) * tiles.k
    return _num_copies(in_bytes) * in_bytes * inputs + 2 * out_bytes * tiles.rows * tiles.n


def outer_bytes(tiles: Tiles, in_bytes: int, out_bytes: int) -> int:
    """VMEM of a step of `outer`."""
    inputs = tiles.rows * (tiles.k + tiles.n)
    sums_and_outputs = (4 + 2 * out_bytes) * tiles.k * tiles.n
    return _num_copies(in_bytes) * in_bytes * inputs + sums_and_outputs


def _num_copies(in_bytes):
    return 3 if in_bytes == 4 else 2


def _first_that_fits(
    chip: Chip, columns: Iterable[tuple[int, int]], vmem_bytes: Callable[[Tiles], int]
) -> Tiles | None:
    limit = int(_VMEM_LIMIT * chip.vmem_bytes)
    for k, n in columns:
        for rows in _ROWS:
            tiles = Tiles(rows, k, n, min(rows, chip.mxu_rows), limit)
            if vmem_bytes(tiles) <= _VMEM_SHARE * chip.vmem_bytes:
                return tiles
    return None


def _split(width: int, largest: int, num_cores: int) -> int:
    """The width of tiles that keeps all cores busy, if one does, and wastes least."""

    def cost(tile):
        num_tiles = -(-width // tile)
        # The last tile may be partly empty, and each tile takes time of its own.
        return num_tiles % num_cores, num_tiles * (tile + LANES)

    return min(range(LANES, min(largest, width) + 1, LANES), key=cost)
