"""Scoring any forecasters over the same windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from poco.data.splits import Split
from poco.data.windows import Packer, vocabulary
from poco.errors import DataError
from poco.intervals import Ahead, block_length, interval, resampled_scores
from poco.parameters import device_of
from poco.scores import Scores, SessionScore
from poco.training.validation import predict


@torch.no_grad()
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
        forecasters: modules with ``forward_packed``, by name; each is left in evaluation mode, where it is.
        split: recordings and parts.
        part: ``"train"``, ``"val"`` or ``"test"``.
        stride: frames from one window to the next.
        precision: ``"bf16"`` by the names of those that compute under autocast.

    Returns:
        The scores of each, with the errors of its windows (which intervals can be made of) and without intervals.

    Raises:
        DataError: if a session has no window in the part.
    """
    windows = split.windows(part, stride)
    count = np.bincount(windows.session, minlength=len(split.recordings))
    if not count.all():
        missing = split.recordings[int(np.argmin(count > 0))].session
        raise DataError(f"session '{missing}' has no window in the {part} part")
    packers = {name: Packer(split, vocabulary(model)) for name, model in forecasters.items()}
    shared = Packer(split)
    devices = {name: device_of(model) for name, model in forecasters.items()}
    for model in forecasters.values():
        model.eval()
    sessions, horizon = len(split.recordings), split.horizon
    errors = {name: _Errors(sessions, horizon, len(windows)) for name in forecasters}
    copy_errors = _Errors(sessions, horizon, len(windows))
    for some, batch in shared.batches(windows):
        assert batch.target is not None
        rows = shared.units[some.session]
        copy_errors.add(batch.x[:, -1:] - batch.target, some.session, rows)
        for name, model in forecasters.items():
            own = packers[name].relabel(batch, some).to(devices[name])
            assert own.target is not None
            forecast = predict(model, own, (precision or {}).get(name, "float32"))
            errors[name].add(forecast - own.target, some.session, rows)
    return {name: _scores(split, error, copy_errors, count) for name, error in errors.items()}


def ahead(one: Scores, other: Scores, split: Split) -> Ahead:
    """How far one forecaster is ahead of another that was scored over the same windows, with its 95% interval."""
    scores = with_intervals({"": one, "other": other}, block_length(split.context, split.horizon, 1))
    found = scores["other"].ahead
    assert found is not None
    return found


def with_intervals(scores: Mapping[str, Scores], block: int) -> dict[str, Scores]:
    """The scores with their intervals and how far the forecaster ``""`` is ahead of each; errors are left behind."""
    own = scores[""]
    assert own.copy_window_error is not None
    errors = np.stack([one.window_error for one in scores.values() if one.window_error is not None])
    windows = [session.windows for session in own.sessions]
    resampled = dict(zip(scores, resampled_scores(errors, own.copy_window_error, windows, block), strict=True))
    return {
        name: replace(
            one,
            interval=interval(resampled[name], most=1.0),
            ahead=Ahead(own.score - one.score, interval(resampled[""] - resampled[name])),
            window_error=None,
            copy_window_error=None,
        )
        for name, one in scores.items()
    }


class _Errors:
    """Squared errors of one forecaster, added up batch by batch.

    Attributes:
        session: ``[S, H]`` float64, summed over units and windows.
        window: ``[W]`` float64, summed over units and steps.
    """

    def __init__(self, sessions: int, horizon: int, windows: int) -> None:
        self.session = np.zeros((sessions, horizon))
        self.window = np.zeros(windows)
        self._filled = 0

    def add(self, error: torch.Tensor, session: np.ndarray, rows: np.ndarray) -> None:
        """Add the errors ``[R, H]`` of the next windows, given the session and the number of rows of each."""
        of_row = torch.from_numpy(np.repeat(np.arange(rows.size), rows)).to(error.device)
        total = torch.zeros(rows.size, error.shape[1], dtype=torch.float64, device=error.device)
        sums = total.index_add_(0, of_row, error.double().square_()).cpu().numpy()
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
    )


def _ratio(mse: float, copy_mse: float) -> float:
    """1 - mse / copy_mse; where nothing changed at all, 0 for a perfect forecast is the best that can be said."""
    if copy_mse == 0:
        return 0.0
    return float(1.0 - mse / copy_mse)
