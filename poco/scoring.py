"""Scoring any forecasters over the same windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from poco.data.packed import PackedBatch
from poco.data.splits import Split, Windows
from poco.data.statistics import statistics_of
from poco.data.windows import Packer, vocabulary
from poco.errors import DataError
from poco.intervals import Ahead, Interval, block_length, interval, lasting_block, resampled_scores
from poco.parameters import device_of
from poco.scores import Scores, SessionScore
from poco.training.validation import check_forecaster, predict
from poco.wording import counted

#: Share of a session's error that a single unit may have unremarked.
WEIGHTY = 0.25


@torch.no_grad()
def forecasts_of(
    forecasters: Mapping[str, nn.Module], split: Split, windows: Windows, precision: Mapping[str, str] | None = None
) -> Iterator[tuple[Windows, PackedBatch, dict[str, torch.Tensor]]]:
    """The forecasts of several forecasters over the same windows of a split, batch after batch.

    Each forecaster is left in evaluation mode, where it is, and given copies of the windows, without what is to be
    forecast.

    Args:
        forecasters: modules with ``forward_packed``, by name.
        split: recordings and statistics.
        windows: what to forecast.
        precision: ``"bf16"`` by the names of those that compute under autocast.

    Yields:
        Some windows, the batch that they make, on the CPU, sessions and units counted as the split has them, and what
        each forecasts, ``[R, H]`` float32 where the forecaster is.
    """
    packers = {name: Packer(split, vocabulary(model)) for name, model in forecasters.items()}
    for model in forecasters.values():
        model.eval()
    for some, batch in Packer(split).batches(windows):
        found = {}
        for name, model in forecasters.items():
            own = packers[name].relabel(batch, some).to(device_of(model))
            found[name] = predict(model, own, (precision or {}).get(name, "float32"))
        yield some, batch, found


def score_forecasters(
    forecasters: Mapping[str, nn.Module],
    split: Split,
    part: str = "test",
    *,
    stride: int = 1,
    precision: Mapping[str, str] | None = None,
) -> dict[str, Scores]:
    """Score several forecasters over the same windows, in one pass.

    Args:
        forecasters: modules with ``forward_packed``, by name, see :func:`forecasts_of`.
        split: recordings and parts.
        part: ``"train"``, ``"val"`` or ``"test"``.
        stride: frames from one window to the next.
        precision: ``"bf16"`` by the names of those that compute under autocast.

    Returns:
        The scores of each, with the errors of its windows (which intervals can be made of) and without intervals.

    Raises:
        DataError: if a session has no window in the part.
        ConfigError: if a forecaster is none.
        ShapeError: if a forecast is not ``[R, H]``.
    """
    for model in forecasters.values():
        check_forecaster(model)
    windows = split.windows(part, stride)
    count = np.bincount(windows.session, minlength=len(split.recordings))
    if not count.all():
        missing = split.recordings[int(np.argmin(count > 0))].session
        raise DataError(f"session '{missing}' has no window in the {part} part")
    sizes = (len(split.recordings), split.horizon, len(windows), sum(r.units for r in split.recordings))
    errors = {name: _Errors(*sizes) for name in forecasters}
    copy_errors = _Errors(*sizes)
    for some, batch, found in forecasts_of(forecasters, split, windows, precision):
        assert batch.target is not None
        rows = np.diff(batch.window_offsets.numpy())
        copy_errors.add(batch.x[:, -1:] - batch.target, some.session, rows, batch.unit_index)
        for name, forecast in found.items():
            errors[name].add(forecast - batch.target.to(forecast.device), some.session, rows, batch.unit_index)
    return {name: _scores(split, error, copy_errors, count) for name, error in errors.items()}


def ahead(one: Scores, other: Scores, split: Split) -> Ahead:
    """How far one forecaster is ahead of another that was scored over the same windows, with its 95% interval."""
    return _ahead(one, other, block_length(split.context, split.horizon))


def score_interval(scores: Scores, least: int) -> tuple[Interval | None, float]:
    """The 95% interval of a score, and how many blocks the windows make up.

    Args:
        scores: with the errors of its windows.
        least: windows in a block at least, see :func:`poco.intervals.block_length`.
    """
    assert scores.window_error is not None
    assert scores.copy_window_error is not None
    windows = [session.windows for session in scores.sessions]
    block = lasting_block(scores.window_error, scores.copy_window_error, windows, least)
    drawn = resampled_scores(scores.window_error[None], scores.copy_window_error, windows, block)
    return interval(drawn[0], most=1.0), round(sum(windows) / block, 1)


def _ahead(one: Scores, other: Scores, least: int) -> Ahead:
    """How far one forecaster is ahead of another; a block is as long as the difference of their errors lasts."""
    assert one.window_error is not None
    assert one.copy_window_error is not None
    assert other.window_error is not None
    windows = [session.windows for session in one.sessions]
    with np.errstate(invalid="ignore"):  # of two errors that are not finite
        block = lasting_block(one.window_error - other.window_error, one.copy_window_error, windows, least)
    drawn = resampled_scores(np.stack([one.window_error, other.window_error]), one.copy_window_error, windows, block)
    most = np.inf if drawn[1].any() else 1.0  # of copy, which scores 0 however windows are drawn, that of the score
    return Ahead(one.score - other.score, interval(drawn[0] - drawn[1], most), round(sum(windows) / block, 1))


def with_intervals(scores: Mapping[str, Scores], least: int) -> dict[str, Scores]:
    """The scores with their intervals and how far the forecaster ``""`` is ahead of the others; errors are left behind.

    Args:
        scores: of forecasters over the same windows, with the errors of these.
        least: windows in a block at least, see :func:`poco.intervals.block_length`.
    """
    return {
        name: replace(
            one,
            interval=score_interval(one, least)[0],
            ahead=_ahead(scores[""], one, least) if name else None,
            window_error=None,
            copy_window_error=None,
            unit_error=None,
            copy_unit_error=None,
        )
        for name, one in scores.items()
    }


def warnings_of(scores: Scores, split: Split, part: str) -> list[str]:
    """What makes the scores of a forecaster say little, one line each.

    A session of which forecasts are not finite, one that stands still in the part, where no score is possible, and
    single units that alone make up more than :data:`WEIGHTY` of a session's error, the forecaster's or that of
    repeating the last frame; of fewer than 20 units more than the part of five, or nine tenths.
    """
    assert scores.unit_error is not None
    assert scores.copy_unit_error is not None
    found = []
    first = np.cumsum([0] + [recording.units for recording in split.recordings])
    for index, (session, recording) in enumerate(zip(scores.sessions, split.recordings, strict=True)):
        wrong = np.flatnonzero(~np.isfinite(scores.unit_error[first[index] : first[index + 1]]))
        if wrong.size:
            units = f"{counted(wrong.size, 'unit')}, the first is '{recording.unit_ids[wrong[0]]}'"
            found.append(
                f"session '{session.session}' has no finite score: forecasts in the {part} part are not finite of "
                f"{units}: look at what the forecaster computes"
            )
            continue
        if session.copy_mse == 0:
            found.append(
                f"session '{session.session}' stands still in the {part} part: repeating the last frame has no error "
                f"there, and every forecast that has one scores -inf, which the mean over sessions is then too: leave "
                "the session out"
            )
            continue
        own = slice(first[index], first[index + 1])
        kinds = {"repeating the last frame": scores.copy_unit_error[own], "the forecast": scores.unit_error[own]}
        shares = {kind: each / each.sum() for kind, each in kinds.items() if 0 < each.sum() < np.inf}
        least = max(WEIGHTY, min(5 / recording.units, 0.9))  # of few units each has a large share
        heavy = {int(share.argmax()) for share in shares.values() if share.max() > least}
        for unit in sorted(heavy) if recording.units > 1 else ():
            much = " and ".join(f"{share[unit]:.0%} of the error of {kind}" for kind, share in shares.items())
            there = statistics_of(recording.activity[unit], split.segments[part][index])[1]
            usual = np.median(split.std[index])
            found.append(
                f"session '{session.session}': unit '{recording.unit_ids[unit]}' alone makes up {much} in the "
                f"{part} part, so it decides the score: it is divided by a deviation of {split.std[index][unit]:.3g} "
                f"(the median unit by {usual:.3g}), and deviates by {there:.3g} there; compare with the unit left out "
                f"(--leave-out '{recording.session}/{recording.unit_ids[unit]}')"
            )
    return found


class _Errors:
    """Squared errors of one forecaster, added up batch by batch.

    Attributes:
        session: ``[S, H]`` float64, summed over units and windows.
        window: ``[W]`` float64, summed over units and steps.
        unit: ``[U]`` float64, of the units of all sessions, summed over windows and steps.
    """

    def __init__(self, sessions: int, horizon: int, windows: int, units: int) -> None:
        self.session = np.zeros((sessions, horizon))
        self.window = np.zeros(windows)
        self.unit = np.zeros(units)
        self._filled = 0

    def add(self, error: torch.Tensor, session: np.ndarray, rows: np.ndarray, unit: torch.Tensor) -> None:
        """Add the errors ``[R, H]`` of the next windows: session and number of rows of each, unit ``[R]`` of a row."""
        of_row = torch.from_numpy(np.repeat(np.arange(rows.size), rows)).to(error.device)
        total = torch.zeros(rows.size, error.shape[1], dtype=torch.float64, device=error.device)
        squared = error.double().square_()
        sums = total.index_add_(0, of_row, squared).cpu().numpy()
        self.unit += np.bincount(unit.numpy(), squared.sum(1).cpu().numpy(), self.unit.size)
        np.add.at(self.session, session, sums)
        self.window[self._filled : self._filled + rows.size] = sums.sum(axis=1)
        self._filled += rows.size


def _scores(split: Split, errors: _Errors, copy_errors: _Errors, windows: np.ndarray) -> Scores:
    rows, error, copy_error = [], errors.session, copy_errors.session
    for index, recording in enumerate(split.recordings):
        elements = int(windows[index]) * recording.units * split.horizon
        mse, copy_mse = error[index].sum() / elements, copy_error[index].sum() / elements
        rows.append(
            SessionScore(
                session=recording.session,
                score=_ratio(mse, copy_mse),
                mse=float(mse),
                copy_mse=float(copy_mse),
                units=recording.units,
                windows=int(windows[index]),
                score_per_step=tuple(_ratio(e, c) for e, c in zip(error[index], copy_error[index], strict=True)),
            )
        )
    return Scores(
        float(np.mean([row.score for row in rows])),
        tuple(rows),
        window_error=errors.window,
        copy_window_error=copy_errors.window,
        unit_error=errors.unit,
        copy_unit_error=copy_errors.unit,
    )


def _ratio(mse: float, copy_mse: float) -> float:
    """1 - mse / copy_mse; where nothing changed at all, 0 for a forecast that says so, and -inf for any other."""
    if copy_mse == 0 and not np.isnan(mse):
        return 0.0 if mse == 0 else -np.inf
    if copy_mse == 0:
        return np.nan
    return float(1.0 - mse / copy_mse)
