"""Training, validation and test parts of recordings, and the statistics that normalise them.

Two protocols. ``leak-free``, the default: each session is cut once in time, 60/20/20, and mean and standard deviation
come from the training part alone. ``published``: what the published code does, to compare numbers with it; statistics
come from the whole session, and each block of 1000 frames is cut 60/20/20.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from poco.data.checks import as_recordings, check, ways_when_short
from poco.data.recording import Recording, fingerprint, warnings_of
from poco.data.segments import Segments, between, frames_of, joined, least_frames, window_count, within
from poco.data.statistics import check_deviation, check_epsilon, statistics
from poco.errors import ConfigError, DataError
from poco.fields import check_kind
from poco.sizes import CONTEXT, HORIZON
from poco.wording import counted, enumerated

Protocol = Literal["leak-free", "published"]
Part = Literal["train", "val", "test"]

PROTOCOLS: tuple[str, ...] = get_args(Protocol)
PARTS: tuple[str, ...] = get_args(Part)
#: Rows (windows times units) that are enough to judge a forecaster by while it is made.
ROWS_TO_JUDGE = 2**20

_BLOCK = 1000  # frames, published protocol
_EPSILON = 1e-4  # added to the standard deviation, published protocol
_PART_NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of several sessions.

    Attributes:
        session: ``[W]`` int64, index of the session among the recordings of the split.
        start: ``[W]`` int64, first frame of the context.
    """

    session: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return int(self.session.size)

    def __repr__(self) -> str:
        of = counted(len(np.unique(self.session)), "session")
        return f"<Windows: {counted(len(self), 'window')} of {of}>"

    def __getitem__(self, where: slice | np.ndarray) -> Windows:
        """Those at these places, or where this is true."""
        return Windows(self.session[where], self.start[where])


