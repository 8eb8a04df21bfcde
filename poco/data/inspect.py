"""Looking at what the readers see in a file or folder, and at what would get in the way of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poco.data import session as one_session
from poco.data.checks import activity_key, same_activity, way_without_nan
from poco.data.choice import Choice
from poco.data.inspection import Inspection, SessionReport
from poco.data.read import Job, read
from poco.data.recording import Recording
from poco.data.segments import frames_of, taken
from poco.data.unit_choice import bad_units, of_no_session
from poco.errors import DataError, PocoError
from poco.sizes import CONTEXT, HORIZON
from poco.wording import counted

WINDOW = CONTEXT + HORIZON
"""Frames of a default window, context and horizon together."""
_WINDOW = f"{WINDOW} ({CONTEXT} + {HORIZON})"


def inspect(
    path: str | Path,
    *,
    description: str | Path | Mapping[str, Any] | None = None,
    published: str | None = None,
    sessions: str | Sequence[str] | None = None,
    without: str | Sequence[str] = (),
    **options: Any,
) -> Inspection:
    """Look at the sessions in a file or folder; a session that cannot be read is reported, the others still are.

    Args:
        path: a file or folder.
        description: as in ``poco.data.read.read``.
        published: as in ``poco.data.read.read``.
        sessions: as in ``poco.data.read.read``.
        without: as in ``poco.data.read.read``.
        **options: as in ``poco.data.read.read``.

    Raises:
        DataError: if the path or its description cannot be used at all, the only session cannot be read, or one that
            was chosen is not there.
        ConfigError: if ``without`` leaves no session.
    """
    choice = Choice(sessions, without)
    (found,) = inspect_chosen([path], choice, description=description, published=published, **options)
    choice.check()
    return found


def inspect_chosen(
    paths: Sequence[str | Path],
    choice: Choice,
    *,
    description: str | Path | Mapping[str, Any] | None = None,
    published: str | None = None,
    **options: Any,
) -> list[Inspection]:
    """As :func:`inspect`, of several paths, where the caller looks after sessions that are not there."""
    if published is not None:
        given = {**options, "description": description}
        return [_inspect_published(published, path, given, choice) for path in paths]
    jobs = [Job(Path(path), description, options) for path in paths]
    found = [_inspect(job, str(path), choice) for job, path in zip(jobs, paths, strict=True)]
    left_out = dict.fromkeys(name for job in jobs for name in job.description.activity.leave_out)
    provenance = [report.provenance for one in found for report in one.sessions]
    lost = of_no_session(left_out, choice.names, provenance)
    return [dataclasses.replace(found[0], warnings=(*found[0].warnings, *lost)), *found[1:]]


def _inspect(job: Job, path: str, choice: Choice) -> Inspection:
    reports = []
    for plan, known in job.candidates(choice):
        report = _try(job, plan)
        if known or choice.takes(report.session):
            reports.append(report)
    found = job.description
    return Inspection(
        path=path,
        dataset=", ".join(dict.fromkeys(r.dataset for r in reports if not r.error)) or found.name or "default",
        description=found.origin,
        facts=found.facts,
        notes=found.notes,
        sessions=tuple(reports),
        warnings=tuple(_across(reports)),
    )


def _inspect_published(name: str, path: str | Path, options: Mapping[str, Any], choice: Choice) -> Inspection:
    from poco.published.registry import files

    found = files(name, path)
    reports = [report for file in found for report in _try_published(name, file, options, alone=len(found) == 1)]
    reports = [report for report in reports if choice.takes(report.session)]
    description = f"the published files of {name}"
    return Inspection(str(path), name, description, {}, (), tuple(reports), tuple(_across(reports)))


def _try_published(name: str, file: Path, options: Mapping[str, Any], *, alone: bool) -> list[SessionReport]:
    """Reports of the sessions of a published file, or of why it cannot be read if it is not alone."""
    try:
        return [_report(one_session.Loaded(one, one.activity)) for one in read(file, published=name, **options)]
    except DataError as error:
        if alone:
            raise
        return [SessionReport(file.stem, file=str(file), error=str(error))]


def _try(job: Job, plan: one_session.Plan) -> SessionReport:
    """The report of a session, or of why it cannot be read if there are others."""
    try:
        return _report(job.load(plan))
    except PocoError as error:
        if len(job.plans) == 1:
            raise
        return SessionReport(plan.label, file=str(plan.parts[0].path), error=f"{error}{job.way_out(plan)}")


def _report(loaded: one_session.Loaded) -> SessionReport:
    recording, activity = loaded.recording, loaded.activity
    nan_units, constant_units = bad_units(activity)
    finite = recording.activity[np.isfinite(recording.activity)]
    drift = _drifting(taken(recording.activity, recording.stretches))
    return SessionReport(
        session=recording.session,
        subject=recording.subject,
        dataset=recording.dataset,
        file=recording.provenance.get("file", ""),
        format=recording.provenance.get("format", ""),
        key=recording.provenance.get("key", ""),
        units=activity.shape[0],
        frames=activity.shape[1],
        units_used=recording.units,
        rate_hz=recording.rate_hz,
        duration_s=_duration(loaded),
        low=float(finite.min()) if finite.size else None,
        high=float(finite.max()) if finite.size else None,
        nan_values=int(np.isnan(activity).sum()),
        infinite_values=int(np.isinf(activity).sum()),
        nan_units=tuple(map(int, nan_units)),
        constant_units=tuple(map(int, constant_units)),
        labels={
            name: {"labelled": sum(map(bool, values)), "classes": len(set(values) - {""})}
            for name, values in recording.labels.items()
        },
        coordinates=0 if recording.coordinates is None else int(recording.coordinates.shape[1]),
        channels={name: 1 if v.ndim == 1 else int(v.shape[1]) for name, v in recording.channels.items()},
        drift=drift,
        stretches=len(recording.stretches),
        longest_stretch=_longest(recording),
        neural=recording.is_neural,
        provenance=dict(recording.provenance),
        activity=activity_key(recording),
        warnings=(*recording.warnings, *_noticed(recording, drift)),
    )


def _longest(recording: Recording) -> int:
    return max(stop - start for start, stop in recording.stretches)


def _duration(loaded: one_session.Loaded) -> float | None:
    rate = loaded.recording.rate_hz
    if loaded.times is not None and len(loaded.times) > 1:
        return float(loaded.times[-1] - loaded.times[0] + np.median(np.diff(loaded.times)))
    return None if rate is None else loaded.activity.shape[1] / rate


def _noticed(recording: Recording, drift: float) -> list[str]:
    """What would get in the way of training."""
    out = []
    activity = taken(recording.activity, recording.stretches)
    finite = np.isfinite(activity)
    whole = ~finite.any(axis=0)
    bad = int((~finite[:, ~whole].all(axis=1)).sum())
    if whole.any():
        many = counted(whole.sum(), "frame holds", "frames hold")
        out.append(f"{many} no value of any unit, which training refuses (--nan cut ends stretches there)")
    if bad:
        many = counted(bad, "unit holds", "units hold")
        option, more = ("cut-drop", " too") if whole.any() else (way_without_nan(recording), "")
        out.append(
            f"{many} NaN or infinite values, which training refuses (--nan {option} leaves such units out{more})"
        )
    constant = int((finite.any(axis=1) & ((activity == activity[:, :1]) | ~finite).all(axis=1)).sum())
    if constant:
        many = counted(constant, "unit never changes", "units never change")
        out.append(f"{many}, which training refuses (--constant drop leaves such units out)")
    longest = _longest(recording)
    if longest < WINDOW:
        turned = recording.units > recording.frames
        hint = f", and {recording.units} units: is the orientation right?" if turned else ""
        out.append(f"the longest stretch has {longest} frames, fewer than a default window of {_WINDOW}{hint}")
    elif (frames := frames_of(recording.stretches)) < 5 * WINDOW:
        out.append(f"{frames} frames: with a default window of {_WINDOW}, training takes some {5 * WINDOW}")
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
