"""poco.data.checks: recordings that cannot be used are refused in one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recordings import waves

from poco.data.checks import check
from poco.data.read import read
from poco.data.recording import Recording, fingerprint
from poco.data.splits import split
from poco.data.write import write
from poco.errors import ConfigError, DataError


def refused(*recordings: Recording, context: int = 48, horizon: int = 16) -> str:
    with pytest.raises(DataError) as caught:
        check(recordings, context=context, horizon=horizon)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(index: object, value: float) -> Recording:
    recording = waves()
    activity = recording.activity.copy()
    activity[index] = value
    return Recording(activity, "a")


def test_good_recordings_pass() -> None:
    recordings = [waves("a"), waves("b", units=3, frames=64)]
    assert check(recordings, context=48, horizon=16) == recordings


def test_nan_and_infinite_values() -> None:
    message = refused(changed((slice(2, 4), 17), np.nan))
    assert "session 'a': 2 NaN or infinite values in 2 units ('2', '3'), over 1 frame:" in message
    assert "(--nan drop, or nan='drop')" in message
    assert "1 NaN or infinite value in unit '4'" in refused(changed((4, 0), -np.inf))


def test_nan_outside_the_stretches_is_no_concern() -> None:
    activity = waves().activity.copy()
    activity[:, 200:210] = np.nan
    check([Recording(activity, "a", stretches=((0, 200), (210, 400)))], context=48, horizon=16)


def test_activity_that_float32_cannot_hold() -> None:
    activity = waves().activity.astype(np.float64)
    with pytest.raises(DataError, match=r"session 'a' holds .*e.30\d, which does not fit float32: scale or repair it"):
        Recording(activity * 1e300, "a")
    for far in (activity + 1e9, (activity + 2**40).astype(np.int64)):
        with pytest.raises(DataError, match=r"5 units .0, 1, 2, 3, 4. lie so far from 0.*subtract the offset"):
            Recording(far, "a")
    exact = np.arange(400)[None] + 1_000_000
    np.testing.assert_array_equal(Recording(exact, "a").activity, exact)


def test_what_a_mask_hides_is_missing() -> None:
    activity = waves().activity
    with pytest.raises(DataError, match="activity must be numbers, got dtype complex64"):
        Recording(np.ma.masked_array(activity * 1j), "a")
    hidden = Recording(np.ma.masked_array(activity, activity > 5), "a").activity
    np.testing.assert_array_equal(hidden, np.where(activity > 5, np.nan, activity))
    numbers = np.ma.masked_array([[1, 2, 3]], [[False, True, False]])
    np.testing.assert_array_equal(Recording(numbers, "a").activity, np.array([[1, np.nan, 3]], np.float32))


@pytest.mark.parametrize("activity", [[[1, 2], [3]], torch.zeros(2, 3, requires_grad=True)])
def test_no_array(activity: Any) -> None:
    with pytest.raises(DataError, match="session 'a': activity is no array, units x frames: "):
        Recording(activity, "a")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"labels": ["V1"] * 5}, "labels are given by name"),
        ({"channels": [np.zeros(400)]}, "channels are given by name"),
        ({"rate_hz": True}, "rate_hz must be a positive number, got True"),
        ({"session": None}, "a recording needs a session name, got None"),
        ({"session": 2.5}, "a recording needs a session name, got 2.5"),
    ],
)
def test_what_a_recording_is_not_made_of(given: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Recording(**{"activity": waves().activity, "session": "a", **given})


def test_numbers_as_names_are_text() -> None:
    named = Recording(waves().activity, 7, subject=3, dataset=1)  # type: ignore[arg-type]
    assert (named.session, named.subject, named.dataset) == ("7", "3", "1")


def test_constant_unit() -> None:
    message = refused(changed(3, 1.5))
    assert "unit '3' never changes:" in message
    assert "(--constant drop, or constant='drop')" in message


def test_too_few_frames() -> None:
    assert refused(waves("a", frames=63)).endswith("some 320: train with a shorter context or horizon")
    says = refused(waves("a", frames=63), waves("b"))
    assert says.startswith(
        "session 'a': 63 frames, but one window takes 64 (context 48 + horizon 16), and training or adapting some 320:"
    )
    assert says.endswith("or leave the session out (--without a)")
    assert "20 frames of 30 units (is the orientation right?), but" in refused(waves(units=30, frames=20))
    trials = waves(frames=400, stretches=tuple((i, i + 40) for i in range(0, 400, 40)))
    assert "no stretch above 40 frames, but one window takes 64" in refused(trials)


def test_no_recordings_and_repeated_names() -> None:
    assert "no recordings" in refused()
    assert "session 'a' occurs more than once: give" in refused(waves("a"), waves("a", seed=1))
    read = [waves("a", seed=seed, provenance={"file": f"d/{seed}/a.npy"}) for seed in (1, 2)]
    message = refused(*read)
    assert "in d/1/a.npy and d/2/a.npy" in message
    assert 'name = "{folder}-{stem}" in dataset.toml under [sessions]' in message


def test_a_rate_is_a_number() -> None:
    for rate in ("5", 0, float("nan")):
        with pytest.raises(DataError, match="session 'a': rate_hz must be a positive number, got"):
            Recording(np.zeros((3, 5)), "a", rate_hz=rate)  # type: ignore[arg-type]


def test_values_of_other_kinds_are_made_plain_or_refused(tmp_path: Path) -> None:
    plain = waves("a", units=3, frames=64, stretches=((0, 40), (40, 64)))
    given: dict[str, Any] = {
        "stretches": np.array([[0, 40], [40, 64]]),
        "rate_hz": np.float32(2),
        "labels": {"region": np.array(["x", "", "y"]), "layer": [1, None, 2]},
        "coordinates": [[1, 2]] * 3,
        "channels": {"lick": [0] * 64},
    }
    found = Recording(plain.activity, "a", **given)
    assert fingerprint(found) == fingerprint(plain)
    assert found.labels == {"region": ("x", "", "y"), "layer": ("1", "", "2")}
    write([found], tmp_path)  # as JSON, which knows plain values alone
    (again,) = read(tmp_path)
    assert (again.stretches, again.rate_hz, again.labels) == (plain.stretches, 2.0, found.labels)
    wrong: tuple[tuple[str, Any], ...] = (
        ("stretches", [0, 40]),
        ("stretches", [(0, 40.5)]),
        ("coordinates", [["x", "y"]] * 3),
        ("channels", {"lick": [1j] * 64}),
    )
    for name, value in wrong:
        with pytest.raises(DataError, match=r"^session 'a': (stretches are|(coord.*|channel 'lick') must be)"):
            Recording(plain.activity, "a", **{name: value})


def test_rates_of_one_data_set_must_agree() -> None:
    message = refused(waves("a", rate_hz=2.0), waves("b", rate_hz=10.0))
    assert "session 'b' has 10 frames a second, session 'a' 2" in message
    two_sets = [waves("a", rate_hz=2.0, dataset="fish"), waves("b", rate_hz=10.0, dataset="mouse"), waves("c")]
    first, second, third = check(two_sets, context=48, horizon=16)
    assert (first, third) == (two_sets[0], two_sets[2])
    says = "data set 'mouse' has 10 frames a second, data set 'fish' 2: a frame does not mean the same time in both"
    assert second.warnings == (says,)


def test_rates_that_differ_a_little_carry_a_warning() -> None:
    first, second = check([waves("a", rate_hz=1.667), waves("b", rate_hz=1.357)], context=48, horizon=16)
    assert first.warnings == ()
    assert len(second.warnings) == 1
    assert "1.357" in second.warnings[0]


def test_the_odd_one_out_is_told_not_all_the_others() -> None:
    rates = (1.357, 1.667, 1.667)
    checked = check([waves(str(i), rate_hz=rate) for i, rate in enumerate(rates)], context=48, horizon=16)
    assert [len(recording.warnings) for recording in checked] == [1, 0, 0]


def test_one_recording_under_two_names_carries_a_warning() -> None:
    first = waves("a")
    second = Recording(first.activity.copy(), "b", unit_ids=tuple("vwxyz"), dataset="other")
    checked = check([first, second, waves("c")], context=48, horizon=16)
    assert [len(recording.warnings) for recording in checked] == [0, 1, 0]
    assert "session 'b' has the same activity as session 'a'" in checked[1].warnings[0]
    assert checked[1].warnings[0] in split([first, second]).warnings


@pytest.mark.parametrize(("context", "horizon"), [(0, 16), (48, -1)])
def test_impossible_sizes(context: int, horizon: int) -> None:
    with pytest.raises(ConfigError):
        check([waves()], context=context, horizon=horizon)


def test_frames_without_any_value() -> None:
    holes = waves(frames=200).activity.copy()
    holes[:, 50:53] = np.nan
    whole = Recording(holes, "a")
    assert "3 frames without a value of any unit: end stretches there when reading (--nan cut" in refused(whole)
    holes = holes.copy()
    holes[1, 100] = np.nan
    message = refused(Recording(holes, "a"))
    assert "16 NaN or infinite values in unit '1', over 4 frames, 3 of them without a value of any unit" in message
    cut = Recording(whole.activity, "a", stretches=((0, 50), (53, 200)))
    found = split([cut], context=8, horizon=4)
    assert np.isfinite(found.std[0]).all()
