"""Neurodata Without Borders, through pynwb."""

from __future__ import annotations

import contextlib
import fnmatch
import re
import warnings as python_warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers.base import FRAMES_FIRST, Contents, Entry, guard, text
from poco.errors import DataError, optional
from poco.wording import begun

FORMAT = "nwb"

CONTROL_STRAINS = {"AML175": "expresses GFP that does not sense calcium"}
"""Strains whose recordings are controls for motion, not neural activity."""


def read(path: Path, *, key: str | None = None, rois: str = "accepted") -> Contents:
    """Traces of an NWB file, frames x units as the standard has it.

    Taken, in this order: the series named by ``key``, which is its path in the file, such as
    ``processing/ophys/DfOverF/RoiResponseSeries``; the only ``RoiResponseSeries`` in a ``DfOverF``; the only one in a
    ``Fluorescence``; the only one anywhere; a group of one-neuron ``TimeSeries`` that are numbered (``Activity_0000``,
    ``Activity_0001``, ...; key ``acquisition/Activity_*``). Other series on the same time stamps become channels.

    Raises:
        DataError: if there is none, or several between which ``key`` must choose.
        MissingExtraError: without pynwb.
    """
    with _opened(path) as (nwb, pynwb):
        return _contents(path, nwb, pynwb, key, rois)


def matching(path: Path, pattern: str) -> list[str]:
    """The paths of the ``RoiResponseSeries`` that fit a pattern; none if it is the key of numbered series.

    Raises:
        DataError: if the file cannot be read.
        MissingExtraError: without pynwb.
    """
    with _opened(path) as (nwb, pynwb):
        series = _series(nwb, pynwb)
        if pattern in _numbered({name: item for name, item in series.items() if type(item) is pynwb.TimeSeries}):
            return []
        responses = [name for name, item in series.items() if isinstance(item, pynwb.ophys.RoiResponseSeries)]
        return sorted(fnmatch.filter(responses, pattern))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The content of a file, and pynwb."""
    with optional("pynwb", "nwb", "reading NWB"):
        import pynwb
    with guard(path, "NWB"), python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        with pynwb.NWBHDF5IO(str(path), mode="r", load_namespaces=True) as io:
            yield io.read(), pynwb


def _series(nwb: Any, pynwb: Any) -> dict[str, Any]:
    """All series that hold data, by their paths."""
    everything = [item for item in nwb.objects.values() if isinstance(item, pynwb.TimeSeries)]
    return {_path(item): item for item in everything if item.data is not None}


def _contents(path: Path, nwb: Any, pynwb: Any, key: str | None, rois: str) -> Contents:
    series = _series(nwb, pynwb)
    responses = {name: item for name, item in series.items() if isinstance(item, pynwb.ophys.RoiResponseSeries)}
    plain = {name: item for name, item in series.items() if type(item) is pynwb.TimeSeries}
    groups = _numbered(plain)
    choices: dict[str, list[Any]] = {name: [item] for name, item in responses.items()} | groups
    choices |= {name: [item] for name, item in plain.items() if len(np.shape(item.data)) == 2}
    chosen = key if key is not None else _choose(path, choices, responses, groups)
    if chosen not in choices:
        if chosen in series:
            choices[chosen] = [series[chosen]]
        else:
            raise DataError(f"{path}: there is no series '{chosen}'; it has {_listing(choices) or _listing(series)}")
    members = choices[chosen]
    activity, turned = _activity(path, chosen, members)
    head = members[0]
    frames = activity.shape[0]
    contents = Contents(path, FORMAT, {chosen: Entry.of(activity)}, key=chosen, orientation=FRAMES_FIRST)
    if turned:
        contents.warnings.append(f"{chosen} has units first, against the standard, by its table of ROIs: turned round")
    passed_over = [name for name in responses if name != chosen and "neuropil" not in name.lower()]
    if key is None and passed_over:
        contents.warnings.append(f"the traces are those of {chosen}; --key takes others: {begun(passed_over, 4)}")
    _time(path, contents, members, frames)
    if len(members) > 1:
        contents.unit_ids = tuple(item.name for item in members)
    elif isinstance(head, pynwb.ophys.RoiResponseSeries):
        _units(contents, head, activity.shape[1], rois)
    others = {name: item for name, item in series.items() if all(item is not member for member in members)}
    _channels(contents, others, responses, groups, _clock(head, frames))
    _metadata(contents, nwb)
    return contents


def _path(item: Any) -> str:
    """The series' path in the file."""
    stored = getattr(item.data, "name", None)
    if isinstance(stored, str) and stored.endswith("/data"):
        return stored[1 : -len("/data")]
    parts: list[str] = []
    while item is not None and item.parent is not None:
        parts.append(item.name)
        item = item.parent
    return "/".join(reversed(parts))


