"""Chooses the tiles of the Triton kernels on the GPU at hand, and writes them into their table.

``python -m benchmarks.tune`` times every candidate that compiles, each kernel within its whole op, in CUDA graphs. The
entries of other architectures stay as they are.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from poco.kernels import tiles
from poco.kernels.tiles import Tile

ROWS = (512, 32_768, 262_144)  # an entry is for at most twice as many, the last one for all that are more
WIDTH = 128
WORKERS = 12  # processes that compile side by side


@dataclass(frozen=True)
class Job:
    """A candidate for a kernel, in a precision, at so many rows."""

    kernel: str
    dtype: str
    rows: int
    tile: Tile


# Blocks of rows and, where a kernel has them, hidden columns of the feed-forward and of the MLP; warps; stages.
_SMALL: dict[str, list[tuple[int, ...]]] = {
    "film_forecast bfloat16": [
        (16, 32, 32, 4, 2),
        (16, 32, 64, 4, 3),
        (16, 64, 64, 4, 2),
        (32, 32, 64, 4, 2),
        (32, 64, 64, 8, 2),
        (32, 64, 128, 8, 2),
    ],
    "latent_pool bfloat16": [(16, 4, 1), (32, 4, 1), (32, 8, 1)],
    "film_forecast float32": [(16, 16, 16, 8, 2), (16, 32, 32, 4, 2), (16, 32, 32, 8, 2)],
    "latent_pool float32": [(16, 4, 1), (16, 8, 1), (32, 8, 1)],
    "film_forecast tf32": [(16, 16, 16, 4, 2), (16, 32, 32, 4, 2), (32, 32, 32, 8, 2)],
    "latent_pool tf32": [(16, 4, 1), (32, 8, 1)],
}
_LARGE: dict[str, list[tuple[int, ...]]] = {
    "film_forecast bfloat16": [
        (64, 32, 64, 4, 2),
        (64, 32, 64, 4, 3),
        (64, 64, 64, 4, 2),
        (64, 64, 128, 4, 2),
        (128, 32, 32, 8, 2),
        (128, 32, 64, 8, 2),
        (128, 64, 64, 8, 2),
        (128, 64, 64, 8, 3),
        (128, 64, 128, 8, 1),
    ],
    "film_forecast_backward bfloat16": [
        (32, 32, 32, 8, 2),
        (32, 32, 64, 8, 2),
        (32, 64, 64, 8, 2),
        (32, 16, 16, 8, 2),
        (64, 32, 32, 4, 2),
        (64, 32, 64, 4, 2),
        (128, 32, 32, 8, 1),
    ],
    "film_forecast_ffn bfloat16": [
        (32, 32, 4, 2),
        (32, 32, 8, 2),
        (32, 64, 8, 2),
        (64, 16, 4, 1),
        (64, 32, 4, 2),
        (128, 16, 8, 2),
        (128, 32, 8, 1),
    ],
    "film_forecast_film bfloat16": [
        (32, 64, 4, 2),
        (32, 64, 8, 2),
        (32, 128, 8, 2),
        (64, 64, 4, 2),
        (128, 64, 8, 2),
    ],
    "film_forecast_latents bfloat16": [(16, 8, 2), (32, 8, 2), (32, 4, 1)],
    "latent_pool bfloat16": [(32, 4, 2), (32, 8, 2), (64, 4, 2), (128, 8, 2)],
    "latent_pool_backward bfloat16": [(16, 4, 1), (32, 4, 1), (32, 8, 1), (64, 4, 1), (128, 8, 1)],
    "film_forecast float32": [
        (16, 16, 16, 8, 2),
        (16, 32, 32, 8, 2),
        (32, 32, 32, 8, 2),
        (64, 32, 32, 8, 2),
    ],
    "film_forecast_backward float32": [(16, 16, 16, 8, 2), (16, 32, 32, 8, 2), (32, 16, 16, 8, 2)],
    "film_forecast_ffn float32": [(16, 16, 8, 2), (32, 16, 8, 1), (32, 32, 4, 1), (32, 32, 8, 1)],
    "film_forecast_film float32": [(16, 16, 4, 1), (16, 16, 8, 2), (16, 32, 8, 2), (32, 16, 8, 1), (32, 32, 8, 1)],
    "film_forecast_latents float32": [(16, 4, 1), (16, 8, 1), (32, 8, 1)],
    "latent_pool float32": [(16, 4, 1), (16, 8, 1), (32, 8, 1)],
    "latent_pool_backward float32": [(16, 4, 1), (16, 8, 1), (32, 8, 1)],
    "film_forecast tf32": [(32, 32, 32, 8, 2), (64, 16, 16, 4, 2), (64, 32, 32, 4, 2)],
    "film_forecast_backward tf32": [(16, 32, 32, 8, 2), (32, 16, 16, 8, 2), (32, 32, 32, 8, 2)],
    "film_forecast_ffn tf32": [(32, 16, 8, 2), (32, 32, 8, 2)],
    "film_forecast_film tf32": [(32, 32, 8, 2), (32, 64, 8, 2)],
    "film_forecast_latents tf32": [(16, 8, 2), (32, 8, 1)],
    "latent_pool tf32": [(32, 4, 1), (32, 8, 2)],
    "latent_pool_backward tf32": [(16, 8, 1), (32, 4, 1), (32, 8, 1), (128, 8, 1)],
}


def candidates(kernel: str, dtype: str, rows: int) -> list[Job]:
    """What is tried."""
    tried = (_SMALL if rows <= ROWS[0] else _LARGE)[f"{kernel} {dtype}"]
    columns = {"film_forecast_ffn": ["BLOCK_F"], "film_forecast_film": ["BLOCK_K"]}
    names = columns.get(kernel, ["BLOCK_F", "BLOCK_K"])
    return [
        Job(
            kernel,
            dtype,
            rows,
            Tile(dict(zip(["BLOCK_R", *names], sizes, strict=False)), {"num_warps": w, "num_stages": s}),
        )
        for *sizes, w, s in tried
    ]


@contextmanager
def forced(kernel: str, tile: Tile) -> Iterator[None]:
    """The tile in place of what the table has."""
    before = tiles.choose

    def choose(name: str, arch: int, dtype: str, block_width: int, rows: int) -> Tile:
        return tile if name == kernel else before(name, arch, dtype, block_width, rows)

    tiles.choose = choose  # type: ignore[assignment]
    try:
        yield
    finally:
        tiles.choose = before


def _op(kernel: str, dtype: str, rows: int) -> Callable[[], Any]:
    """The op that launches the kernel, on windows of 512 units, or one window where it is for inference alone."""
    import poco
    from poco.kernels import film_forecast, film_forecast_backward, latent_pool, latent_pool_backward
    from poco.ops import FilmParameters

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    backward = kernel not in ("latent_pool", "film_forecast")
    windows = rows // 512 if rows == ROWS[1] else 1
    units = rows // windows
    c = poco.POCOConfig()

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, device="cuda") * shape[-1] ** -0.5).to(kind)

    x, table = torch.randn(rows, c.context, device="cuda").to(kind), torch.randn(units, c.width, device="cuda").to(kind)
    index = torch.arange(units, dtype=torch.int32, device="cuda").repeat(windows)
    offsets = torch.arange(windows + 1, dtype=torch.int32, device="cuda") * units
    if kernel.startswith("latent_pool"):
        vectors = [draw(c.width) for _ in range(3)]
        queries = draw(windows, c.segments, c.latents, c.width)
        inputs = (x, index, offsets, table, draw(c.width, c.segment_length), *vectors, queries, 1e-5)
        if not backward:
            return lambda: latent_pool.latent_pool(*inputs)
        outputs = latent_pool.latent_pool(*inputs)
        needs = (False, *[True] * 6)
        return lambda: latent_pool_backward.latent_pool_backward(*outputs, *outputs, *inputs, needs)
    d, f, k, h = c.width, c.hidden, c.film_width, c.horizon
    shapes: list[tuple[int, ...]] = [(d,)] * 5
    shapes += [(2 * f, d), (2 * f,), (d, f), (d,), (k, d), (k,), (h, d), (h,), (k, c.context), (k,), (h, k)]
    keys, values = draw(windows, c.latents, d), draw(windows, c.latents, d)
    seed = torch.tensor(7, device="cuda")
    parameters = FilmParameters(*(draw(*shape) for shape in shapes))
    film = (x, index, offsets, table, keys, values, parameters, 0.2 if backward else 0.0, seed, 1e-5)
    if not backward:
        return lambda: film_forecast.film_forecast(*film)
    grad = torch.randn(rows, h, device="cuda").to(kind)
    return lambda: film_forecast_backward.film_forecast_backward(grad, *film, (False, *[True] * 19))


def _compile(job: Job) -> str:
    """Compiles a candidate into Triton's cache, in a process of its own; why not, if it does not."""
    try:
        with forced(job.kernel, job.tile):
            _op(job.kernel, job.dtype, job.rows)()
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - a candidate may ask for too much of anything
        return str(error).splitlines()[0][:80] if str(error) else type(error).__name__
    return ""


