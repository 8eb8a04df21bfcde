"""One recorded session: activity of all units over time, and what is known about them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from operator import index

import numpy as np

from poco.data.origin import Origin
from poco.data.rounding import as_float32, check_rounding, real_numbers
from poco.errors import DataError
from poco.wording import at_rate, counted


@dataclass(frozen=True, eq=False)
class Recording:
    """Activity of the units of one session.

    Attributes:
        activity: ``[N, T]`` float32, units by frames, in the recording's own units. NaN marks missing, as does a mask
            of numpy. An array that is float32 already is taken as it is, not copied.
        session: name of the session, unique among the recordings used together.
        rate_hz: frames a second, or None where the source does not say.
        unit_ids: ``N`` names, unique within the session. Default ``"0", "1", ...``.
        subject: name of the animal; sessions of one animal share it. Default: the session's name.
        dataset: name of the data set (species, laboratory, preparation) that the session belongs to.
        labels: per-unit labels by name, each ``N`` strings (``"region"``, ``"cell_class"``, ...); "" is unknown.
        coordinates: ``[N, 2]`` or ``[N, 3]`` float32 positions, or None.
        channels: stimulus and behaviour by name, each ``[T]`` or ``[T, k]`` float32, in step with the frames.
        stretches: contiguous frame ranges ``(start, stop)``; a window never crosses from one to another.
            Default: one stretch over the whole recording. Trials and gaps in time end a stretch.
        provenance: where the recording came from (file, reader, key, indicator, licence, ...), all text.
        warnings: what the reader noticed and a person should know, one line each.
        origin: path and options that :func:`poco.read` read it with, or None.

    Raises:
        DataError: if shapes, names or stretches do not fit together, or float32 cannot hold the activity.
    """

    activity: np.ndarray
    session: str
    rate_hz: float | None = None
    unit_ids: tuple[str, ...] = ()
    subject: str = ""
    dataset: str = "default"
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    coordinates: np.ndarray | None = None
    channels: Mapping[str, np.ndarray] = field(default_factory=dict)
    stretches: tuple[tuple[int, int], ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    origin: Origin | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.session, int | np.integer):
            object.__setattr__(self, "session", str(self.session))
        activity = self._array()
        if activity.ndim != 2 or 0 in activity.shape:
            raise DataError(
                f"session '{self.session}': activity must be units x frames, got shape {tuple(activity.shape)}"
            )
        if activity.dtype.kind not in "fiub":
            raise DataError(f"session '{self.session}': activity must be numbers, got dtype {activity.dtype}")
        units, frames = activity.shape
        unit_ids = tuple(map(str, self.unit_ids)) or tuple(map(str, range(units)))
        where = f"session '{self.session}'"
        taken, rounded = as_float32(activity, where)
        if len(unit_ids) == units:  # else that is said below
            check_rounding(taken, unit_ids, rounded, self.session)
        object.__setattr__(self, "activity", np.ascontiguousarray(taken))
        object.__setattr__(self, "unit_ids", unit_ids)
        object.__setattr__(self, "subject", str(self.subject or self.session))
        object.__setattr__(self, "dataset", str(self.dataset))
        object.__setattr__(self, "stretches", self._ranges() or ((0, frames),))
        if isinstance(self.rate_hz, np.generic):
            object.__setattr__(self, "rate_hz", self.rate_hz.item())
        for what, given in (("labels", self.labels), ("channels", self.channels)):
            if not isinstance(given, Mapping):
                raise DataError(f"{where}: {what} are given by name, {{name: values}}, got {given!r:.40}")
        labels = {name: tuple("" if one is None else str(one) for one in own) for name, own in self.labels.items()}
        object.__setattr__(self, "labels", labels)
        if self.coordinates is not None:
            object.__setattr__(self, "coordinates", real_numbers(self.coordinates, f"{where}: coordinates"))
        channels = {name: real_numbers(values, f"{where}: channel '{name}'") for name, values in self.channels.items()}
        object.__setattr__(self, "channels", channels)
        self._check()

    def __repr__(self) -> str:
        size = f"{counted(self.units, 'unit')} x {counted(self.frames, 'frame')}"
        parts = f", {len(self.stretches)} stretches" if len(self.stretches) > 1 else ""
        return f"<Recording '{self.session}': {size}, {at_rate(self.rate_hz)}{parts}>"

    def _array(self) -> np.ndarray:
        """The activity as an array; what a mask hides is NaN."""
        try:
            if isinstance(self.activity, np.ma.MaskedArray) and self.activity.dtype.kind in "fiub":
                return np.ma.filled(self.activity.astype(np.float64), np.nan)
            return np.asarray(self.activity)
        except (TypeError, ValueError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            raise DataError(f"session '{self.session}': activity is no array, units x frames: {why}") from error

    def _ranges(self) -> tuple[tuple[int, int], ...]:
        """The stretches as plain numbers, by which the same data have the same fingerprint."""
        try:
            return tuple((index(start), index(stop)) for start, stop in self.stretches)
        except (TypeError, ValueError):
            raise DataError(
                f"session '{self.session}': stretches are pairs of frames (start, stop), got {self.stretches!r}"
            ) from None

    def _check(self) -> None:
        where = f"session '{self.session}'"
        if not self.session or not isinstance(self.session, str):
            raise DataError(f"a recording needs a session name, got {self.session!r}")
        rate = self.rate_hz
        if rate is not None and not (
            isinstance(rate, Real) and not isinstance(rate, bool) and np.isfinite(rate) and rate > 0
        ):
            raise DataError(f"{where}: rate_hz must be a positive number, got {rate!r}")
        if len(self.unit_ids) != self.units:
            raise DataError(f"{where}: {len(self.unit_ids)} unit ids for {self.units} units")
        if len(set(self.unit_ids)) != self.units:
            repeated = Counter(self.unit_ids).most_common(1)[0][0]
            places = ", ".join(str(i) for i, unit in enumerate(self.unit_ids) if unit == repeated)
            raise DataError(
                f"{where}: unit id '{repeated}' occurs more than once, of units {places} (counted from 0): give each "
                "a name of its own in the file"
            )
        for name, labels in self.labels.items():
            if len(labels) != self.units:
                raise DataError(f"{where}: {len(labels)} labels '{name}' for {self.units} units")
        if self.coordinates is not None and (
            self.coordinates.ndim != 2
            or self.coordinates.shape[0] != self.units
            or self.coordinates.shape[1] not in (2, 3)
        ):
            raise DataError(f"{where}: coordinates must be [{self.units}, 2 or 3], got {self.coordinates.shape}")
        for name, channel in self.channels.items():
            if channel.ndim not in (1, 2) or channel.shape[0] != self.frames:
                raise DataError(
                    f"{where}: channel '{name}' must be [{self.frames}] or [{self.frames}, k], got {channel.shape}"
                )
        end = 0
        for start, stop in self.stretches:
            if not end <= start < stop <= self.frames:
                raise DataError(
                    f"{where}: stretch ({start}, {stop}) is empty, out of order or outside the {self.frames} frames"
                )
            end = stop

    @property
    def units(self) -> int:
        """Number of units ``N``."""
        return int(self.activity.shape[0])

    @property
    def frames(self) -> int:
        """Number of frames ``T``."""
        return int(self.activity.shape[1])

    @property
    def is_neural(self) -> bool:
        """Whether it is neural activity, and no control, by its description."""
        return self.provenance.get("neural") != "no"


def warnings_of(recordings: Sequence[Recording]) -> list[str]:
    """Warnings of the recordings, each once, with the session or the number of sessions that it is about."""
    sessions: dict[str, list[str]] = {}
    for recording in recordings:
        for warning in recording.warnings:
            sessions.setdefault(warning, []).append(recording.session)
    return [
        warning
        if warning.startswith("session '")
        else f"session '{names[0]}': {warning}"
        if len(names) == 1
        else f"{len(names)} sessions: {warning}"
        for warning, names in sessions.items()
    ]


def fingerprint(recording: Recording) -> str:
    """SHA-256 of a session's activity, shape, unit ids and stretches: the same data give the same text."""
    digest = hashlib.sha256()
    digest.update(repr((recording.activity.shape, recording.unit_ids, tuple(recording.stretches))).encode())
    digest.update(np.ascontiguousarray(recording.activity).data)
    return digest.hexdigest()
