"""The sessions and units that a model knows, and the parameters that belong to one session alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from poco.errors import ConfigError, VocabularyError
from poco.nn.exact import ExactBuffers
from poco.wording import some

if TYPE_CHECKING:
    from poco.data.recording import Recording


@dataclass(frozen=True)
class SessionSpec:
    """What a model needs to know of a session.

    Attributes:
        name: name of the session, unique in a model.
        units: names of the units in their order, unique in the session; a number stands for ``"0", "1", ...``.
        dataset: name of the data set; sessions of one data set share an embedding.
        unit_types: type of every unit (region, cell class), or nothing.

    Raises:
        ConfigError: if there are no units, one occurs twice, or there are not as many types as units.
    """

    name: str
    units: tuple[str, ...]
    dataset: str = "default"
    unit_types: tuple[str, ...] = ()

    @classmethod
    def of(cls, recording: Recording, unit_types: Sequence[str] = ()) -> SessionSpec:
        """That of a recording."""
        return cls(recording.session, recording.unit_ids, recording.dataset, tuple(unit_types))

    def __post_init__(self) -> None:
        units = map(str, range(self.units)) if isinstance(self.units, int) else map(str, self.units)
        object.__setattr__(self, "units", tuple(units))
        object.__setattr__(self, "unit_types", tuple(map(str, self.unit_types)))
        if not self.units:
            raise ConfigError(f"session '{self.name}' has no units")
        if len(set(self.units)) != len(self.units):
            raise ConfigError(f"session '{self.name}': a unit occurs more than once")
        if self.unit_types and len(self.unit_types) != len(self.units):
            raise ConfigError(f"session '{self.name}': {len(self.unit_types)} unit types for {len(self.units)} units")


class SessionEmbedding(ExactBuffers):
    """What belongs to one session alone: embeddings of its units and of itself, and its units' normalisation.

    Args:
        units: number of units ``N``.
        width: ``d``.
        std: standard deviation of the embeddings at the start.
    """

    mean: Tensor
    std: Tensor
    normalised: Tensor  # uint8: whether mean and std were given
    types: Tensor  # [N] int64: row of each unit's type in the model; [0] where that embeds none

    def __init__(self, units: int, width: int, std: float) -> None:
        super().__init__()
        self.units = nn.Parameter(torch.randn(units, width) * std)
        self.session = nn.Parameter(torch.randn(width) * std)
        self.register_buffer("mean", torch.zeros(units))
        self.register_buffer("std", torch.ones(units))
        self.register_buffer("normalised", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("types", None, persistent=False)
        self.set_types(())

    def set_types(self, rows: Sequence[int]) -> None:
        """Gives the row of each unit's type in the model."""
        self._type_rows = tuple(rows)
        self.refill()

    def refill(self) -> None:
        """Places the rows of the types where the embeddings are."""
        self.types = torch.tensor(self._type_rows, dtype=torch.int64, device=self.units.device)

    @property
    def is_normalised(self) -> bool:
        """Whether mean and standard deviation were given, and are not what they begin as, 0 and 1."""
        return bool(self.normalised) or bool(self.mean.any()) or not bool((self.std == 1).all())


def encode(specs: Iterable[SessionSpec]) -> Tensor:
    """The vocabulary as a uint8 tensor (UTF-8 JSON), so that a state dict can hold it."""
    text = json.dumps([asdict(spec) for spec in specs])
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).clone()


def decode(data: Tensor) -> tuple[SessionSpec, ...]:
    """The vocabulary that :func:`encode` wrote.

    Raises:
        VocabularyError: if the tensor does not hold one.
    """
    try:
        entries = json.loads(bytes(data.cpu().tolist()))
        return tuple(SessionSpec(e["name"], tuple(e["units"]), e["dataset"], tuple(e["unit_types"])) for e in entries)
    except (ValueError, TypeError, KeyError) as error:
        raise VocabularyError(f"the stored vocabulary of sessions cannot be read: {error}") from error


def find(names: Sequence[str], session: int | str | None) -> int:
    """Index of a session given by name or index; None: the only one.

    Raises:
        VocabularyError: if there is none, or there are several to choose from; the message lists what there is.
    """
    if session is None and len(names) == 1:
        return 0
    if isinstance(session, str) and session in names:
        return names.index(session)
    if isinstance(session, int) and -len(names) <= session < len(names):
        return session % len(names)
    known = some(names, 10)
    if session is None and names:
        way = "choose one (session=..., or on the command line --as NAME)"
        raise VocabularyError(f"the model knows {len(names)} sessions: {way}: {known}")
    if not names:
        raise VocabularyError("the model knows no session yet: add_session adds one")
    raise VocabularyError(
        f"unknown session {session!r}; the model knows {known}: choose one of these (session=..., or on the command "
        "line --as NAME), or adapt the model to it (poco adapt)"
    )


def expect_new(specs: Iterable[SessionSpec], name: str) -> None:
    """Raises VocabularyError if a session of this name is among those that a model knows."""
    if any(name == known.name for known in specs):
        raise VocabularyError(
            f"the model knows a session '{name}' already: it needs no adapting; if the recording is another one, give "
            "it another name (by name under [sessions] in dataset.toml, or of its file if that does not say its own)"
        )


def not_normalised(session: str) -> str:
    """What is doubtful about forecasts of a session whose normalisation was never set."""
    return (
        f"the model does not know how session '{session}' was normalised, so its activity is taken for normalised "
        f"already: call model.set_normalisation('{session}', mean, std) with what its training windows were, "
        "split.mean[i] and split.std[i] of a poco.split, or with zeros and ones if it is"
    )


def check_state(ours: Sequence[SessionSpec], state: dict[str, Tensor], prefix: str) -> None:
    """That a state dict is for a model of these sessions.

    Raises:
        VocabularyError: if it is for other sessions.
    """
    stored = state.get(f"{prefix}vocabulary")
    if stored is None:
        return
    theirs = decode(stored)
    if theirs != tuple(ours):
        raise VocabularyError(
            f"the state dict is for sessions {[s.name for s in theirs]} and the model for {[s.name for s in ours]}, "
            "or their units differ: POCO.from_pretrained builds a model to fit; subset and add_session change one"
        )
