"""poco.ground.folds: nothing that a fit without a fold sees shares a frame with the fold."""

from __future__ import annotations

import numpy as np

from poco.ground.folds import cut


def test_folds_share_no_frame_with_what_is_fitted_without_them() -> None:
    start = np.concatenate([np.arange(100, 240), np.arange(400, 560)])
    folds = cut(start, 20, 4)
    assert folds is not None
    assert folds.count == 4
    assert np.bincount(folds.fold).tolist() == [75, 75, 75, 75]
    for k in range(4):
        used = set((start[folds.fold == k][:, None] + np.arange(20)).ravel().tolist())
        for window, first in enumerate(start):
            if folds.fold[window] != k:
                assert folds.near[k, window] == (not used.isdisjoint(range(first, first + 20)))
        assert folds.first[k] == start[folds.fold == k][0]
    assert not (folds.near & (folds.fold == np.arange(4)[:, None])).any()


def test_too_few_windows_are_not_cut() -> None:
    assert cut(np.arange(60), 64, 4) is None
    assert cut(np.arange(3), 2, 4) is None
    assert cut(np.arange(400), 64, 4) is not None
