"""poco.data.splits: both protocols on numbers worked out by hand, and no leak from one part to another."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.recordings import counted, waves

from poco.data.recording import Recording, fingerprint
from poco.data.splits import PARTS, PROTOCOLS, same_targets, shorten, split
from poco.errors import ConfigError, DataError


def test_published_blocks_by_hand() -> None:
    cut = split([waves(frames=2300)], protocol="published")
    # two blocks: frames 0 to 1000, and 1000 to 2300
    assert cut.segments["train"][0] == ((0, 600), (1000, 1780))
    assert cut.segments["val"][0] == ((600, 800), (1780, 2040))
    assert cut.segments["test"][0] == ((800, 1000), (2040, 2300))
    train = cut.windows("train")
    assert len(train) == (600 - 64) + (780 - 64)
    assert train.start[0] == 0
    assert train.start[535] == 535  # 536 would fit as well: the published protocol drops it
    assert train.start[536] == 1000
    assert train.start[-1] == 1000 + 780 - 65


@pytest.mark.parametrize(
    ("frames", "first", "second"),
    [(799, 479, 639), (999, 599, 799), (1801, 1080, 1440), (1999, 1199, 1599), (517, 310, 413)],
)
def test_published_rounding_with_a_single_block(frames: int, first: int, second: int) -> None:
    cut = split([waves(frames=frames)], protocol="published")
    assert cut.segments["train"][0] == ((0, first),)
    assert cut.segments["val"][0] == ((first, second),)
    assert cut.segments["test"][0] == ((second, frames),)
    assert len(cut.windows("test")) == max(0, frames - second - 64)


def test_published_normalisation_is_over_the_whole_session_with_an_epsilon() -> None:
    recording = waves(frames=500)
    cut = split([recording], protocol="published")
    activity = recording.activity.astype(np.float64)
    np.testing.assert_allclose(cut.mean[0], activity.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(cut.std[0], activity.std(axis=1) + 1e-4, rtol=1e-6)
    assert cut.mean[0].dtype == cut.std[0].dtype == np.float32


def test_the_published_epsilon_is_told_of_where_it_is_not_small() -> None:
    recording = waves(frames=500)
    assert split([recording], protocol="published").warnings == ()
    small = Recording(recording.activity * 1e-12, "a")
    (warning,) = split([small], protocol="published").warnings
    assert "the published protocol adds 0.0001 to each deviation" in warning
    assert "too small by" in warning
    assert split([small]).warnings == ()


def test_deviations_that_float32_cannot_divide_by() -> None:
    with pytest.raises(DataError, match=r"unit '0' deviates by .*e-\d\d in the training part, too little to divide by"):
        split([Recording(waves(frames=500).activity.astype(np.float64) * 1e-40, "a")])


def test_leak_free_parts_by_hand() -> None:
    cut = split([waves(frames=505)])
    assert cut.protocol == "leak-free"
    assert [cut.segments[part][0] for part in PARTS] == [((0, 303),), ((303, 404),), ((404, 505),)]
    assert [len(cut.windows(part)) for part in PARTS] == [303 - 63, 101 - 63, 101 - 63]
    assert cut.windows("test").start[-1] + 64 == 505


def test_leak_free_statistics_do_not_see_the_future() -> None:
    recording = waves(frames=500)
    changed = recording.activity.copy()
    changed[:, 300:] = changed[:, 300:] * 7 + 100
    one, other = split([recording]), split([Recording(changed, "a")])
    np.testing.assert_array_equal(one.mean[0], other.mean[0])
    np.testing.assert_array_equal(one.std[0], other.std[0])
    np.testing.assert_allclose(one.std[0], recording.activity[:, :300].astype(np.float64).std(axis=1), rtol=1e-6)


def test_leak_free_cut_counts_covered_frames_only() -> None:
    cut = split([waves(frames=600, stretches=((50, 250), (300, 600)))])
    # 500 covered frames: 300 for training, that is 200 of the first stretch and 100 of the second
    assert cut.segments["train"][0] == ((50, 250), (300, 400))
    assert cut.segments["val"][0] == ((400, 500),)
    assert cut.segments["test"][0] == ((500, 600),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(5))
def test_windows_never_straddle_parts_or_stretches(protocol: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.choice(np.arange(1, 3000), 6, replace=False))
    stretches = tuple((int(a), int(b)) for a, b in zip([0, *edges], [*edges, 3000], strict=True))
    cut = split([waves(units=2, frames=3000, stretches=stretches)], protocol=protocol, context=5, horizon=3)
    part_of_frame = np.full(3000, -1)
    for number, part in enumerate(PARTS):
        for start, stop in cut.segments[part][0]:
            assert (part_of_frame[start:stop] == -1).all()
            part_of_frame[start:stop] = number
    stretch_of_frame = np.repeat(np.arange(len(stretches)), [b - a for a, b in stretches])
    for number, part in enumerate(PARTS):
        windows = cut.windows(part)
        assert len(windows) > 0
        for start in windows.start:
            assert set(part_of_frame[start : start + 8]) == {number}
            assert len(set(stretch_of_frame[start : start + 8])) == 1


def test_windows_of_several_sessions_and_stride() -> None:
    cut = split([waves("a", frames=400), waves("b", units=3, frames=500)])
    windows = cut.windows("val", stride=4)
    assert windows.session.dtype == windows.start.dtype == np.int64
    assert windows.start[windows.session == 0].tolist() == list(range(240, 240 + 17, 4))
    assert windows.start[windows.session == 1].tolist() == list(range(300, 300 + 37, 4))


def test_a_session_without_a_window_in_a_part_is_refused() -> None:
    with pytest.raises(DataError, match=r"session 'b': 250 frames leave no window of 64 .* in the validation part"):
        split([waves("a"), waves("b", frames=250)])


@pytest.mark.parametrize(("protocol", "frames"), [("leak-free", 320), ("published", 325)])
def test_the_frames_that_an_error_asks_for_are_enough(protocol: str, frames: int) -> None:
    with pytest.raises(DataError, match=f"of the {protocol} split: {frames} frames without a gap are enough"):
        split([waves(frames=250)], protocol=protocol)
    split([waves(frames=frames)], protocol=protocol)


def test_a_unit_constant_in_the_training_part_is_refused() -> None:
    activity = waves(frames=500).activity.copy()
    activity[2, :300] = 0
    with pytest.raises(DataError, match=r"1 unit never changes in the training .* --leave-out 'a/2', or leave_out = "):
        split([Recording(activity, "a")])
    split([Recording(activity, "a")], protocol="published")


def test_a_unit_that_hardly_moves_in_the_training_part_is_told() -> None:
    activity = waves(frames=500).activity.copy()
    activity[2, :300] *= 1e-4
    (warning,) = split([Recording(activity, "a")]).warnings
    assert "unit '2' hardly moves" in warning


def test_warnings_of_recordings_are_told_once() -> None:
    recordings = [waves(name, warnings=("no channel", f"odd {name == 'b'}")) for name in "abc"]
    assert split(recordings).warnings == ("3 sessions: no channel", "2 sessions: odd False", "session 'b': odd True")


def test_shortened_by_hand() -> None:
    recording = waves(units=3, frames=200)
    cut = split([recording], context=6, horizon=2)  # 0-120, 120-160, 160-200
    short = shorten(cut, 100)
    assert short.segments["train"] == (((60, 135),),)
    assert short.segments["val"] == (((135, 160),),)
    assert short.segments["test"] == cut.segments["test"]
    np.testing.assert_allclose(short.mean[0], recording.activity[:, 60:135].mean(1), atol=1e-6)
    np.testing.assert_allclose(short.std[0], recording.activity[:, 60:135].std(1), rtol=1e-5)
    # a quarter of 20 holds no window of 8: all of them are for both
    assert shorten(cut, 20).segments["train"] == shorten(cut, 20).segments["val"] == (((140, 160),),)
    assert shorten(cut, 1000).segments["train"] == (((0, 120),),)  # all 160 there are
    with pytest.raises(ConfigError, match="7 frames hold no window of 8"):
        shorten(cut, 7)
    published = split([recording], protocol="published", context=6, horizon=2)
    with pytest.raises(ConfigError, match=r"8 frames hold no window of 8 .* of the published split: give 9 or more"):
        shorten(published, 8)
    assert len(shorten(published, 9).windows("train")) == 1


def test_shortened_across_stretches_and_blocks() -> None:
    recording = waves(units=2, frames=2000, stretches=((0, 900), (1000, 2000)))
    cut = split([recording], protocol="published", context=6, horizon=2)
    # training and validation: 0-600, 600-800 and 1000-1600, 1600-1800
    short = shorten(cut, 1000)
    assert short.segments["train"] == (((600, 800), (1000, 1550)),)
    assert short.segments["val"] == (((1550, 1800),),)
    assert short.segments["test"] == cut.segments["test"]
    np.testing.assert_array_equal(short.mean[0], cut.mean[0])
    for part in PARTS:
        for start in short.windows(part).start:
            assert any(a <= start and start + 8 <= b for a, b in short.segments[part][0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_windows_of_all_contexts_forecast_the_same_frames(protocol: str) -> None:
    recordings = [waves(frames=2300), waves(frames=900, session="other", stretches=((0, 850), (860, 900)))]
    cuts = [same_targets(split(recordings, protocol=protocol, context=context), 48) for context in (1, 12, 48)]
    for part in ("val", "test"):
        firsts = [cut.windows(part).start + cut.context for cut in cuts]
        for first in firsts:
            np.testing.assert_array_equal(first, firsts[-1])
    longest = split(recordings, protocol=protocol)
    np.testing.assert_array_equal(cuts[-1].windows("test").start, longest.windows("test").start)
    assert cuts[0].segments["train"] == longest.segments["train"]
    with pytest.raises(DataError, match=r"leave no window of 416 \(context 400 \+ horizon 16\)"):
        same_targets(longest, 400)
    with pytest.raises(ConfigError, match="at least that of the split, 48, got 12"):
        same_targets(longest, 12)


def test_frames_to_learn_by_hand() -> None:
    recordings = [waves(frames=2300), waves(frames=900, session="other")]
    assert split(recordings, protocol="published").frames_to_learn == (800 + 1040, 720)
    assert split(recordings).frames_to_learn == (1840, 720)


def test_one_recording_is_as_good_as_a_list_of_one() -> None:
    assert split(waves("a")).key == split([waves("a")]).key


def test_a_number_of_numpy_is_as_good_as_a_plain_one() -> None:
    cut = split(waves("a"), context=np.int64(24), horizon=np.int16(8))  # type: ignore[arg-type]
    assert cut.key == split(waves("a"), context=24, horizon=8).key


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="protocol must be one of leak-free, published, got 'fair'"):
        split([waves()], protocol="fair")
    with pytest.raises(ConfigError, match="horizon"):
        split([waves()], horizon=0)
    with pytest.raises(ConfigError, match="context must be a whole number, got 48"):
        split([waves()], context=48.5)  # type: ignore[arg-type]
    cut = split([waves()])
    with pytest.raises(ConfigError, match="part must be one of train, val, test, got 'dev'"):
        cut.windows("dev")
    with pytest.raises(ConfigError, match="stride"):
        cut.windows("test", stride=0)
    with pytest.raises(DataError, match="no session 'z' here: the sessions are a"):
        cut.session_index("z")


def test_fingerprint_tells_recordings_apart() -> None:
    recording = counted(frames=100)
    assert fingerprint(recording) == fingerprint(counted(frames=100))
    activity = recording.activity.copy()
    activity[1, 50] += 1
    assert fingerprint(Recording(activity, "a")) != fingerprint(recording)
    assert fingerprint(counted(frames=100, unit_ids=("x", "y"))) != fingerprint(recording)
