"""Forecasts of a recording in its own units."""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from poco.core import gather_windows
from poco.data.checks import check_length, rates_differ
from poco.data.packed import PackedBatch
from poco.data.recording import Recording
from poco.data.segments import taken
from poco.data.windows import ROWS_A_BATCH, check_units
from poco.errors import CheckpointError, ConfigError, DataError, optional
from poco.files import write_npz
from poco.nn.files import learnt_rate
from poco.parameters import device_of
from poco.wording import at_rate, counted

if TYPE_CHECKING:
    from poco.models import Forecaster
    from poco.run import Run

_AXES = "window unit step"

#: A recording is taken for one on another scale where its means lie further than this from the model's, in standard
#: deviations, in the median over units; or where nearly all units deviate more, or less, by this factor.
_FAR_MEAN, _FAR_STD = 5.0, 3.0
_NEARLY_ALL = 0.9  # sparse activity: in a quiet stretch half of the units may hardly move at all
_FRAMES_FOR_STD = 200  # of a shorter recording the means alone are judged
_MOST_FRAMES = 2000  # are looked at, evenly spaced


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts of one session.

    Attributes:
        values: ``[W, N, H]`` float32, windows by units by steps ahead, in the recording's own units.
        frame: ``[W]`` int64, frame of the first step; the last windows reach beyond the end of the recording.
        session: name of the session.
        unit_ids: ``N`` names.
        rate_hz: frames a second, or None.
    """

    values: np.ndarray
    frame: np.ndarray
    session: str
    unit_ids: tuple[str, ...]
    rate_hz: float | None

    def __repr__(self) -> str:
        windows, units, steps = self.values.shape
        size = f"{counted(windows, 'window')} x {counted(units, 'unit')} x {counted(steps, 'step')}"
        return f"<Forecasts of '{self.session}': {size}, {at_rate(self.rate_hz)}>"

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the forecasts to ``.npz`` or ``.zarr``, whole or not at all.

        Args:
            path: where to write.
            overwrite: whether to replace earlier forecasts; nothing else is ever replaced.

        Raises:
            ConfigError: if the name ends in neither, or something is there that may not be replaced.
            MissingExtraError: if ``zarr`` is missing and wanted.
            CheckpointError: if the file cannot be written.
        """
        path = Path(path)
        check_place(path, overwrite=overwrite)
        if path.suffix == ".npz":
            self._save_npz(path)
        else:
            self._save_zarr(path)
        return path

    def _save_npz(self, path: Path) -> None:
        arrays = {
            "values": self.values,
            "frame": self.frame,
            "unit_ids": np.array(self.unit_ids, dtype=np.str_),
            "session": np.array(self.session),
            "rate_hz": np.array(np.nan if self.rate_hz is None else self.rate_hz),
        }
        write_npz(path, arrays, compressed=True)

    def _save_zarr(self, path: Path) -> None:
        with optional("zarr", "formats", "writing zarr"):
            import zarr
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            group = zarr.open_group(str(partial), mode="w")
            group["values"] = self.values
            group["frame"] = self.frame
            group.attrs.update(
                {
                    "session": self.session,
                    "unit_ids": list(self.unit_ids),
                    "rate_hz": self.rate_hz,
                    "axes": _AXES,
                }
            )
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(partial, path)
        except OSError as error:
            raise CheckpointError(f"cannot save {path}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_place(path: Path, *, overwrite: bool = False) -> None:
    """Check that forecasts may be written to a path, before they are made.

    Raises:
        ConfigError: if the name does not say the format, or something is there: earlier forecasts without
            ``overwrite``, or anything else.
        CheckpointError: if there is no folder to write into.
    """
    if path.suffix not in (".npz", ".zarr"):
        raise ConfigError(f"forecasts are written to .npz or .zarr, got '{path.name}'")
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot save {path}: there is no folder {path.parent}")
    if not os.path.lexists(path):
        return
    if not _holds_forecasts(path):
        raise ConfigError(f"{path} exists and does not hold forecasts: choose another name")
    if not overwrite:
        raise ConfigError(f"{path} holds forecasts already: choose another name, or overwrite them (--overwrite)")


def _holds_forecasts(path: Path) -> bool:
    """Whether a path holds what :meth:`Forecasts.save` wrote, and nothing else."""
    try:
        if path.is_symlink():
            return False
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as content:
                names = sorted(content.namelist())
            return names == ["frame.npy", "rate_hz.npy", "session.npy", "unit_ids.npy", "values.npy"]
        inside = {entry.name for entry in path.iterdir()} - {"frame", "values"}
        if inside == {".zgroup", ".zattrs"}:  # format 2
            return json.loads((path / ".zattrs").read_text(encoding="utf-8")).get("axes") == _AXES
        if inside == {"zarr.json"}:
            return json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"].get("axes") == _AXES
        return False
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        return False


@torch.no_grad()
def forecast(
    run: Run | Forecaster | str | Path,
    recording: Recording,
    *,
    session: str | None = None,
    stride: int = 1,
    latest: bool = False,
) -> Forecasts:
    """Forecast a recording of a session that the model knows, wherever a whole context precedes.

    The model is left in evaluation mode. A RuntimeWarning says where the recording's activity is not on the scale of
    what the model learnt.

    Args:
        run: a run, a model, or a folder of either (:func:`poco.load`).
        recording: the recording; its units must be those of the session, in the same order.
        session: session of the model to use; default the recording's own name.
        stride: frames from one forecast to the next.
        latest: only the forecast from the last context, that is of the frames after the end.

    Returns:
        The forecasts; contexts never cross from one stretch of the recording to another.

    Raises:
        VocabularyError: if the model does not know the session, or its units are others.
        DataError: for NaN or infinite values, too few frames, or a rate other than the session's.
        ConfigError: for a stride below 1, or above 1 with ``latest``, or what is no forecaster.
        CheckpointError: if the folder holds no model.
    """
    from poco.models import model_of

    model = model_of(run, "what forecasts a recording")
    if stride < 1:
        raise ConfigError(f"stride must be at least 1 frame, got {stride}")
    if latest and stride != 1:
        raise ConfigError(f"the latest forecast is a single one: leave out stride (--stride), got {stride}")
    if not isinstance(recording, Recording):
        raise DataError(f"one recording is wanted, not {type(recording).__name__}: read it with poco.read, choose one")
    index = model.session_index(session if session is not None else recording.session)
    spec = model.sessions[index]
    mean, std = (np.asarray(v.detach().cpu(), dtype=np.float32) for v in model.normalisation(index))
    check_fits(model, spec.name, recording)
    warn_of_scale(recording, mean, std, stacklevel=4)  # of torch.no_grad, too
    context, horizon = model.config.context, model.config.horizon
    check_length(recording, context=context, horizon=0)
    start = _starts(recording, context, stride, latest)
    _check_finite(recording, start, context)

    model.eval()
    device = device_of(model)
    inverse = (1.0 / std.astype(np.float64)).astype(np.float32)
    offset = sum(len(known.units) for known in model.sessions[:index])
    values = np.empty((start.size, recording.units, horizon), dtype=np.float32)
    batch_size = max(1, ROWS_A_BATCH // recording.units)
    for first in range(0, start.size, batch_size):
        some = start[first : first + batch_size]
        x, _, unit_index, offsets = gather_windows(
            [recording.activity], [mean], [inverse], np.zeros(some.size, dtype=np.int64), some, context, 0
        )
        batch = PackedBatch(
            x=torch.from_numpy(x),
            unit_index=torch.from_numpy(unit_index) + offset,
            window_offsets=torch.from_numpy(offsets),
            window_session=torch.full((some.size,), index, dtype=torch.int64),
        ).to(device)
        out = model.forward_packed(batch).float().cpu().numpy().reshape(some.size, recording.units, horizon)
        values[first : first + some.size] = out * std[:, None] + mean[:, None]
    return Forecasts(values, start + context, spec.name, recording.unit_ids, recording.rate_hz)


def check_fits(model: Forecaster, session: str, recording: Recording) -> None:
    """Check that a recording is one of a session as a model learnt it: the same units in their order, at its rate.

    Raises:
        VocabularyError: if the model does not know the session, or its units are others.
        DataError: if the recording's rate is another than the session's.
    """
    check_units(recording.session, recording.unit_ids, model.sessions[model.session_index(session)].units)
    learnt = learnt_rate(model, session)
    if rates_differ(recording.rate_hz, learnt):
        raise DataError(
            f"session '{recording.session}' has {recording.rate_hz:.4g} frames a second, the model learnt it at "
            f"{learnt:.4g}: resample the recording"
        )


def warn_of_scale(recording: Recording, mean: np.ndarray, std: np.ndarray, *, stacklevel: int = 3) -> None:
    """Warn where a recording's activity is not on the scale of what a model learnt its session from.

    Args:
        recording: the session; NaN and infinite values have no say.
        mean: ``[N]`` the model's means of the units.
        std: ``[N]`` their standard deviations.
        stacklevel: of the warning.
    """
    if not mean.any() and (std == 1).all():
        return  # never set, of which normalisation() warns
    frames = taken(np.arange(recording.frames), recording.stretches)
    values = recording.activity[:, frames[:: -(-frames.size // _MOST_FRAMES)]].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    values = (values - mean[:, None]) / std[:, None]  # by the model's scale they have mean 0 and deviation 1
    seen = np.isfinite(values).any(1)
    if not seen.any():
        return
    off, spread = np.median(np.abs(np.nanmean(values[seen], 1))), np.nanstd(values[seen], 1)
    low, high = np.quantile(spread, (1 - _NEARLY_ALL, _NEARLY_ALL))
    found = [f"its means lie {off:.3g} standard deviations from the model's"] if off > _FAR_MEAN else []
    if frames.size >= _FRAMES_FOR_STD and (low > _FAR_STD or high < 1 / _FAR_STD):
        found.append(f"its standard deviations are {np.median(spread):.3g} times the model's")
    if found:
        warnings.warn(
            f"session '{recording.session}': its activity is not on the scale that the model was trained on "
            f"({', '.join(found)}, median over units): is it the same kind of activity (dF/F, raw F)?",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def _starts(recording: Recording, context: int, stride: int, latest: bool) -> np.ndarray:
    """First frames of all contexts, ``[W]`` int64."""
    found = [np.arange(s, e - context + 1, stride, dtype=np.int64) for s, e in recording.stretches if e - s >= context]
    if not latest:
        return np.concatenate(found)
    start, stop = recording.stretches[-1]
    if stop - start < context:
        raise DataError(
            f"session '{recording.session}': its last stretch has {stop - start} frames, one context takes {context}"
        )
    return np.array([stop - context], dtype=np.int64)


def _check_finite(recording: Recording, start: np.ndarray, context: int) -> None:
    used = np.zeros(recording.frames + 1, dtype=np.int64)
    np.add.at(used, start, 1)
    np.add.at(used, start + context, -1)
    frames = np.flatnonzero(np.cumsum(used)[:-1])
    for first in range(0, frames.size, 4096):
        chunk = frames[first : first + 4096]
        bad = ~np.isfinite(recording.activity[:, chunk])
        if bad.any():
            frame, unit = (int(i[0]) for i in np.nonzero(bad.T))
            raise DataError(
                f"session '{recording.session}': NaN or infinite values in the frames to forecast from, the first in "
                f"unit '{recording.unit_ids[unit]}' at frame {int(chunk[frame])}: repair the recording, or "
                "stream it (poco.Stream, poco stream --replay), which has ways to do without a value"
            )
