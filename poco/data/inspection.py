"""What there is in a file or folder, session by session, and as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from poco.data.origin import plain
from poco.wording import counted, some


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
        return plain(asdict(self))

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

        def lines(found: Iterable[tuple[str, SessionReport]]) -> list[str]:
            """Each line once, with the sessions that it is about where these are not all."""
            owners: dict[str, list[str]] = {}
            for line, report in found:
                owners.setdefault(line, []).append(report.session)
            return [line + ("" if len(own) == len(good) else f" ({some(own, 4)})") for line, own in owners.items()]

        arrays = lines((f"array        {one.key}", one) for one in good if one.key)
        clocks = lines((f"times        {one.provenance['times']}", one) for one in good if "times" in one.provenance)
        out = [*([""] if arrays else []), *arrays, *clocks]
        labelled = [
            f"  {one.session}: "
            + ", ".join(f"{name} {v['labelled']} ({v['classes']})" for name, v in one.labels.items())
            for one in good
            if one.labels
        ]
        out += ["", "labels (units labelled, classes)", *labelled] if labelled else []
        placed = [one for one in good if one.coordinates]
        out += ["", *lines((f"coordinates  {placed[0].coordinates}-D", one) for one in placed)] if placed else []
        widths = {name: width for one in reversed(good) for name, width in one.channels.items()}  # of the first one
        names = dict.fromkeys(name for one in good for name in one.channels)
        channels = lines(
            (f"  {name}{f' x {widths[name]}' if widths[name] > 1 else ''}", one)
            for name in names
            for one in good
            if name in one.channels
        )
        out += ["", "channels (stimulus and behaviour)", *channels] if channels else []
        warnings = [*self.warnings, *lines((warning, one) for one in good for warning in one.warnings)]
        for title, texts in (("warnings", warnings), ("notes", self.notes)):
            out += ["", title, *(f"  {text}" for text in texts)] if texts else []
        return out


def _row(report: SessionReport) -> tuple[str, ...]:
    missing = report.nan_values + report.infinite_values
    return (
        report.session,
        f"{report.units} x {report.frames}",
        "all" if report.units_used == report.units else counted(report.units_used, "unit"),
        "not stated" if report.rate_hz is None else f"{report.rate_hz:.4g} Hz",
        "" if report.duration_s is None else _seconds(report.duration_s),
        "" if report.low is None or report.high is None else f"{report.low:.3g} to {report.high:.3g}",
        f"{missing} in {counted(len(report.nan_units), 'unit')}" if missing else "0",
        counted(len(report.constant_units), "unit") if report.constant_units else "0",
        f"{report.stretches}" if report.stretches == 1 else f"{report.stretches} (longest {report.longest_stretch})",
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)} min {int(value % 60)} s"