def _numbered(plain: dict[str, Any]) -> dict[str, list[Any]]:
    """Groups of one-dimensional series whose names differ in a final number only, two or more of one length."""
    groups: dict[str, list[tuple[int, Any]]] = {}
    for name, item in plain.items():
        match = re.fullmatch(r"(.*?)(\d+)", name)
        if match and len(np.shape(item.data)) == 1:
            groups.setdefault(match[1] + "*", []).append((int(match[2]), item))
    return {
        name: [item for _, item in sorted(items, key=lambda pair: pair[0])]
        for name, items in groups.items()
        if len(items) > 1
    }


def _listing(choices: dict[str, Any]) -> str:
    shown = []
    for name, items in list(choices.items())[:12]:
        members = items if isinstance(items, list) else [items]
        shape = tuple(np.shape(members[0].data))
        shown.append(f"'{name}' {f'{len(members)} x ' if len(members) > 1 else ''}{shape} {type(members[0]).__name__}")
    return ", ".join(shown)


def _choose(path: Path, choices: dict[str, Any], responses: dict[str, Any], groups: dict[str, Any]) -> str:
    for container in ("DfOverF", "Fluorescence", ""):
        inside = [
            name
            for name, item in responses.items()
            if (not container or type(item.parent).__name__ == container) and "neuropil" not in name.lower()
        ]
        if len(inside) == 1:
            return inside[0]
        if inside:
            break
    if not responses and len(groups) == 1:
        return next(iter(groups))
    if not choices:
        raise DataError(f"{path}: no RoiResponseSeries and no numbered TimeSeries in it; there are no traces to read")
    raise DataError(f"{path}: say which series holds the traces: --key with one of {_listing(choices)}")


def _array(stored: Any) -> np.ndarray:
    return np.asarray(stored[...] if hasattr(stored, "shape") else stored)


def _values(item: Any) -> np.ndarray:
    """The values of a series, with conversion and offset applied to numbers."""
    data = _array(item.data)
    conversion, offset = getattr(item, "conversion", 1.0), getattr(item, "offset", 0.0)
    if data.dtype.kind in "fiub" and (conversion not in (None, 1.0) or offset not in (None, 0.0)):
        return data * (conversion or 1.0) + (offset or 0.0)
    return data


def _activity(path: Path, name: str, members: Sequence[Any]) -> tuple[np.ndarray, bool]:
    """``[T, N]``, and whether the file has it the other way round."""
    columns = [_values(item) for item in members]
    if len({column.shape for column in columns}) > 1:
        raise DataError(f"{path}: the series '{name}' differ in length")
    if columns[0].ndim > 2:
        raise DataError(f"{path}: '{name}' has shape {columns[0].shape}, traces have one or two axes")
    if len(columns) > 1 or columns[0].ndim == 1:
        return np.stack(columns, axis=1), False
    data, rois = columns[0], getattr(members[0], "rois", None)
    if rois is not None and len(rois.data) != data.shape[1] and len(rois.data) == data.shape[0]:
        return data.T, True  # the table of ROIs settles which axis is which
    return data, False


def _time(path: Path, contents: Contents, members: Sequence[Any], frames: int) -> None:
    head = members[0]
    if head.timestamps is None:
        contents.rate_hz = float(head.rate) if head.rate else None
    else:
        contents.times = np.asarray(_array(head.timestamps), dtype=np.float64)
        if contents.times.shape != (frames,):
            raise DataError(f"{path}: '{head.name}' has {frames} frames but {contents.times.size} time stamps")
        contents.imaging_hz = _imaging_rate(head)
    clock = _clock(head, frames)
    for item in members[1:]:
        if clock is not None and not _in_step(clock, _clock(item, frames)):
            raise DataError(f"{path}: '{item.name}' and '{head.name}' were not recorded at the same times")


def _clock(item: Any, frames: int) -> np.ndarray | None:
    """``[T]`` seconds since the file's beginning, as time stamps or as a rate and a starting time; None without."""
    if item.timestamps is not None:
        return np.asarray(_array(item.timestamps), dtype=np.float64)
    return float(item.starting_time or 0.0) + np.arange(frames) / float(item.rate) if item.rate else None


def _in_step(clock: np.ndarray, other: np.ndarray | None) -> bool:
    """Whether two clocks are never more than half a frame of the first apart."""
    if other is None or clock.shape != other.shape:
        return False
    half = 0.5 * float(np.median(np.diff(clock))) if len(clock) > 1 else 0.5
    return bool((np.abs(clock - other) <= half).all())


