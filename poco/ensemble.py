"""Several forecasters of one kind that forecast as one: their forecasts are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from poco.data.packed import PackedBatch
from poco.errors import ConfigError, VocabularyError
from poco.ground.grounded import Grounded
from poco.nn import POCO, files
from poco.nn.vocabulary import SessionSpec
from poco.ops.reference import accumulation_dtype

if TYPE_CHECKING:
    from poco.models import Member, Sizes

_KINDS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Member]] = {
    "POCO": files.build,
    "Grounded": Grounded.build,
}
_SHARED = "shared."  # names of tensors that all members have alike, stored once


class Ensemble(nn.Module):
    """The mean of the forecasts of several members, trained alike from different seeds.

    Args:
        members: forecasters of one kind with the same sizes, sessions and normalisation; they are not copied.

    Attributes:
        members: the forecasters.
        metadata: how the members came about, as JSON can hold it, as far as they have it in common; saved in
            ``config.json``, beside the metadata of each member.

    Raises:
        ConfigError: if there is no member, or they differ in kind, sizes or normalisation.
        VocabularyError: if they differ in their sessions.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        _check(members)
        self.members = nn.ModuleList(members)
        self.metadata: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Member]:
        """The members, in order."""
        return iter(self.members)  # type: ignore[arg-type]

    def __len__(self) -> int:
        """How many members there are."""
        return len(self.members)

    @property
    def _first(self) -> Member:
        return self.members[0]  # type: ignore[return-value]

    @property
    def config(self) -> Sizes:
        """Sizes and options of each member."""
        return self._first.config

    @property
    def sessions(self) -> tuple[SessionSpec, ...]:
        """The sessions that the members know."""
        return self._first.sessions

    def session_index(self, session: int | str | None) -> int:
        """Index of a session given by name or index, or of the only one; a VocabularyError if it is not known."""
        return self._first.session_index(session)

    def normalisation(self, session: int | str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[N]``, float32, that the session's activity is normalised with."""
        return self._first.normalisation(session)

    def forward(self, x: Tensor, session: int | str | None = None) -> Tensor:
        """Forecasts windows of one session.

        Args:
            x: ``[B, N, C]`` normalised activity: windows, units, frames (oldest first).
            session: name or index of the session; None: the only one.

        Returns:
            ``[B, N, H]`` normalised forecasts, the mean of the members', in float32 (float64 for float64 members).

        Raises:
            VocabularyError: if the members do not know the session, or several and none was chosen.
            ShapeError: if units or frames are not what the session and the members have.
        """
        return _mean(member(x, session) for member in self)

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """Forecasts ``[R, H]`` of packed windows, the mean of the members', in float32 or better.

        Raises:
            ShapeError: if the batch does not fit the members.
        """
        return _mean(member.forward_packed(batch) for member in self)

    def save_pretrained(self, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Writes one ``config.json`` and one ``model.safetensors``; what all members have alike is stored once.

        Raises:
            CheckpointError: if they cannot be written; files that were there before are kept.
        """
        own = [member.state_dict() for member in self]
        state: dict[str, Tensor] = {}
        for name, tensor in own[0].items():
            if len(own) > 1 and all(_same(tensor, other[name]) for other in own[1:]):
                state[_SHARED + name] = tensor
            else:
                state |= {_prefix(index) + name: other[name] for index, other in enumerate(own)}
        config = {
            "kind": type(self._first).__name__,
            "sizes": self.config.to_dict(),
            "members": [member.metadata for member in self],
        }
        files.write(Path(folder), type(self).__name__, config, {**self.metadata, **(metadata or {})}, state)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Ensemble:
        """The ensemble that :meth:`save_pretrained` wrote, on the CPU, evaluating.

        Raises:
            CheckpointError: if a file is missing, damaged, of another model, or does not fit the other.
        """
        return files.load_as(cls.__name__, Path(folder), cls._build)

    @classmethod
    def _build(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Ensemble:
        kind, known = config["kind"], config["members"]
        if kind not in _KINDS or not isinstance(known, list):
            raise ConfigError(f"an ensemble has members of kind {' or '.join(_KINDS)}, not {kind!r}")
        shared = {name.removeprefix(_SHARED): t for name, t in state.items() if name.startswith(_SHARED)}
        members, used = [], len(shared)
        for index, metadata in enumerate(known):
            prefix = _prefix(index)
            own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
            used += len(own)
            member = _KINDS[kind](config["sizes"], {**shared, **own})
            member.metadata = metadata
            members.append(member)
        if used != len(state):
            raise RuntimeError(f"there are tensors of more than {len(known)} members")
        return cls(members)


def _check(members: Sequence[Member]) -> None:
    """Raises unless the members can forecast as one."""
    if not members:
        raise ConfigError("an ensemble needs at least one member")
    first = members[0]
    if not isinstance(first, (POCO, Grounded)):
        raise ConfigError(f"an ensemble has members of kind {' or '.join(_KINDS)}, not {type(first).__name__}")
    for other in members[1:]:
        if type(other) is not type(first):
            raise ConfigError(
                f"members of an ensemble are of one kind, not {type(first).__name__} and {type(other).__name__}"
            )
        if other.config != first.config:
            raise ConfigError("members of an ensemble have the same sizes and options")
        if other.sessions != first.sessions:
            raise VocabularyError(
                "members of an ensemble know the same sessions with the same units, in the same order"
            )
        for session in range(len(first.sessions)):
            known = [isinstance(one, Grounded) or one.is_normalised(session) for one in (first, other)]
            if known == [False, False]:
                continue
            if not all(known) or not all(map(_same, first.normalisation(session), other.normalisation(session))):
                name = first.sessions[session].name
                raise ConfigError(f"members of an ensemble normalise alike: session '{name}' differs")


def _mean(forecasts: Iterator[Tensor]) -> Tensor:
    first = next(forecasts)
    total, count = first.to(accumulation_dtype(first)), 1
    for forecast in forecasts:
        total = total + forecast
        count += 1
    return total / count


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b.to(a.device))


def _prefix(index: int) -> str:
    return f"members.{index}."
