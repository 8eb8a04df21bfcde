"""The output folder of suite2p: ``plane*/F.npy`` with what lies beside it, all read without running pickles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers import npy, pickles
from poco.data.readers.base import UNITS_FIRST, Contents, Entry
from poco.errors import DataError

FORMAT = "suite2p"


def planes(path: Path) -> list[Path]:
    """The plane folders under ``path`` (a plane itself, its parent or the folder above), by number; empty if none."""
    if (path / "F.npy").is_file():
        return [path]
    found = [p.parent for pattern in ("plane*/F.npy", "suite2p/plane*/F.npy") for p in path.glob(pattern)]
    return sorted(found, key=lambda p: (int(re.sub(r"\D", "", p.name) or 0), p.name))


def read(path: Path, *, rois: str = "accepted", neuropil: float = 0.0) -> Contents:
    """All planes as one session.

    Fluorescence ``F.npy`` is ROI x frame; key ``spks`` is ``spks.npy``, where each plane has one. ROIs that
    ``iscell.npy`` does not accept are left out unless ``rois`` is ``"all"``. With ``neuropil`` above 0 that fraction of
    ``Fneu.npy`` is subtracted from ``F`` (suite2p's own default is 0.7).

    Args:
        path: the suite2p folder, a plane folder, or the folder that holds ``suite2p``.
        rois: ``"accepted"`` or ``"all"``.
        neuropil: fraction of the neuropil signal to subtract; 0 takes ``F`` as it is.
    """
    folders = planes(path)
    if not folders:
        raise DataError(f"{path}: no plane*/F.npy in it; a suite2p folder has one for each plane")
    parts = [_plane(folder, neuropil) for folder in folders]
    frames = min(part["activity"].shape[1] for part in parts)
    longest = max(part["activity"].shape[1] for part in parts)
    if longest - frames > 1:
        lengths = ", ".join(
            f"{folder.name}: {part['activity'].shape[1]}" for folder, part in zip(folders, parts, strict=True)
        )
        raise DataError(
            f"{path}: planes differ in length ({lengths} frames); read them one by one, "
            'as with files = ["suite2p/plane*"] and name = "{stem}" under [sessions] in a dataset.toml beside suite2p'
        )
    warnings = [line for part in parts for line in part["warnings"]]
    if longest != frames:
        warnings.append(f"planes differ by one frame; all cut to {frames}")
    activity = np.concatenate([part["activity"][:, :frames] for part in parts])
    many = len(folders) > 1
    entries = {"F": Entry.of(activity)}
    if all((folder / "spks.npy").is_file() for folder in folders):
        sizes = [part["activity"].shape for part in parts]
        entries["spks"] = Entry(activity.shape, "float32", lambda: _spikes(folders, sizes, frames, neuropil))
    contents = Contents(path, FORMAT, entries, key="F", orientation=UNITS_FIRST, warnings=warnings)
    rows = [(f.name, i) for f, part in zip(folders, parts, strict=True) for i in range(len(part["activity"]))]
    contents.unit_ids = tuple(f"{plane}/{i}" if many else str(i) for plane, i in rows)
    if many:
        contents.labels["plane"] = tuple(plane for plane, _ in rows)
    rates = {part["rate"] for part in parts}
    contents.rate_hz = rates.pop() if len(rates) == 1 else None
    if all(part["centres"] is not None for part in parts):
        contents.coordinates = np.concatenate([part["centres"] for part in parts])
    if all(part["accepted"] is not None for part in parts):
        accepted = np.concatenate([part["accepted"] for part in parts])
        if rois == "all":
            contents.labels["iscell"] = tuple("cell" if a else "not a cell" for a in accepted)
        else:
            contents.keep = accepted
            contents.keep_reason = "not accepted in iscell.npy"
    elif rois == "accepted":
        warnings.append("there is no iscell.npy: all ROIs are taken")
    top = folders[0].parent if folders[0].name.startswith("plane") else folders[0]
    contents.title = top.parent.name if top.name == "suite2p" else top.name
    contents.provenance["neuropil"] = f"{neuropil:g} x Fneu subtracted" if neuropil else "not subtracted"
    return contents


def _spikes(folders: list[Path], sizes: list[tuple[int, ...]], frames: int, neuropil: float) -> np.ndarray:
    """``spks.npy`` of all planes, as ``F`` has them."""
    if neuropil:
        raise DataError(f"{folders[0]}: neuropil = {neuropil:g} is subtracted from F, not from spks: leave it out")
    found = [npy.load(folder / "spks.npy") for folder in folders]
    for folder, spikes, size in zip(folders, found, sizes, strict=True):
        if spikes.shape != size:
            raise DataError(f"{folder}: spks.npy has shape {spikes.shape}, F.npy {size}")
    return np.concatenate([spikes[:, :frames] for spikes in found])


def _plane(folder: Path, neuropil: float) -> dict[str, Any]:
    activity = npy.load(folder / "F.npy")
    if activity.ndim != 2:
        raise DataError(f"{folder / 'F.npy'}: should be ROI x frame, has shape {activity.shape}")
    warnings: list[str] = []
    if neuropil:
        if not (folder / "Fneu.npy").is_file():
            raise DataError(f"{folder}: neuropil = {neuropil:g} needs Fneu.npy, which is not there")
        background = npy.load(folder / "Fneu.npy")
        if background.shape != activity.shape:
            raise DataError(f"{folder}: Fneu.npy has shape {background.shape}, F.npy {activity.shape}")
        activity = activity - neuropil * background
    accepted = None
    if (folder / "iscell.npy").is_file():
        iscell = npy.load(folder / "iscell.npy")
        accepted = (iscell[:, 0] if iscell.ndim == 2 else iscell) > 0
        if len(accepted) != len(activity):
            raise DataError(f"{folder}: iscell.npy has {len(accepted)} ROIs, F.npy {len(activity)}")
    return {
        "activity": activity,
        "accepted": accepted,
        "rate": _rate(folder / "ops.npy", warnings),
        "centres": _centres(folder / "stat.npy", len(activity), warnings),
        "warnings": warnings,
    }


def _objects(path: Path, warnings: list[str]) -> Any:
    """The content of a pickled array, or None with a note where it holds more than numbers and containers."""
    if not path.is_file():
        return None
    try:
        return pickles.load_object_npy(path)
    except DataError as error:
        warnings.append(f"{path.parent.name}/{path.name} skipped: {str(error).removeprefix(f'{path}: ')}")
        return None


def _rate(path: Path, warnings: list[str]) -> float | None:
    ops = _objects(path, warnings)
    if isinstance(ops, np.ndarray) and ops.size == 1:
        ops = ops.reshape(-1)[0]
    rate = ops.get("fs") if isinstance(ops, dict) else None
    return float(rate) if isinstance(rate, (int, float, np.number)) and rate > 0 else None


def _centres(path: Path, units: int, warnings: list[str]) -> np.ndarray | None:
    """Centres ``[N, 2]`` as (x, y) in pixels."""
    stat = _objects(path, warnings)
    if stat is None:
        return None
    try:
        centres = np.array([[roi["med"][1], roi["med"][0]] for roi in stat], dtype=np.float32)
    except (TypeError, KeyError, IndexError, ValueError):
        warnings.append("stat.npy has no centres of ROIs ('med')")
        return None
    return centres if len(centres) == units else None