def _imaging_rate(head: Any) -> float | None:
    """Frames a second that the imaging plane of a series states."""
    rois = getattr(head, "rois", None)
    plane = getattr(getattr(rois, "table", None), "imaging_plane", None)
    rate = getattr(plane, "imaging_rate", None)
    return float(rate) if rate is not None and 0 < rate < float("inf") else None


def _units(contents: Contents, response: Any, units: int, rois: str) -> None:
    """Names, labels and accepted cells from the table of ROIs."""
    region = response.rois
    index = np.asarray(_array(region.data), dtype=np.int64)
    if len(index) != units:
        contents.warnings.append(f"{units} units but {len(index)} ROIs in the table: names and labels are left out")
        return
    table = region.table
    contents.unit_ids = tuple(text(table.id[int(i)]) for i in index)
    ragged = {column.target.name for column in table.columns if hasattr(column, "target")}  # several values a unit
    for column in table.columns:
        data = getattr(column, "data", None)
        if data is None or column.name in ragged or column.name.endswith(("_mask", "_index")):
            continue
        values = _array(data)
        if len(values) <= (index.max() if len(index) else 0):
            continue
        if column.name.lower() in ("iscell", "accepted") and values.ndim in (1, 2):
            cells = (values[index] if values.ndim == 1 else values[index, 0]).astype(float) > 0
            if rois == "all":
                contents.labels["iscell"] = tuple("cell" if c else "not a cell" for c in cells)
            else:
                contents.keep = cells
                contents.keep_reason = f"not accepted in the column '{column.name}'"
        elif values.ndim == 1 and values.dtype.kind in "OSU":
            contents.labels[column.name] = tuple(text(values[i]) for i in index)


def _channels(
    contents: Contents,
    others: dict[str, Any],
    responses: dict[str, Any],
    groups: dict[str, Any],
    clock: np.ndarray | None,
) -> None:
    """Other series in step with the frames; those on another clock are named in a warning."""
    traces = {id(item) for items in groups.values() for item in items} | {id(item) for item in responses.values()}
    apart = []
    for name, item in others.items():
        shape = np.shape(item.data)
        if id(item) in traces or len(shape) not in (1, 2) or not shape or type(item).__name__.endswith("ImageSeries"):
            continue
        if clock is not None and shape[0] == len(clock) and _in_step(clock, _clock(item, shape[0])):
            data = _values(item)
            if data.dtype.kind in "fiub":
                contents.channels[item.name if item.name not in contents.channels else name] = data.astype(np.float32)
        else:
            apart.append(name)
    if apart:
        shown = ", ".join(f"'{name}'" for name in apart[:6])
        more = " and more" if len(apart) > 6 else ""
        contents.warnings.append(f"not in step with the frames, left out: {shown}{more}")


def _metadata(contents: Contents, nwb: Any) -> None:
    subject = nwb.subject
    planes = list(nwb.imaging_planes.values())
    indicator = ", ".join(sorted({plane.indicator for plane in planes if plane.indicator}))
    facts = {
        "identifier": nwb.identifier,
        "session_description": nwb.session_description,
        "experiment_description": nwb.experiment_description,
        "notes": nwb.notes,
        "keywords": ", ".join(text(k) for k in nwb.keywords[:]) if nwb.keywords is not None else None,
        "institution": nwb.institution,
        "lab": nwb.lab,
        "indicator": indicator,
        "species": subject.species if subject else None,
        "genotype": subject.genotype if subject else None,
        "strain": getattr(subject, "strain", None) if subject else None,
        "subject_description": subject.description if subject else None,
    }
    contents.provenance.update({name: " ".join(str(value).split()) for name, value in facts.items() if value})
    contents.subject = (subject.subject_id or "") if subject else ""
    reason = control_reason(contents.provenance, indicator)
    if reason:
        contents.neural = False
        contents.warnings.append(f"not neural activity: {reason}")


def control_reason(facts: dict[str, str], indicator: str) -> str:
    """Why the metadata say that this is a control recording; empty if they do not."""
    everything = " ".join(facts.values())
    for strain, why in CONTROL_STRAINS.items():
        if re.search(rf"(?<![A-Za-z0-9]){strain}(?![0-9])", everything):
            return f"strain {strain} {why} (named in the file's metadata)"
    if re.search(r"\bnot neural activity\b|\b(e?gfp|negative|motion)[ -]control\b", everything, re.IGNORECASE):
        return "the file's metadata call it a control"
    if re.fullmatch(r"e?gfp", indicator.strip(), re.IGNORECASE):
        return f"the indicator is {indicator}, which does not sense calcium"
    return ""