@dataclass(frozen=True, eq=False)
class Split:
    """Recordings cut into training, validation and test parts, with the statistics that normalise each unit.

    Attributes:
        protocol: ``"leak-free"`` or ``"published"``.
        context: frames a forecast is made from.
        horizon: frames that are forecast.
        recordings: the sessions, in order; a session's index is its place here.
        mean: per session ``[N]`` float32; normalised activity is ``(activity - mean) / std``.
        std: per session ``[N]`` float32, the divisor (the published protocol has added 1e-4 to the deviation).
        segments: for each part and session the frame ranges ``(start, stop)`` that belong to the part.
        warnings: what a person should know about the split, one line each.
    """

    protocol: str
    context: int
    horizon: int
    recordings: tuple[Recording, ...]
    mean: tuple[np.ndarray, ...]
    std: tuple[np.ndarray, ...]
    segments: Mapping[str, tuple[Segments, ...]]
    warnings: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        of = counted(len(self.recordings), "session")
        units = counted(sum(recording.units for recording in self.recordings), "unit")
        count = functools.partial(window_count, context=self.context, horizon=self.horizon, protocol=self.protocol)
        windows = ", ".join(f"{sum(map(count, self.segments[part]))} {part}" for part in PARTS)
        sizes = f"context {self.context}, horizon {self.horizon}"
        return f"<Split of {of} with {units}: {self.protocol}, {sizes}, windows {windows}>"

    def windows(self, part: str, stride: int = 1) -> Windows:
        """All windows that lie within one part, session after session, in order of time.

        Args:
            part: ``"train"``, ``"val"`` or ``"test"``.
            stride: frames from one window of a segment to the next.

        Raises:
            ConfigError: for an unknown part or a stride below 1.
        """
        if part not in PARTS:
            raise ConfigError(f"part must be one of {', '.join(PARTS)}, got '{part}'")
        if stride < 1:
            raise ConfigError(f"stride must be at least 1 frame, got {stride}")
        sessions, starts = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for session, segments in enumerate(self.segments[part]):
            for first, stop in segments:
                count = window_count(((first, stop),), self.context, self.horizon, self.protocol)
                start = np.arange(first, first + count, stride, dtype=np.int64)
                starts.append(start)
                sessions.append(np.full(start.size, session, dtype=np.int64))
        return Windows(np.concatenate(sessions), np.concatenate(starts))

    def stride(self, part: str, rows: int = ROWS_TO_JUDGE) -> int:
        """Frames from one window of a part to the next for all of them to hold at most about so many rows.

        Rows are windows times units. Windows that start a frame apart say much the same, so of a large recording some
        are enough to judge a forecaster by while it is made.
        """
        units = np.array([recording.units for recording in self.recordings], dtype=np.int64)
        return max(1, -(-int(units[self.windows(part).session].sum()) // rows))

    def windows_to_judge(self, part: str) -> Windows:
        """All windows of the test part; of another part as many as are enough, see :meth:`stride`."""
        return self.windows(part, 1 if part == "test" else self.stride(part))

    def spaced_windows(self, part: str, session: int, count: int) -> Windows:
        """At most ``count`` windows of one session (its index), spaced evenly over a part, in order of time."""
        own = (windows := self.windows(part))[windows.session == session]
        return own[np.unique(np.linspace(0, len(own) - 1, count).astype(int))]

    def session_index(self, name: str) -> int:
        """Index of a session by name; a DataError names the sessions there are."""
        names = [recording.session for recording in self.recordings]
        if name not in names:
            raise DataError(f"there is no session '{name}' here: the sessions are {enumerated(names)}")
        return names.index(name)

    @property
    def validates(self) -> bool:
        """Whether validation has frames of its own, which :func:`shorten` may leave it without."""
        return self.segments["val"] != self.segments["train"]

    @property
    def frames_to_learn(self) -> tuple[int, ...]:
        """Of each session, frames of the training and validation parts."""
        each = zip(self.segments["train"], self.segments["val"], strict=True)
        return tuple(frames_of((*train, *val)) for train, val in each)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets, in order of first appearance."""
        return tuple(dict.fromkeys(recording.dataset for recording in self.recordings))

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of what a forecaster is fitted to: recordings, training and validation parts, statistics, sizes."""
        digest = hashlib.sha256(self._learnt_from.encode())
        for values in (*self.mean, *self.std):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    @functools.cached_property
    def key_of_frames(self) -> str:
        """The same without the statistics, which another machine may round in another way."""
        return hashlib.sha256(self._learnt_from.encode()).hexdigest()

    @functools.cached_property
    def _learnt_from(self) -> str:
        sizes = (self.protocol, self.context, self.horizon, self.segments["train"], self.segments["val"])
        return repr((sizes, [(r.session, r.dataset, fingerprint(r)) for r in self.recordings]))

    @functools.cached_property
    def inverse_std(self) -> tuple[np.ndarray, ...]:
        """Per session ``[N]`` float32, ``1 / std``."""
        return tuple((1.0 / std.astype(np.float64)).astype(np.float32) for std in self.std)


def check_protocol(name: str) -> None:
    """Raises ConfigError if there is no such protocol."""
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol must be one of {', '.join(PROTOCOLS)}, got '{name}'")


def split(
    recordings: Recording | Sequence[Recording],
    *,
    protocol: str = "leak-free",
    context: int = CONTEXT,
    horizon: int = HORIZON,
) -> Split:
    """Cut recordings into parts and compute the statistics that normalise them.

    Args:
        recordings: the sessions, in order, or one.
        protocol: ``"leak-free"`` (statistics from the training part, one cut in time) or ``"published"``.
        context: frames a forecast is made from.
        horizon: frames that are forecast.

    Returns:
        The split. Windows never straddle two parts or two stretches of a recording.

    Raises:
        ConfigError: for an unknown protocol, or a context or horizon that is no whole number above 0.
        DataError: if the recordings do not pass :func:`poco.data.checks.check`, a session is too short to have a
            window in every part, or a unit is constant in the training part (leak-free).
    """
    check_protocol(protocol)
    check_kind("context", context, int)
    check_kind("horizon", horizon, int)
    context, horizon = int(context), int(horizon)  # the key of a split is made of their text
    if horizon < 1:
        raise ConfigError(f"horizon must be at least 1 frame, got {horizon}")
    checked = tuple(check(as_recordings(recordings), context=context, horizon=horizon))
    cut = _published_segments if protocol == "published" else _leak_free_segments
    per_session = [cut(recording) for recording in checked]
    segments = {part: tuple(parts[part] for parts in per_session) for part in PARTS}
    for index, recording in enumerate(checked):
        own = {part: segments[part][index] for part in PARTS}
        _check_windows(recording, own, context, horizon, protocol, alone=len(checked) == 1)
    means, stds, warnings = [], [], []
    for index, recording in enumerate(checked):
        if protocol == "published":
            mean, std = statistics(recording, recording.stretches)
            warnings += check_epsilon(recording, std, _EPSILON)
            std = std + _EPSILON
        else:
            mean, std = statistics(recording, segments["train"][index])
            warnings += check_deviation(recording, std)
        means.append(mean.astype(np.float32))
        stds.append(std.astype(np.float32))
    return Split(
        protocol, context, horizon, checked, tuple(means), tuple(stds), segments, (*warnings_of(checked), *warnings)
    )


def shorten(cut: Split, frames: int) -> Split:
    """The same test part with little to learn from: the last ``frames`` frames of training and validation parts.

    Three quarters of them are for training, the rest for validation; where that leaves no window for both, all of them
    are for both. Under the leak-free protocol mean and deviation are taken from the frames for training, and as errors
    are of normalised activity, scores of other numbers of frames weigh the units otherwise: compare those under the
    published protocol, where the statistics are always of the whole session.

    Args:
        cut: a split.
        frames: frames of each session, at least ``context + horizon``, under the published protocol one more.

    Raises:
        ConfigError: if they are too few for a window.
        DataError: if no window lies within those of a session, or a unit is constant in them (leak-free).
    """
    length, least = cut.context + cut.horizon, least_frames(cut.context, cut.horizon, cut.protocol)
    if frames < least:
        raise ConfigError(
            f"{frames} frames hold no window of {length} (context {cut.context} + horizon {cut.horizon}) of the "
            f"{cut.protocol} split: give {least} or more"
        )
    per_session: list[dict[str, Segments]] = []
    means, stds = list(cut.mean), list(cut.std)
    for index, recording in enumerate(cut.recordings):
        pool = joined((*cut.segments["train"][index], *cut.segments["val"][index]))
        end = frames_of(pool)
        first = max(0, end - frames)
        middle = end - (end - first) // 4
        own = {"train": between(pool, first, middle), "val": between(pool, middle, end)}
        if not all(window_count(some, cut.context, cut.horizon, cut.protocol) for some in own.values()):
            own = dict.fromkeys(own, between(pool, first, end))
        own["test"] = cut.segments["test"][index]
        _check_windows(recording, own, cut.context, cut.horizon, cut.protocol, alone=len(cut.recordings) == 1)
        per_session.append(own)
        if cut.protocol != "published":
            mean, std = statistics(recording, own["train"])
            check_deviation(recording, std)
            means[index], stds[index] = mean.astype(np.float32), std.astype(np.float32)
    segments = {part: tuple(own[part] for own in per_session) for part in PARTS}
    return replace(cut, mean=tuple(means), std=tuple(stds), segments=segments)


def same_targets(cut: Split, longest: int) -> Split:
    """The same split, its validation and test windows those whose forecasts begin where the longest context allows.

    Splits of shorter contexts have more windows, which begin earlier in each part: after this those of all contexts up
    to ``longest`` forecast the same frames.

    Args:
        cut: a split of any such context.
        longest: frames of the longest one.

    Raises:
        ConfigError: if the context of the split is longer than that.
        DataError: if a session has no window of the longest context in one of the parts.
    """
    if cut.context > longest:
        raise ConfigError(f"the longest context must be at least that of the split, {cut.context}, got {longest}")
    for index, recording in enumerate(cut.recordings):
        own = {part: cut.segments[part][index] for part in PARTS}
        _check_windows(recording, own, longest, cut.horizon, cut.protocol, alone=len(cut.recordings) == 1)
    later = longest - cut.context
    segments = {
        part: each
        if part == "train"
        else tuple(tuple((start + later, stop) for start, stop in own if start + later < stop) for own in each)
        for part, each in cut.segments.items()
    }
    return replace(cut, segments=segments)


def _leak_free_segments(recording: Recording) -> dict[str, Segments]:
    """One cut in time, 60/20/20 of the frames that the stretches cover."""
    covered = frames_of(recording.stretches)
    borders = (0, covered * 6 // 10, covered * 8 // 10, covered)
    return {part: between(recording.stretches, *borders[place : place + 2]) for place, part in enumerate(PARTS)}


def _published_segments(recording: Recording) -> dict[str, Segments]:
    """Blocks of 1000 frames, the last with the rest, each cut 60/20/20, with the published rounding."""
    blocks = max(1, recording.frames // _BLOCK)
    parts: dict[str, Segments] = dict.fromkeys(PARTS, ())
    for block in range(blocks):
        start = block * _BLOCK
        stop = recording.frames if block == blocks - 1 else start + _BLOCK
        length = stop - start
        borders = (start, start + int(0.6 * length), start + int((0.6 + 0.2) * length), stop)
        for place, part in enumerate(PARTS):
            parts[part] += within(recording.stretches, *borders[place : place + 2])
    return parts


def _check_windows(
    recording: Recording, parts: Mapping[str, Segments], context: int, horizon: int, protocol: str, *, alone: bool
) -> None:
    for part, segments in parts.items():
        if not window_count(segments, context, horizon, protocol):
            raise DataError(
                f"session '{recording.session}': {recording.frames} frames leave no window of {context + horizon} "
                f"(context {context} + horizon {horizon}) in the {_PART_NAMES[part]} part of the {protocol} split: "
                f"{5 * least_frames(context, horizon, protocol)} frames without a gap are enough; or "
                f"{ways_when_short(recording, alone=alone)}"
            )