class _Timer:
    """Times candidates in a process of its own, and starts another where one has brought it down."""

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, job: Job) -> float:
        """Milliseconds of the op with the candidate; infinite if it fails."""
        self.pool = self.pool or multiprocessing.get_context("spawn").Pool(1)
        try:
            return float(self.pool.apply(_time, (job,)))
        except Exception:  # noqa: BLE001 - a candidate may fail in any way; its process is then of no more use
            self.pool.terminate()
            self.pool = None
            return math.inf


def _time(job: Job) -> float:
    import triton.testing

    with forced(job.kernel, job.tile):
        call = _op(job.kernel, job.dtype, job.rows)
        torch.cuda.synchronize()  # the recording is on a stream of its own
        return float(triton.testing.do_bench_cudagraph(call, rep=20))


def tune(seconds: float) -> list[dict[str, Any]]:
    """Entries for the table, the fastest of the candidates; as many as there is time for.

    Args:
        seconds: to stop after; kernels that were not reached keep what they have.
    """
    until = time.monotonic() + seconds
    device = torch.device("cuda")
    arch, entries = tiles.architecture(device), []
    kernels = [
        ("film_forecast", ROWS),
        ("latent_pool", ROWS),
        ("film_forecast_backward", ROWS[1:2]),
        ("film_forecast_ffn", ROWS[1:2]),
        ("film_forecast_film", ROWS[1:2]),
        ("film_forecast_latents", ROWS[1:2]),
        ("latent_pool_backward", ROWS[1:2]),
    ]
    groups = [(k, dtype, rows) for dtype in ("bfloat16", "tf32", "float32") for k, many in kernels for rows in many]
    jobs = {group: candidates(*group) for group in groups}
    flat = [job for group in groups for job in jobs[group]]
    with multiprocessing.get_context("spawn").Pool(WORKERS, maxtasksperchild=4) as pool:
        failed = dict(zip(map(repr, flat), pool.map(_compile, flat, chunksize=1), strict=True))
    print(f"compiled {len(flat)} candidates")
    for name, reason in failed.items():
        if reason:
            print(f"does not run: {name}: {reason}")
    timer = _Timer()
    for group in groups:
        if time.monotonic() > until:
            print(f"out of time before {group}")
            break
        runs = [job for job in jobs[group] if not failed[repr(job)]]
        times = sorted(((timer(job), repr(job), job) for job in runs), key=lambda timed: timed[:2])
        kernel, dtype, rows = group
        for took, _, tried in times:
            print(f"{kernel} {dtype} {rows}: {took:.4f} ms {tried.tile.blocks} {tried.tile.options}")
        if not times or math.isinf(times[0][0]):
            continue
        best = times[0][2].tile
        many = dict(kernels)[kernel]
        entry = {"kernel": kernel, "arch": arch, "dtype": dtype, "width": WIDTH}
        last = rows == many[-1]
        entries.append({**entry, "rows": None if last else 2 * rows, "blocks": best.blocks, "options": best.options})
    return entries


def write(entries: list[dict[str, Any]]) -> None:
    """Replaces the entries of the table that are for the same, keeps the others."""
    key = ("kernel", "arch", "dtype", "width", "rows")
    new = {tuple(entry[k] for k in key) for entry in entries}
    old = json.loads(tiles.TABLE.read_text()) if tiles.TABLE.exists() else []
    kept = [entry for entry in old if tuple(entry[k] for k in key) not in new]
    every = sorted([*kept, *entries], key=lambda e: [str(e[k]) for k in key[:4]] + [e["rows"] or 2**62])
    tiles.TABLE.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in every) + "\n]\n")


def main() -> int:
    """Tune for as many seconds as the command line says, 300 by default, and write the table; 1 without a GPU."""
    if not torch.cuda.is_available():
        print("python -m benchmarks.tune needs a GPU that PyTorch sees", file=sys.stderr)
        return 1
    write(tune(float(sys.argv[1]) if len(sys.argv) > 1 else 300))
    return 0


if __name__ == "__main__":
    sys.exit(main())
