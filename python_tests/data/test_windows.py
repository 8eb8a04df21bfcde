"""poco.data.windows: packing, vocabularies, and the sampler's order and state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.recordings import counted, waves

from poco.data.splits import Split, Windows, split
from poco.data.windows import Packer, ShuffledWindows
from poco.errors import CheckpointError, ConfigError, VocabularyError
from poco.nn import SessionSpec


def two_sessions() -> Split:
    return split([waves("a", units=3), waves("b", units=2, frames=500)])


def drawn(sampler: ShuffledWindows, steps: int) -> list[tuple[int, int]]:
    found = []
    for _ in range(steps):
        for windows in sampler.next():
            found += list(zip(windows.session.tolist(), windows.start.tolist(), strict=True))
    return found


def test_packed_rows_are_normalised_slices() -> None:
    cut = two_sessions()
    windows = Windows(np.array([1, 0, 1]), np.array([7, 100, 30]))
    batch = Packer(cut).pack(windows)
    assert batch.window_offsets.tolist() == [0, 2, 5, 7]
    assert batch.window_session.tolist() == [1, 0, 1]
    assert batch.unit_index.tolist() == [3, 4, 0, 1, 2, 3, 4]
    rows = []
    for session, start in zip(windows.session, windows.start, strict=True):
        activity = cut.recordings[session].activity[:, start : start + 64]
        rows.append((activity - cut.mean[session][:, None]) / cut.std[session][:, None])
    assert batch.target is not None
    together = torch.cat([batch.x, batch.target], dim=1).numpy()
    np.testing.assert_allclose(together, np.concatenate(rows), rtol=1e-5, atol=1e-6)


def test_batches_cover_all_windows_in_order_within_the_bound() -> None:
    packer = Packer(two_sessions())
    windows = packer.split.windows("train")
    seen = []
    for some, batch in packer.batches(windows, rows=100):
        assert batch.x.shape[0] <= 100
        seen += list(zip(some.session.tolist(), some.start.tolist(), strict=True))
    assert seen == list(zip(windows.session.tolist(), windows.start.tolist(), strict=True))
    assert len(list(packer.batches(windows, rows=1))) == len(windows)


def test_a_models_vocabulary_sets_sessions_and_units() -> None:
    cut = two_sessions()
    units = [recording.unit_ids for recording in cut.recordings]
    vocabulary = [SessionSpec("b", units[1]), SessionSpec("other", ("x", "y", "z", "w")), SessionSpec("a", units[0])]
    windows = Windows(np.array([0, 1]), np.array([5, 5]))
    batch = Packer(cut, vocabulary).pack(windows)
    assert batch.window_session.tolist() == [2, 0]
    assert batch.unit_index.tolist() == [6, 7, 8, 0, 1]
    assert batch.unit_index.dtype == torch.int32
    relabelled = Packer(cut, vocabulary).relabel(Packer(cut).pack(windows), windows)
    assert relabelled.unit_index.tolist() == [6, 7, 8, 0, 1]


def test_a_vocabulary_that_does_not_fit_is_refused() -> None:
    cut = split([waves("a", units=3)])
    with pytest.raises(VocabularyError, match="does not know session 'a': it knows 'b'"):
        Packer(cut, [SessionSpec("b", ("0", "1", "2"))])
    with pytest.raises(VocabularyError, match="session 'a' has 3 units, the model learnt 2"):
        Packer(cut, [SessionSpec("a", ("0", "1"))])
    with pytest.raises(VocabularyError, match="unit 1 is '1', the model learnt 'AVA' there"):
        Packer(cut, [SessionSpec("a", ("0", "AVA", "2"))])


def test_an_epoch_visits_every_window_once() -> None:
    cut = two_sessions()
    sampler = ShuffledWindows(cut, batch_size=50, seed=3)
    windows = cut.windows("train")
    everything = sorted(zip(windows.session.tolist(), windows.start.tolist(), strict=True))
    assert sampler.steps_per_epoch == -(-len(everything) // 50)
    first, second = drawn(sampler, sampler.steps_per_epoch), drawn(sampler, sampler.steps_per_epoch)
    assert sorted(first) == sorted(second) == everything
    assert first != second
    assert first != everything


def test_each_data_set_has_its_batch_and_the_shortest_ends_the_epoch() -> None:
    cut = split([waves("a", dataset="x", frames=400), waves("b", dataset="y", frames=800)])
    sampler = ShuffledWindows(cut, batch_size=32, seed=0)
    sizes = []
    for _ in range(sampler.steps_per_epoch):
        one, other = sampler.next()
        assert set(one.session) == {0}
        assert set(other.session) == {1}
        sizes.append((len(one), len(other)))
    assert sampler.steps_per_epoch == -(-(240 - 63) // 32)
    assert sizes[-1] == ((240 - 63) % 32, 32)
    assert sampler.epoch == 0
    sampler.next()
    assert sampler.epoch == 1


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 13])
def test_the_sampler_continues_exactly(steps: int) -> None:
    cut = split([counted()])
    one, other = (ShuffledWindows(cut, batch_size=40, seed=9) for _ in range(2))
    drawn(one, steps)
    other.load_state_dict(one.state_dict())
    assert drawn(one, 12) == drawn(other, 12)


def test_the_order_depends_on_the_seed() -> None:
    cut = split([counted()])
    orders = [drawn(ShuffledWindows(cut, batch_size=40, seed=seed), 3) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_a_state_of_other_windows_is_refused() -> None:
    sampler = ShuffledWindows(split([counted()]), batch_size=40, seed=0)
    state = sampler.state_dict()
    for change in ({"seed": 1}, {"batch_size": 8}, {"windows": 3}, {"position": 99}, {"epoch": None}):
        with pytest.raises(CheckpointError):
            sampler.load_state_dict({**state, **change})
    with pytest.raises(ConfigError):
        ShuffledWindows(split([counted()]), batch_size=0, seed=0)
