"""The compiled core: gathering of packed windows, counter-based random numbers, kernels of the two passes.

Each function runs in the compiled module ``poco._core``. Where that cannot be loaded, importing ``poco`` gives one
``RuntimeWarning`` that says why, and numpy does the same work, slower, with the same result bit for bit; the kernels
have no such twin, other backends do their work (see :mod:`poco.ops.backends`). Set the environment variable
``POCO_CORE=off`` to do without the core on purpose.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import struct
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from poco._version import __version__
from poco.errors import BackendError, ConfigError, DataError

_MOST_INDICES = 2**31 - 1


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None, and in words which one or why not."""
    wish = os.environ.get("POCO_CORE", "").strip().lower()
    if wish == "off":
        return None, "switched off by POCO_CORE=off"
    try:
        if wish not in ("", "on"):
            raise ImportError(f"POCO_CORE={wish!r} is not known: use on or off, or unset it")
        _refuse_truncated("poco._core")
        module = importlib.import_module("poco._core")
        version = getattr(module, "version", "an unknown version")
        if version != __version__:
            raise ImportError(f"it was built as {version}, but poco is {__version__}")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the library, poco still works
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # What a variable asks for in vain names the way out itself, and no new installation helps.
        reinstall = (
            "Reinstall with 'pip install --force-reinstall poco-forecast' (in a source tree: 'pip install .'), or"
        )
        remedy = "Or" if reason.startswith("POCO_") else reinstall
        warnings.warn(
            f"poco: the compiled core cannot be used ({reason}); numpy does its work, slower, with the same results, "
            f"and plain torch that of its kernels. {remedy} set POCO_CORE=off to silence this.",
            RuntimeWarning,
            stacklevel=3,
        )
        return None, reason
    return module, f"{version}, built with {module.compiler}, running {module.isa}"


def _refuse_truncated(name: str) -> None:
    """Raise ImportError for a 64-bit ELF library that ends before its section table: loading one kills the process."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        return
    with open(spec.origin, "rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        return  # of another kind, or so short that the loader itself refuses it
    (table,), (size, count) = struct.unpack_from("<Q", header, 0x28), struct.unpack_from("<HH", header, 0x3A)
    if os.path.getsize(spec.origin) < table + size * count:
        raise ImportError(f"{spec.origin} is truncated")


_core_module, _core_words = _load()


def available() -> tuple[bool, str]:
    """Whether the compiled core is in use, and which one it is or why it is not."""
    return _core_module is not None, _core_words


def module() -> ModuleType | None:
    """The compiled module; None where it is not in use."""
    return _core_module


def build_info() -> dict[str, Any]:
    """How the compiled core was built and what it found here; empty where it is not in use.

    Keys: ``version``, ``compiler``, ``cuda_compiler`` (version or "none"), ``isa`` (instruction set in use) and
    ``cpu_features`` (list of names).
    """
    if _core_module is None:
        return {}
    names = ("version", "compiler", "cuda_compiler", "isa", "cpu_features")
    return {name: getattr(_core_module, name) for name in names}


def gpus() -> tuple[list[str], str]:
    """Names of the GPUs on which the streaming engine can forecast, and why there are none."""
    if _core_module is None:
        return [], _core_words
    try:
        return _core_module.gpus(), ""
    except _core_module.GpuError as error:
        return [], str(error)


def kernels_missing() -> str | None:
    """Why the core's kernels of the two passes cannot be used; None if they can."""
    if _core_module is None:
        return f"the compiled core is not in use: {_core_words}"
    return _core_module.cpu_kernels_missing or None


def run_kernel(op: str, arguments: Mapping[str, int | float]) -> None:
    """Runs a kernel of the passes or of what lies around them; the interpreter lock is released meanwhile.

    Args:
        op: ``latent_queries``, ``latent_pool``, ``latent_training`` or ``film_forecast``, each also with ``_backward``,
            or ``film_shift`` or ``inference``, followed by ``_float32`` or ``_bfloat16``, the type of its inputs.
        arguments: sizes, numbers and the addresses of arrays by the names in ``csrc/cpu/kernels.h``. Nothing is
            checked: :mod:`poco.ops.cpu` does that, and keeps the arrays alive.

    Raises:
        BackendError: if the compiled core is not in use, or an argument is missing or not known.
    """
    if _core_module is None:
        raise BackendError(f"the compiled core is not in use: {_core_words}")
    try:
        getattr(_core_module, op)(arguments)
    except _core_module.Error as error:
        raise BackendError(str(error)) from None


