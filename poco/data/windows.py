"""From windows to packed batches: in order for evaluation, shuffled for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from poco.core import gather_windows
from poco.data.packed import PackedBatch
from poco.data.splits import Split, Windows
from poco.errors import CheckpointError, ConfigError, VocabularyError
from poco.wording import some

#: Rows (windows times units) that one evaluation batch may hold; the bound on memory.
ROWS_A_BATCH = 32768


class NamedSession(Protocol):
    """What :class:`Packer` needs of an entry of a model's vocabulary (``poco.SessionSpec`` has it)."""

    @property
    def name(self) -> str:
        """Name of the session."""

    @property
    def units(self) -> tuple[str, ...]:
        """Names of its units."""


class Packer:
    """Cuts windows out of the recordings of a split, normalises them and packs them into batches.

    Args:
        split: recordings and statistics.
        sessions: the vocabulary of the model that will take the batches, in order; its sessions are matched to the
            recordings by name. None: the recordings themselves, in order.

    Raises:
        VocabularyError: if a recording is not in the vocabulary or its units are not the same.
    """

    def __init__(self, split: Split, sessions: Sequence[NamedSession] | None = None) -> None:
        self.split = split
        self.units = np.array([recording.units for recording in split.recordings], dtype=np.int64)
        own_offset = np.concatenate([[0], np.cumsum(self.units)[:-1]])
        self._own = sessions is None
        if sessions is not None:
            self._session, offset = match_sessions(split, sessions)
            self._shift = offset - own_offset
        self._activity = [recording.activity for recording in split.recordings]
        self._mean, self._inverse_std = list(split.mean), list(split.inverse_std)

    def pack(self, windows: Windows) -> PackedBatch:
        """The windows as one batch with targets, rows of the windows one after another."""
        x, target, unit_index, offsets = gather_windows(
            self._activity,
            self._mean,
            self._inverse_std,
            windows.session,
            windows.start,
            self.split.context,
            self.split.horizon,
        )
        own = PackedBatch(
            x=torch.from_numpy(x),
            unit_index=torch.from_numpy(unit_index),
            window_offsets=torch.from_numpy(offsets),
            window_session=torch.from_numpy(windows.session),
            target=torch.from_numpy(target),
            window_start=torch.from_numpy(windows.start),
        )
        return self.relabel(own, windows)

    def relabel(self, batch: PackedBatch, windows: Windows) -> PackedBatch:
        """The batch that a packer without a vocabulary made of the windows, counted in this one's vocabulary."""
        if self._own:
            return batch
        shift = np.repeat(self._shift[windows.session], self.units[windows.session])
        return replace(
            batch,
            unit_index=batch.unit_index + torch.from_numpy(shift.astype(np.int32)),
            window_session=torch.from_numpy(self._session[windows.session]),
        )

    def batches(self, windows: Windows, rows: int = ROWS_A_BATCH) -> Iterator[tuple[Windows, PackedBatch]]:
        """The windows in order, in batches of at most ``rows`` rows (a single window may exceed it)."""
        total = np.cumsum(self.units[windows.session]) if len(windows) else np.empty(0, dtype=np.int64)
        first = 0
        while first < len(windows):
            before = int(total[first - 1]) if first else 0
            stop = max(first + 1, int(np.searchsorted(total, before + rows, side="right")))
            some = windows[first:stop]
            yield some, self.pack(some)
            first = stop


def vocabulary(model: object) -> Sequence[NamedSession] | None:
    """The sessions that a model knows, in order, or None for a model that treats all units alike."""
    return getattr(model, "sessions", None)


def match_sessions(split: Split, sessions: Sequence[NamedSession]) -> tuple[np.ndarray, np.ndarray]:
    """Place of each recording's session in a vocabulary and the row of its first unit there, ``[S]`` int64 each.

    Raises:
        VocabularyError: if a session is not in the vocabulary, or its unit count or unit names differ.
    """
    names = [session.name for session in sessions]
    offsets = np.concatenate([[0], np.cumsum([len(session.units) for session in sessions])]).astype(np.int64)
    places = []
    for recording in split.recordings:
        if recording.session not in names:
            known = some([f"'{name}'" for name in names], 8)
            raise VocabularyError(
                f"the model does not know session '{recording.session}': it knows {known}; "
                "adapt the model to the session first"
            )
        place = names.index(recording.session)
        check_units(recording.session, recording.unit_ids, sessions[place].units)
        places.append(place)
    place_array = np.array(places, dtype=np.int64)
    return place_array, offsets[place_array]


def check_units(session: str, units: Sequence[str], expected: Sequence[str]) -> None:
    """Raise a VocabularyError unless a recording has exactly the units that a model learnt for the session."""
    if len(units) != len(expected):
        raise VocabularyError(
            f"session '{session}' has {len(units)} units, the model learnt {len(expected)}: "
            "read it as for training (same units left out), or adapt the model to it under a new session name"
        )
    for unit, (name, learnt) in enumerate(zip(units, expected, strict=True)):
        if name != learnt:
            raise VocabularyError(
                f"session '{session}': unit {unit} is '{name}', the model learnt '{learnt}' there: "
                "give the units in the same order as for training (a model of one's own is told their names by "
                "poco.SessionSpec.of(recording))"
            )


class ShuffledWindows:
    """Endless shuffled batches of training windows: for each step one batch of every data set.

    Within a data set the windows of all sessions are pooled and drawn without replacement; the last batch of an epoch
    may be short. An epoch ends with the data set that has the fewest batches. The order of an epoch depends on the
    seed and the epoch's number alone, so two integers are the whole state.

    Args:
        split: recordings and their parts.
        batch_size: windows per data set and step.
        seed: seed of the order; nothing else draws from this generator.

    Raises:
        ConfigError: if ``batch_size`` is below 1.
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1 window, got {batch_size}")
        self.batch_size = batch_size
        self.seed = seed
        everything = split.windows("train")
        dataset = np.array([split.datasets.index(recording.dataset) for recording in split.recordings])
        of_window = dataset[everything.session]
        self._pools = [everything[of_window == d] for d in range(len(split.datasets))]
        self.steps_per_epoch = min(-(-len(pool) // batch_size) for pool in self._pools)
        self.epoch, self.position = 0, 0
        self._order = self._shuffle()

    def _shuffle(self) -> list[np.ndarray]:
        return [
            np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, self.epoch, d)))).permutation(
                len(p)
            )
            for d, p in enumerate(self._pools)
        ]

    def next(self) -> list[Windows]:
        """The windows of the next step, one entry per data set."""
        if self.position == self.steps_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._shuffle()
        drawn = slice(self.position * self.batch_size, (self.position + 1) * self.batch_size)
        self.position += 1
        return [pool[order[drawn]] for pool, order in zip(self._pools, self._order, strict=True)]

    def state_dict(self) -> dict[str, int]:
        """Where the sampler stands."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "windows": sum(len(pool) for pool in self._pools),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another sampler of the same windows stood.

        Raises:
            CheckpointError: if the state belongs to other windows, another seed or another batch size.
        """
        here = self.state_dict()
        for key in ("seed", "batch_size", "windows"):
            if state.get(key) != here[key]:
                raise CheckpointError(f"the checkpoint was made with {key} {state.get(key)}, here it is {here[key]}")
        epoch, position = state.get("epoch"), state.get("position")
        if not isinstance(epoch, int) or not isinstance(position, int) or not 0 <= position <= self.steps_per_epoch:
            raise CheckpointError(
                "the checkpoint's place in the training windows makes no sense: start again without it"
            )
        self.epoch, self.position = epoch, position
        self._order = self._shuffle()
