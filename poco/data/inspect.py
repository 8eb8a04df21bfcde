"""What the readers see in a file or folder: sessions, sizes, rates, missing values, labels, channels, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poco.data import session as sessions
from poco.data.checks import activity_key, same_activity, way_without_nan
from poco.data.read import Job, read
from poco.data.recording import Recording
from poco.errors import DataError, PocoError
from poco.sizes import CONTEXT, HORIZON
from poco.words import counted

WINDOW = CONTEXT + HORIZON
"""Frames of a default window, context and horizon together."""
_WINDOW = f"{WINDOW} ({CONTEXT} + {HORIZON})"


@dataclass(frozen=True)
class SessionReport:
    """One session as the reader sees it.

    Attributes:
        session, subject, dataset, file, format, key: where it comes from.
        error: why it cannot be read, "" if it can; then the other fields are empty.
        units, frames: size in the file.
        units_used: units that are left after those that the description drops.
        rate_hz: frames a second, None if not stated.
        duration_s: seconds from the first to the end of the last frame, None if not known.
        low, high: range of the finite values in use, None if there are none.
        nan_values, infinite_values: counts in the file.
        nan_units, constant_units: numbers (from 0, in the file) of units with NaN or infinite values, and of those that
            never change.
        labels: by name: ``labelled`` units and ``classes``, numbers of different labels, among the units in use.
        coordinates: number of axes, 0 for none.
        channels: by name: values a frame.
        drift: fraction of the units whose mean shifts by more than a standard deviation from first to last fifth.
        stretches: number of contiguous stretches, and ``longest_stretch`` in frames.
        neural: False for a control that is not neural activity.
        provenance: what else the reader knows.
        activity: a text that sessions of the same activity share.
        warnings: one line each.
    """

    session: str
    subject: str = ""
    dataset: str = ""
    file: str = ""
    format: str = ""
    key: str = ""
    error: str = ""
    units: int = 0
    frames: int = 0
    units_used: int = 0
    rate_hz: float | None = None
    duration_s: float | None = None
    low: float | None = None
    high: float | None = None
    nan_values: int = 0
    infinite_values: int = 0
    nan_units: tuple[int, ...] = ()
    constant_units: tuple[int, ...] = ()
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    coordinates: int = 0
    channels: Mapping[str, int] = field(default_factory=dict)
    drift: float = 0.0
    stretches: int = 0
    longest_stretch: int = 0
    neural: bool = True
    provenance: Mapping[str, str] = field(default_factory=dict)
    activity: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """All sessions that a path holds.

    Attributes:
        path: what was inspected.
        dataset: name of the data set, or of those that the sessions belong to, with commas between them.
        description: where the description was found, "" for none.
        facts: species, indicator, licence, ... as described.
        notes: from the description.
        sessions: one report each.
        warnings: what concerns more than one session.
    """

    path: str
    dataset: str
    description: str
    facts: Mapping[str, str]
    notes: tuple[str, ...]
    sessions: tuple[SessionReport, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return _plain(asdict(self))

    def to_text(self) -> str:
        """Everything a person wants to see at first, as plain text."""
        return "\n".join([*self._head(), "", *self._table(), *self._more()])

    def _head(self) -> list[str]:
        lines = [self.path, f"data set     {self.dataset}"]
        lines += [f"{name:<12} {value}" for name, value in self.facts.items()]
        lines.append(f"description  {self.description or 'none: only what the files say themselves'}")
        return lines

    def _table(self) -> list[str]:
        header = ("session", "units x frames", "used", "rate", "duration", "range", "NaN", "constant", "stretches")
        rows = [header] + [_row(report) for report in self.sessions if not report.error]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines = lines if len(rows) > 1 else []
        return lines + [f"{report.session}  CANNOT BE READ: {report.error}" for report in self.sessions if report.error]

    def _more(self) -> list[str]:
        good = [report for report in self.sessions if not report.error]
        lines: list[str] = []
        by_key: dict[str, list[str]] = {}
        for report in good:
            if report.key:
                by_key.setdefault(report.key, []).append(report.session)
        lines += [""] if by_key else []
        lines += [f"array        {key}{_which(owners, len(good))}" for key, owners in by_key.items()]
        by_clock: dict[str, list[str]] = {}
        for report in good:
            if "times" in report.provenance:
                by_clock.setdefault(report.provenance["times"], []).append(report.session)
        lines += [f"times        {source}{_which(owners, len(good))}" for source, owners in by_clock.items()]
        if any(report.labels for report in good):
            lines += ["", "labels (units labelled, classes)"]
        for report in good:
            if report.labels:
                shown = ", ".join(f"{name} {v['labelled']} ({v['classes']})" for name, v in report.labels.items())
                lines.append(f"  {report.session}: {shown}")
        placed = [report for report in good if report.coordinates]
        if placed:
            lines += ["", f"coordinates  {placed[0].coordinates}-D{_which([r.session for r in placed], len(good))}"]
        names = list(dict.fromkeys(name for report in good for name in report.channels))
        if names:
            lines += ["", "channels (stimulus and behaviour)"]
        for name in names:
            having = [report for report in good if name in report.channels]
            width = having[0].channels[name]
            lines.append(
                f"  {name}{f' x {width}' if width > 1 else ''}{_which([r.session for r in having], len(good))}"
            )
        by_line: dict[str, list[str]] = {}
        for report in good:
            for warning in report.warnings:
                by_line.setdefault(warning, []).append(report.session)
        warnings = list(self.warnings) + [line + _which(owners, len(good)) for line, owners in by_line.items()]
        if warnings:
            lines += ["", "warnings"] + [f"  {line}" for line in warnings]
        if self.notes:
            lines += ["", "notes"] + [f"  {line}" for line in self.notes]
        return lines


def inspect(
    path: str | Path,
    *,
    description: str | Path | Mapping[str, Any] | None = None,
    published: str | None = None,
    **options: Any,
) -> Inspection:
    """Look at all sessions in a file or folder; a session that cannot be read is reported, the others still are.

    Args:
        path: a file or folder.
        description: as in ``poco.data.read.read``.
        published: as in ``poco.data.read.read``.
        **options: as in ``poco.data.read.read``.

    Raises:
        DataError: if the path or its description cannot be used at all, or the only session cannot be read.
    """
    if published is not None:
        return _inspect_published(published, path, {**options, "description": description})
    job = Job(Path(path), description, options)
    reports = [_try(job, plan) for plan in job.plans]
    found = job.description
    return Inspection(
        path=str(path),
        dataset=", ".join(dict.fromkeys(r.dataset for r in reports if not r.error)) or found.name or "default",
        description=found.origin,
        facts=found.facts,
        notes=found.notes,
        sessions=tuple(reports),
        warnings=tuple(_across(reports)),
    )


def _inspect_published(name: str, path: str | Path, options: Mapping[str, Any]) -> Inspection:
    from poco.published.registry import files

    found = files(name, path)
    reports = [report for file in found for report in _try_published(name, file, options, alone=len(found) == 1)]
    description = f"the published files of {name}"
    return Inspection(str(path), name, description, {}, (), tuple(reports), tuple(_across(reports)))


def _try_published(name: str, file: Path, options: Mapping[str, Any], *, alone: bool) -> list[SessionReport]:
    """Reports of the sessions of a published file, or of why it cannot be read if it is not alone."""
    try:
        return [_report(sessions.as_loaded(one)) for one in read(file, published=name, **options)]
    except DataError as error:
        if alone:
            raise
        return [SessionReport(file.stem, file=str(file), error=str(error))]


def _try(job: Job, plan: sessions.Plan) -> SessionReport:
    """The report of a session, or of why it cannot be read if there are others."""
    try:
        return _report(job.load(plan))
    except PocoError as error:
        if len(job.plans) == 1:
            raise
        name = plan.name or plan.parts[0].path.stem
        return SessionReport(name, file=str(plan.parts[0].path), error=str(error))


def _report(loaded: sessions.Loaded) -> SessionReport:
    recording = loaded.recording
    finite = recording.activity[np.isfinite(recording.activity)]
    drift = _drifting(_covered(recording))
    return SessionReport(
        session=recording.session,
        subject=recording.subject,
        dataset=recording.dataset,
        file=recording.provenance.get("file", ""),
        format=recording.provenance.get("format", ""),
        key=recording.provenance.get("key", ""),
        units=loaded.source_units,
        frames=loaded.source_frames,
        units_used=recording.units,
        rate_hz=recording.rate_hz,
        duration_s=_duration(loaded),
        low=float(finite.min()) if finite.size else None,
        high=float(finite.max()) if finite.size else None,
        nan_values=loaded.nan_values,
        infinite_values=loaded.infinite_values,
        nan_units=loaded.nan_units,
        constant_units=loaded.constant_units,
        labels={
            name: {"labelled": sum(map(bool, values)), "classes": len(set(values) - {""})}
            for name, values in recording.labels.items()
        },
        coordinates=0 if recording.coordinates is None else int(recording.coordinates.shape[1]),
        channels={name: 1 if v.ndim == 1 else int(v.shape[1]) for name, v in recording.channels.items()},
        drift=drift,
        stretches=len(recording.stretches),
        longest_stretch=_longest(recording),
        neural=recording.provenance.get("neural") != "no",
        provenance=dict(recording.provenance),
        activity=activity_key(recording),
        warnings=(*recording.warnings, *_noticed(recording, drift)),
    )


def _covered(recording: Recording) -> np.ndarray:
    """``[N, T]``, the frames that stretches cover."""
    if sum(stop - start for start, stop in recording.stretches) == recording.frames:
        return recording.activity
    return np.concatenate([recording.activity[:, start:stop] for start, stop in recording.stretches], axis=1)


def _longest(recording: Recording) -> int:
    return max(stop - start for start, stop in recording.stretches)


def _duration(loaded: sessions.Loaded) -> float | None:
    rate = loaded.recording.rate_hz
    if loaded.times is not None and len(loaded.times) > 1:
        return float(loaded.times[-1] - loaded.times[0] + np.median(np.diff(loaded.times)))
    return None if rate is None else loaded.source_frames / rate


def _noticed(recording: Recording, drift: float) -> list[str]:
    """What would get in the way of training."""
    out = []
    activity = _covered(recording)
    finite = np.isfinite(activity)
    whole = ~finite.any(axis=0)
    bad = int((~finite[:, ~whole].all(axis=1)).sum())
    if whole.any():
        many = counted(whole.sum(), "frame", " holds", " hold")
        out.append(f"{many} no value of any unit, which training refuses (--nan cut ends stretches there)")
    if bad:
        many = counted(bad, "unit", " holds", " hold")
        option, more = ("cut-drop", " too") if whole.any() else (way_without_nan(recording), "")
        out.append(
            f"{many} NaN or infinite values, which training refuses (--nan {option} leaves such units out{more})"
        )
    constant = int((finite.any(axis=1) & ((activity == activity[:, :1]) | ~finite).all(axis=1)).sum())
    if constant:
        many = counted(constant, "unit", " never changes", " never change")
        out.append(f"{many}, which training refuses (--constant drop leaves such units out)")
    longest = _longest(recording)
    if longest < WINDOW:
        out.append(f"the longest stretch has {longest} frames, fewer than a default window of {_WINDOW}")
    elif longest < 5 * WINDOW:
        out.append(
            f"the longest stretch has {longest} frames: a fifth of it, for testing, is shorter than a default window "
            f"of {_WINDOW}"
        )
    if drift > 0.25:
        out.append("slow drift: over a quarter of the units shift by more than a standard deviation from start to end")
    return out


def _drifting(activity: np.ndarray) -> float:
    """Fraction of units whose mean differs by more than a standard deviation between first and last fifth."""
    part = activity.shape[1] // 5
    if part < 10:
        return 0.0
    shifts = []
    for unit in activity[np.isfinite(activity).all(axis=1)]:
        values = unit.astype(np.float64)  # squares of large values do not fit float32
        shifts.append(abs(values[:part].mean() - values[-part:].mean()) > values.std())
    return float(np.mean(shifts)) if shifts else 0.0


def _across(reports: list[SessionReport]) -> list[str]:
    out = []
    good = [report for report in reports if not report.error]
    if len(good) < len(reports):
        out.append(f"{len(reports) - len(good)} of {len(reports)} sessions cannot be read")
    rates = sorted({report.rate_hz for report in good if report.rate_hz is not None})
    if rates and rates[-1] > 1.02 * rates[0]:
        out.append(f"sessions have different rates, from {rates[0]:.4g} to {rates[-1]:.4g} Hz")
    out += repeated(reports)
    if any(not report.neural for report in good):
        out.append("NOT NEURAL ACTIVITY: this is a control; never count its scores as forecasts of neural activity")
    return out


def repeated(reports: Sequence[SessionReport]) -> list[str]:
    """Warnings where sessions of one name cannot be used together, with the files of the first, or are the same."""
    first: dict[str, str] = {}
    pairs = [(one.session, first.setdefault(one.activity, one.session)) for one in reports if one.activity]
    return [*_of_one_name(reports), *(same_activity(one, other) for one, other in pairs if one != other)]


def _of_one_name(reports: Sequence[SessionReport]) -> list[str]:
    files: dict[str, list[str]] = {}
    for report in reports:
        files.setdefault(report.session, []).append(report.file)
    several = sorted(name for name, places in files.items() if len(places) > 1)
    if not several:
        return []
    found = f"{', '.join(several)} ('{several[0]}' in {' and '.join(files[several[0]][:2])})"
    way = 'say name = "{folder}-{stem}" or a pattern in dataset.toml under [sessions]'
    return [f"session names occur more than once: {found}; {way}"]


def _row(report: SessionReport) -> tuple[str, ...]:
    return (
        report.session,
        f"{report.units} x {report.frames}",
        "all" if report.units_used == report.units else counted(report.units_used, "unit"),
        "not stated" if report.rate_hz is None else f"{report.rate_hz:.4g} Hz",
        "" if report.duration_s is None else _seconds(report.duration_s),
        "" if report.low is None or report.high is None else f"{report.low:.3g} to {report.high:.3g}",
        _count(report.nan_values + report.infinite_values, len(report.nan_units)),
        counted(len(report.constant_units), "unit") if report.constant_units else "0",
        f"{report.stretches}" if report.stretches == 1 else f"{report.stretches} (longest {report.longest_stretch})",
    )


def _count(values: int, units: int) -> str:
    return f"{values} in {counted(units, 'unit')}" if values else "0"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)} min {int(value % 60)} s"


def _which(owners: list[str], total: int) -> str:
    if len(owners) == total:
        return ""
    return f" ({', '.join(owners[:4])}{f' and {len(owners) - 4} more' if len(owners) > 4 else ''})"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
