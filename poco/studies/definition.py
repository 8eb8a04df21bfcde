"""What a study is, and how it is read from TOML: those of the paper, which lie here, or one of your own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from poco import baselines, toml
from poco.cells import at_least_one
from poco.data.simulate import check_simulation, simulate
from poco.errors import ConfigError
from poco.fields import check_kind
from poco.nn import POCOConfig
from poco.published import zapbench as benchmark
from poco.studies import zapbench
from poco.studies.adaptation import FORECASTERS, MODES, SOURCES, modes
from poco.training import TrainConfig

FOLDER = Path(__file__).parent
#: The published filters: cut-offs in cycles a frame; forwards and backwards, not padded.
FILTERS: Mapping[str, Mapping[str, Any]] = {
    "low": {"high": 0.1, "padded": False},
    "band": {"low": 0.0005, "high": 0.1, "padded": False},
}
#: What models are trained on.
TRAINING = ("multi", "dataset", "single")
#: What may be varied beside single options.
VARIED = ("context", "sessions", "frames", "animal", "filter", "model")
#: By group, where the options that may be varied are declared, and those of them that a study sets itself.
_GROUPS: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "model": (POCOConfig, ("context", "horizon")),
    "training": (TrainConfig, ("seed",)),
    "simulate": (simulate, ("seed", "return")),
}


@dataclasses.dataclass(frozen=True)
class Study:
    """An experiment.

    Attributes:
        name: its name.
        title: what it asks.
        forecasters: names of baselines, or ``"poco"``, the published POCO.
        training: ``"multi"``, one model of all sessions, ``"dataset"``, one for each data set, and ``"single"``, one
            for each session; where an animal is left out, modes of :func:`poco.adapt`, of which each forecaster takes
            those that it has.
        steps: gradient steps of each model; where an animal is left out, of adaptation.
        vary: what is varied: ``"context"``, ``"sessions"`` (how many, the first ones), ``"frames"`` (how many of each
            session are learnt from, see :func:`poco.data.splits.shorten`), ``"animal"`` (which is left out and then
            adapted to), ``"filter"`` (none, low, band), an option of POCO (``"model.latents"``; ``"model"`` for several
            at a time), of its training (``"training.learning_rate"``) or of the simulation
            (``"simulate.individuality"``); empty for nothing.
        values: its values; of ``"animal"`` those of the recordings; of ``"model"`` names of :attr:`options`.
        options: options of POCO by the name of each value, each with its ``name``.
        frames: how many frames of an animal left out are adapted to, each in turn; without one, how many of each
            session are learnt from, one number; None for all.
        base_steps: most gradient steps of the model of the other animals.
        sources: which data sets that model learns from, each in turn: that of the animal left out (``"same"``), the
            ``"other"`` ones, or ``"both"``; None for all there are.
        simulate: arguments of :func:`poco.data.simulate.simulate`, for a study of simulated recordings.
        form: ``"zapbench"`` for that benchmark's own cut and error, see :mod:`poco.studies.zapbench`; each value is
            then one of :attr:`options`, with a ``context``.
        epochs: passes over the windows for training, in place of steps, of that form.

    Raises:
        ConfigError: if there is no such forecaster, kind of training or option, or a value cannot work.
    """

    name: str
    title: str
    forecasters: tuple[str, ...]
    training: tuple[str, ...] = ("multi",)
    steps: int = 5000
    vary: str = ""
    values: tuple[Any, ...] = (None,)
    options: tuple[Mapping[str, Any], ...] = ()
    frames: tuple[int | None, ...] = (None,)
    base_steps: int | None = None
    sources: tuple[str | None, ...] = (None,)
    simulate: Mapping[str, Any] | None = None
    form: str = ""
    epochs: int | None = None

    def __post_init__(self) -> None:
        try:
            self._check()
        except ConfigError as error:
            raise ConfigError(f"the study '{self.name}': {error}") from None

    def of(self, forecaster: str) -> tuple[str, ...]:
        """The kinds of training that a forecaster takes."""
        own = modes(forecaster) if self.vary == "animal" else self.training
        return tuple(kind for kind in self.training if kind in own)

    def option(self, name: Any) -> Mapping[str, Any]:
        """The options of POCO by their name."""
        return next(option for option in self.options if option["name"] == name)

    def sizes(self, value: Any) -> dict[str, Any]:
        """The options of POCO that a value stands for."""
        if self.vary == "model":
            return {key: option for key, option in self.option(value).items() if key != "name"}
        group, _, name = self.vary.partition(".")
        return {name: value} if group == "model" else {}

    def _check(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            check_kind(field.name, getattr(self, field.name), hints[field.name])
        for name in ("forecasters", "training", "values", "frames", "sources"):
            several = getattr(self, name)
            _require(bool(several), f"{name} are missing")
            _require(all(several.count(one) == 1 for one in several), f"one of the {name} is there twice")
        frames = min((n for n in self.frames if n is not None), default=None)
        at_least_one(steps=self.steps, base_steps=self.base_steps, epochs=self.epochs, frames=frames)
        animal = self.vary == "animal"
        _require(animal == (self.base_steps is not None), 'base_steps belong to vary = "animal", and it to them')
        _check_names("forecaster", self.forecasters, FORECASTERS if animal else ("poco", *baselines.ALL))
        _check_names("training", self.training, MODES if animal else TRAINING)
        for name in self.forecasters:
            _require(bool(self.of(name)), f"the forecaster '{name}' has no training '{', '.join(self.training)}'")
        _check_names("source", self.sources, SOURCES)
        _require(animal or self.sources == (None,), 'sources belong to vary = "animal"')
        _require(animal or len(self.frames) == 1, 'several frames are given as values of vary = "frames"')
        _require(self.frames == (None,) or self.vary != "frames", 'vary = "frames" has values and no frames')
        _require(self.form in ("", zapbench.PROTOCOL), f"there is no form '{self.form}': it is 'zapbench' or left out")
        of_form = self.form == zapbench.PROTOCOL
        _require(not of_form or self.frames == (None,), "the form 'zapbench' has parts of its own: leave out frames")
        _require(of_form == (self.epochs is not None), 'epochs belong to form = "zapbench", and it to them')
        _require(not of_form or self.vary == "model", "the form 'zapbench' has vary = \"model\" and options")
        self._check_options(of_form)
        self._check_values()

    def _check_options(self, of_form: bool) -> None:
        """The options that values are names of, and those of a simulation."""
        _require((self.vary == "model") == bool(self.options), 'options belong to vary = "model", and it to them')
        names = [option.get("name") for option in self.options]
        for option, name in zip(self.options, names, strict=True):
            _require(isinstance(name, str) and names.count(name) == 1, "each of the options needs a name of its own")
            _require(not of_form or "context" in option, f"the option '{name}' of the form 'zapbench' needs a context")
            sizes = self.sizes(name)
            for key, value in sizes.items():
                if key != "context" or not of_form:
                    _check_option("model", key, value)
            given: dict[str, Any] = {"horizon": benchmark.HORIZON} if of_form else {}
            POCOConfig(**given, **sizes)
        for key, value in (self.simulate or {}).items():
            _check_option("simulate", key, value)
        if self.simulate and not self.vary.startswith("simulate."):  # else with each value of what is varied
            check_simulation(**self.simulate)

    def _check_values(self) -> None:
        """What is varied, and each of its values."""
        group, dot, name = self.vary.partition(".")
        if not self.vary:
            _require(self.values == (None,), "values without vary")
        elif dot:
            _require(group in _GROUPS, f"there is no group '{group}' to vary: it is one of {', '.join(_GROUPS)}")
            _require(group != "simulate" or self.simulate is not None, f'vary = "{self.vary}" needs simulate')
            for value in self.values:
                _check_option(group, name, value)
                if group == "simulate":
                    check_simulation(**{**(self.simulate or {}), name: value})
                else:
                    _GROUPS[group][0](**{name: value})
        elif self.vary in ("context", "sessions", "frames"):
            for value in self.values:
                check_kind(f"a value of {self.vary}", value, int)
                _require(value >= 1, f"a value of {self.vary} must be at least 1, got {value}")
        else:
            options = ", ".join(f"{group}.OPTION" for group in _GROUPS)
            listed = f"{', '.join(VARIED)}, {options}"
            _require(self.vary in VARIED, f"there is no '{self.vary}' to vary: choose from {listed}")
            known = {"filter": ("none", *FILTERS), "model": (None, *(option["name"] for option in self.options))}
            if self.vary in known:
                _check_names(self.vary, self.values, known[self.vary])


def names() -> tuple[str, ...]:
    """Names of the studies that there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str | Path) -> Study:
    """A study by name, or of a file that ends in ``.toml``, which gives it its name.

    Raises:
        ConfigError: if there is none, or it is no study; of an unknown name the message lists those that there are.
    """
    own = str(name).endswith(".toml")
    if not own and name not in names():
        known = ", ".join(names())
        raise ConfigError(f"there is no study '{name}': the studies are {known}; one of your own is a .toml file")
    path = Path(name) if own else FOLDER / f"{name}.toml"
    try:
        found = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the study {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    fields = [field.name for field in dataclasses.fields(Study) if field.name != "name"]
    for key in found:
        _require(key in fields, f"{path}: a study has no '{key}': it has {', '.join(fields)}")
    for key in ("title", "forecasters"):
        _require(key in found, f"{path}: the study has no {key}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return Study(path.stem, **values)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _check_names(what: str, given: tuple[Any, ...], known: tuple[Any, ...]) -> None:
    for name in given:
        listed = ", ".join(str(one) for one in known if one is not None)
        _require(name in known, f"there is no {what} '{name}': choose from {listed}")


def _check_option(group: str, name: str, value: Any) -> None:
    """That there is an option of POCO, training or simulation that may be set, and the value is of its kind."""
    declared, own = _GROUPS[group]
    hints = {key: hint for key, hint in get_type_hints(declared).items() if key not in own}
    _require(name in hints, f"there is no option '{name}' of {group} to set: there are {', '.join(sorted(hints))}")
    check_kind(f"{group}.{name}", value, hints[name])