@functools.cache
def latent_tiles(
    kind: str, segments: int, latents: int, width: int, head_width: int, heads: int, ffn_width: int, layers: int
) -> tuple[int, int]:
    """How the kernels cut the latents' training: most windows of a tile, and the bytes that they keep of one.

    Args:
        kind: ``float32`` or ``bfloat16``, the type of the inputs.
        segments: of a window; this and the rest as in :func:`poco.ops.latent_transformer`.
        latents: of a window.
        width: of a latent.
        head_width: width of a head.
        heads: heads of the self-attention.
        ffn_width: width of the feed-forward layers.
        layers: over the latents.

    Raises:
        BackendError: if the compiled core is not in use.
    """
    if _core_module is None:
        raise BackendError(f"the compiled core is not in use: {_core_words}")
    tiles = getattr(_core_module, f"latent_tiles_{kind}")
    return tiles(segments, latents, width, head_width, heads, ffn_width, layers)  # type: ignore[no-any-return]


def gather_windows(
    activity: Sequence[npt.NDArray[np.float32]],
    mean: Sequence[npt.NDArray[np.float32]],
    inverse_std: Sequence[npt.NDArray[np.float32]],
    window_session: npt.NDArray[np.int64],
    window_start: npt.NDArray[np.int64],
    context: int,
    horizon: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Gathers windows of different sessions into packed rows, normalised as ``(activity - mean) * inverse_std``.

    Window ``w`` covers frames ``window_start[w]`` to ``window_start[w] + context + horizon - 1`` of session
    ``window_session[w]``; each of that session's units becomes one row. Every window is checked before anything
    is written. The interpreter lock is released meanwhile.

    Args:
        activity: per session ``[N_s, T_s]`` float32, C-contiguous.
        mean: per session ``[N_s]`` float32.
        inverse_std: per session ``[N_s]`` float32, one over the standard deviation.
        window_session: ``[W]`` int64, index into ``activity``.
        window_start: ``[W]`` int64, first frame of the window.
        context: frames of input, at least 1.
        horizon: frames to forecast; may be 0.

    Returns:
        ``x [R, context]`` float32, ``target [R, horizon]`` float32, ``unit_index [R]`` int32 (counts the units of all
        sessions of ``activity``, session after session) and ``window_offsets [W + 1]`` int32 (rows of window ``w`` are
        ``window_offsets[w]:window_offsets[w + 1]``).

    Raises:
        DataError: if a dtype, shape or memory layout is not as above, or a window does not lie within its session.
    """
    _check_sessions(activity, mean, inverse_std)
    window_session = _window_array(window_session, "window_session")
    window_start = _window_array(window_start, "window_start")
    if window_session.shape != window_start.shape:
        raise DataError("windows: window_session and window_start must have the same length")
    if _core_module is not None:
        try:
            packed: tuple[
                npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]
            ] = _core_module.gather_windows(
                activity, mean, inverse_std, window_session, window_start, int(context), int(horizon)
            )
        except _core_module.Error as error:
            raise DataError(str(error)) from None
        return packed
    return _gather_windows_numpy(activity, mean, inverse_std, window_session, window_start, int(context), int(horizon))


def philox_uint32(seed: int, rows: int, columns: int) -> npt.NDArray[np.uint32]:
    """Random words that depend on seed, row and column alone (Philox 4x32-10).

    The key is ``(seed & 0xffffffff, seed >> 32)``, the counter ``(column // 4, row & 0xffffffff, row >> 32, 0)``;
    a column takes output word ``column % 4``.

    Args:
        seed: 64 bits; a negative seed counts as its two's complement.
        rows: number of rows.
        columns: number of columns, at most 2**34.

    Returns:
        ``[rows, columns]`` uint32.

    Raises:
        ConfigError: if rows or columns are negative, or columns too many.
    """
    seed, rows, columns = _random_shape(seed, rows, columns)
    if _core_module is not None:
        words: npt.NDArray[np.uint32] = _core_module.philox_uint32(seed, rows, columns)
        return words
    return _philox_numpy(seed, rows, columns)


def dropout_keep(seed: int, rows: int, columns: int, p: float) -> npt.NDArray[np.bool_]:
    """Which elements dropout with probability ``p`` keeps: those whose random word is at least ``round(p * 2**32)``.

    Args:
        seed: 64 bits, as in :func:`philox_uint32`, which gives the words.
        rows: number of rows.
        columns: number of columns.
        p: probability to drop, in ``[0, 1)``.

    Returns:
        ``[rows, columns]`` bool, true where an element is kept.

    Raises:
        ConfigError: if ``p`` is not in ``[0, 1)``, or as in :func:`philox_uint32`.
    """
    seed, rows, columns = _random_shape(seed, rows, columns)
    p = float(p)
    if not 0.0 <= p < 1.0:
        raise ConfigError(f"dropout: the probability must be at least 0 and below 1, got {p}")
    if _core_module is not None:
        keep: npt.NDArray[np.bool_] = _core_module.dropout_keep(seed, rows, columns, p)
        return keep
    return _philox_numpy(seed, rows, columns).astype(np.uint64) >= np.uint64(round(p * 2**32))


def _check_sessions(
    activity: Sequence[npt.NDArray[np.float32]],
    mean: Sequence[npt.NDArray[np.float32]],
    inverse_std: Sequence[npt.NDArray[np.float32]],
) -> None:
    if not len(activity) == len(mean) == len(inverse_std):
        raise DataError("windows: activity, mean and inverse_std must list the same number of sessions")
    for s, (a, m, i) in enumerate(zip(activity, mean, inverse_std, strict=True)):
        for name, array, dimensions in (("activity", a, 2), ("mean", m, 1), ("inverse_std", i, 1)):
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != dimensions:
                found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                shape = "[units, frames]" if dimensions == 2 else "[units]"
                raise DataError(f"windows: session {s}: {name} must be a float32 array {shape}, got {found}")
            if not array.flags.c_contiguous:
                raise DataError(f"windows: session {s}: {name} must be C-contiguous: use numpy.ascontiguousarray")
        if m.shape[0] != a.shape[0] or i.shape[0] != a.shape[0]:
            raise DataError(f"windows: session {s}: mean and inverse_std must have one value per unit ({a.shape[0]})")


def _window_array(values: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise DataError(f"windows: {name} must be a one-dimensional array of whole numbers")
    return np.ascontiguousarray(array, dtype=np.int64)


def _random_shape(seed: int, rows: int, columns: int) -> tuple[int, int, int]:
    rows, columns = int(rows), int(columns)
    if rows < 0 or columns < 0 or columns > 2**34:
        raise ConfigError(
            f"random numbers: rows and columns must be 0 or more and columns at most 2^34, got {rows} x {columns}"
        )
    return int(seed) & 0xFFFFFFFFFFFFFFFF, rows, columns


def _gather_windows_numpy(
    activity: Sequence[npt.NDArray[np.float32]],
    mean: Sequence[npt.NDArray[np.float32]],
    inverse_std: Sequence[npt.NDArray[np.float32]],
    window_session: npt.NDArray[np.int64],
    window_start: npt.NDArray[np.int64],
    context: int,
    horizon: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """What ``csrc/core/gather.cpp`` does, with the same checks and messages."""
    if context < 1 or horizon < 0:
        raise DataError(
            f"windows: context must be 1 or more and horizon 0 or more, got context {context} and horizon {horizon}"
        )
    units = np.array([a.shape[0] for a in activity], dtype=np.int64)
    first_unit = np.concatenate([[0], np.cumsum(units)])
    if first_unit[-1] > _MOST_INDICES:
        raise DataError("windows: more than 2^31 - 1 units in all sessions together")
    length = context + horizon
    windows = list(zip(window_session.tolist(), window_start.tolist(), strict=True))
    offsets = [0]
    for w, (s, start) in enumerate(windows):
        if not 0 <= s < len(activity):
            raise DataError(f"window {w}: session {s} is not one of the {len(activity)} sessions given")
        frames = activity[s].shape[1]
        if start < 0 or start > frames - length:
            raise DataError(
                f"window {w}: {length} frames from frame {start} do not lie within the {frames} frames of session {s}"
            )
        offsets.append(offsets[-1] + activity[s].shape[0])
        if offsets[-1] > _MOST_INDICES:
            raise DataError("windows: more than 2^31 - 1 rows in one batch; take fewer windows at once")

    x = np.empty((offsets[-1], context), dtype=np.float32)
    target = np.empty((offsets[-1], horizon), dtype=np.float32)
    unit_index = np.empty(offsets[-1], dtype=np.int32)
    for w, (s, start) in enumerate(windows):
        rows = slice(offsets[w], offsets[w + 1])
        values = (activity[s][:, start : start + length] - mean[s][:, None]) * inverse_std[s][:, None]
        x[rows] = values[:, :context]
        target[rows] = values[:, context:]
        unit_index[rows] = np.arange(first_unit[s], first_unit[s + 1])
    return x, target, unit_index, np.array(offsets, dtype=np.int32)


def _philox_numpy(seed: int, rows: int, columns: int) -> npt.NDArray[np.uint32]:
    """What ``csrc/core/philox.cpp`` does; words are kept in uint64 so that products do not overflow."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    blocks = -(-columns // 4)
    row = np.arange(rows, dtype=np.uint64)[:, None]
    c0 = np.broadcast_to(np.arange(blocks, dtype=np.uint64), (rows, blocks))
    c1 = np.broadcast_to(row & low, (rows, blocks))
    c2 = np.broadcast_to(row >> half, (rows, blocks))
    c3 = np.zeros((rows, blocks), dtype=np.uint64)
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        product0 = c0 * np.uint64(0xD2511F53)
        product1 = c2 * np.uint64(0xCD9E8D57)
        c0 = (product1 >> half) ^ c1 ^ np.uint64(key0)
        c1 = product1 & low
        c2 = (product0 >> half) ^ c3 ^ np.uint64(key1)
        c3 = product0 & low
        key0 = (key0 + 0x9E3779B9) & 0xFFFFFFFF
        key1 = (key1 + 0xBB67AE85) & 0xFFFFFFFF
    words = np.stack([c0, c1, c2, c3], axis=-1).reshape(rows, 4 * blocks)[:, :columns]
    return np.ascontiguousarray(words, dtype=np.uint32)
