"""Names of the units of a session, and which of them to use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from poco.data.description import Description
from poco.data.readers import Contents
from poco.data.readers.base import FRAMES_FIRST
from poco.data.timing import missing_frames
from poco.errors import DataError
from poco.wording import begun, counted, enumerated

if TYPE_CHECKING:
    from poco.data.session import Plan


def bad_units(activity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the units with NaN or infinite values, and of those that never change."""
    finite = np.isfinite(activity)
    with np.errstate(invalid="ignore"):
        low = np.where(finite, activity, np.inf).min(axis=1)
        high = np.where(finite, activity, -np.inf).max(axis=1)
    return np.flatnonzero(~finite.all(axis=1)), np.flatnonzero(finite.any(axis=1) & (low == high))


def unit_ids(plan: Plan, description: Description, own: Contents, units: int, orientation: str) -> tuple[str, ...]:
    """Names as the files have them, else numbers from 0."""
    if plan.parts[0].unit is not None:
        return tuple(part.unit or "" for part in plan.parts)
    if len(own.unit_ids) == units:
        return own.unit_ids
    columns = [name for i, name in enumerate(own.columns) if i != description.activity.time_column]
    if len(columns) == units and orientation == FRAMES_FIRST:
        return tuple(columns)
    return tuple(map(str, range(units)))


def choose(
    description: Description,
    own: Contents,
    name: str,
    ids: tuple[str, ...],
    activity: np.ndarray,
    nan_units: np.ndarray,
    constant: np.ndarray,
    provenance: dict[str, str],
    warnings: list[str],
) -> np.ndarray:
    """``[N]`` bool, the units to use; what is dropped is said in warnings and provenance."""
    units, nan = len(activity), description.activity.nan
    keep = np.ones(units, dtype=bool)
    if own.keep is not None and len(own.keep) == units:
        keep &= own.keep
        if not own.keep.all():
            left = int((~own.keep).sum())
            warnings.append(f'{left} of {units} units {own.keep_reason}: left out (rois = "all" takes them)')
    _leave_out(description.activity.leave_out, name, ids, keep, warnings)
    _drop("constant", description.activity.constant, constant, "without any change", name, ids, keep, warnings)
    if nan == "cut-drop":
        nan_units = nan_units[keep[nan_units]]
        there = ~missing_frames(activity[keep])
        nan_units = nan_units[~np.isfinite(activity[nan_units][:, there]).all(axis=1)]
    _drop("nan", nan, nan_units, "with NaN or infinite values", name, ids, keep, warnings)
    if not keep.any():
        hint = "see leave_out, rois, nan and constant"
        missing = missing_frames(activity)
        if nan == "drop" and missing.any() and not missing.all():
            frames = counted(missing.sum(), "frame is", "frames are")
            hint = (
                f'{frames} missing in all units: nan = "cut" (--nan cut) ends stretches there and keeps the units, '
                '"cut-drop" drops those that lack values of other frames'
            )
        raise DataError(f"session '{name}': no unit of {units} is left; {hint}")
    dropped = np.flatnonzero(~keep)
    if len(dropped):
        provenance["dropped_units"] = ", ".join(ids[i] for i in dropped)
    return keep


def _drop(
    option: str,
    choice: str,
    found: np.ndarray,
    what: str,
    name: str,
    ids: tuple[str, ...],
    keep: np.ndarray,
    warnings: list[str],
) -> None:
    """Clear ``keep`` for the units that were found, or refuse them, as was chosen."""
    here = found[keep[found]]
    shown = begun([ids[i] for i in here], 8)
    if choice == "error" and len(here):
        raise DataError(
            f"session '{name}': {counted(len(here), 'unit')} {what} ({shown}); "
            f'{option} = "drop" (--{option} drop) leaves them out, "keep" keeps them'
        )
    if choice in ("drop", "cut-drop") and len(here):
        keep[here] = False
        warnings.append(f'{counted(len(here), "unit")} {what} dropped ({shown}), because {option} = "{choice}"')


def _leave_out(wanted: tuple[str, ...], name: str, ids: tuple[str, ...], keep: np.ndarray, warnings: list[str]) -> None:
    """Clear ``keep`` for the units that are named."""
    places = {unit: i for i, unit in enumerate(ids)}
    for entry in wanted:
        own = entry.startswith(f"{name}/")
        unit = entry.removeprefix(f"{name}/")
        if unit in places:
            keep[places[unit]] = False
        elif own:
            raise DataError(
                f"leave_out names '{entry}', but session '{name}' has no unit '{unit}'; it has {begun(ids, 8)}"
            )
        elif "/" not in entry:
            warnings.append(f"leave_out names unit '{entry}', which is not in this session")


def of_no_session(wanted: Iterable[str], sessions: Sequence[str], provenance: Iterable[Mapping[str, str]]) -> list[str]:
    """Warnings of units to leave out, ``"session/unit"``, whose session is none of those that were met."""
    dropped = {unit for one in provenance for unit in one.get("dropped_units", "").split(", ")}
    return [
        f"leave_out names '{entry}', but there is no session '{entry.rpartition('/')[0]}' here: the sessions are "
        f"{enumerated(sessions)}"
        for entry in wanted
        if "/" in entry and entry not in dropped and not any(entry.startswith(f"{name}/") for name in sessions)
    ]
