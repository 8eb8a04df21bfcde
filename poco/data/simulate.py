"""Simulated recordings: chaotic networks that share a template of their connectivity, one network per animal.

The network is the one of the published POCO study. The state ``h`` of ``N`` units follows

    tau dh/dt = -h + J tanh(h) + noise

with ``J = g / sqrt(N) * (sqrt(1 - eta^2) * template + eta * individual)``, both matrices standard normal. The template
is common to all animals, the rest belongs to one animal; ``eta`` is the individuality. Activity is ``tanh(h)``,
averaged over the simulation steps of a frame. With a gain ``g`` well above 1 such a network is chaotic: what a unit
does next depends on the whole population.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, get_type_hints

import numpy as np

from poco.data.recording import Recording
from poco.errors import ConfigError
from poco.fields import check_kind

_TEMPLATE, _INDIVIDUAL, _DYNAMICS, _MEASUREMENT = range(4)  # one random stream for each purpose


def simulate(
    animals: int = 4,
    units: int = 300,
    frames: int = 4096,
    *,
    rate_hz: float = 20.0,
    seed: int = 0,
    individuality: float = 0.2,
    gain: float = 2.0,
    time_constant: float = 0.1,
    step: float = 0.01,
    noise: float = 0.1,
    regions: int = 1,
    coupling: float = 1.0,
    calcium_decay: float | None = None,
    measurement_noise: float = 0.0,
    warm_up: float = 5.0,
) -> list[Recording]:
    """Simulate one recording for each of several animals whose networks share a template.

    An animal's recording depends on ``seed`` and its own number only, so asking for more animals leaves the first ones
    as they were. Animals simulated with other seeds have another template.

    Args:
        animals: number of animals, each with one session.
        units: number of units ``N`` of each animal.
        frames: number of frames ``T`` of each recording.
        rate_hz: frames a second; a frame averages ``1 / (rate_hz * step)`` simulation steps, a whole number.
        seed: seed of template, individual connectivity, dynamics and measurement.
        individuality: ``eta`` in [0, 1]: 0 gives every animal the template, 1 gives each an unrelated network.
        gain: ``g``, scale of the connectivity; the network without noise is chaotic when it is well above 1.
        time_constant: ``tau`` in seconds.
        step: simulation step in seconds.
        noise: standard deviation that the noise alone would give the state.
        regions: number of regions of (nearly) equal size; with more than one, units carry a label ``region``.
        coupling: standard deviation of connections between regions relative to those within one, 0 to 1. The total
            input to a unit keeps its variance.
        calcium_decay: time constant in seconds of an exponential kernel applied to the activity, like a calcium
            indicator's decay; None for none.
        measurement_noise: standard deviation of noise added to each frame; activity lies between -1 and 1.
        warm_up: seconds simulated before the first frame and thrown away.

    Returns:
        One recording an animal, activity ``[N, T]`` float32, sessions ``animal-1``, ``animal-2``, ...

    Raises:
        ConfigError: if a value is not of its kind, not finite or out of its range.
    """
    steps_per_frame = check_simulation(
        animals=animals,
        units=units,
        frames=frames,
        rate_hz=rate_hz,
        seed=seed,
        individuality=individuality,
        gain=gain,
        time_constant=time_constant,
        step=step,
        noise=noise,
        regions=regions,
        coupling=coupling,
        calcium_decay=calcium_decay,
        measurement_noise=measurement_noise,
        warm_up=warm_up,
    )
    region = np.arange(units) * regions // units
    scale = gain * _connection_scale(region, coupling)
    template = _random(seed, _TEMPLATE).standard_normal((units, units))
    settings = {"individuality": individuality, "gain": gain, "noise": noise, "seed": seed}
    recordings = []
    for animal in range(animals):
        individual = _random(seed, _INDIVIDUAL, animal).standard_normal((units, units))
        connectivity = scale * (math.sqrt(1 - individuality**2) * template + individuality * individual)
        activity = _run(
            connectivity,
            frames=frames,
            steps_per_frame=steps_per_frame,
            rate=step / time_constant,
            noise=noise,
            warm_up=math.ceil(warm_up * rate_hz),
            random=_random(seed, _DYNAMICS, animal),
        )
        if calcium_decay is not None:
            activity = _exponential_kernel(activity, math.exp(-1 / (rate_hz * calcium_decay)))
        if measurement_noise:
            random = _random(seed, _MEASUREMENT, animal)
            activity = activity + measurement_noise * random.standard_normal(activity.shape, dtype=np.float32)
        name = f"animal-{animal + 1}"
        recordings.append(
            Recording(
                activity=activity,
                session=name,
                rate_hz=rate_hz,
                subject=name,
                dataset="simulated",
                labels={"region": tuple(f"region-{r + 1}" for r in region)} if regions > 1 else {},
                provenance={"source": "poco.data.simulate", **{key: str(value) for key, value in settings.items()}},
            )
        )
    return recordings


def check_simulation(**options: Any) -> int:
    """The number of simulation steps in a frame.

    Args:
        **options: of :func:`simulate`; those left out have its defaults.

    Raises:
        ConfigError: if a value is not of its kind, not finite or out of its range.
    """
    given = {name: parameter.default for name, parameter in inspect.signature(simulate).parameters.items()} | options
    hints = get_type_hints(simulate)
    for name, value in given.items():
        check_kind(f"simulate: {name}", value, hints[name])
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"simulate: {name} must be a finite number, got {value}")
    for name in ("animals", "units", "frames", "regions"):
        if given[name] < 1:
            raise ConfigError(f"simulate: {name} must be at least 1, got {given[name]}")
    for name in ("rate_hz", "time_constant", "step"):
        if given[name] <= 0:
            raise ConfigError(f"simulate: {name} must be a positive number, got {given[name]}")
    for name in ("individuality", "coupling"):
        if not 0 <= given[name] <= 1:
            raise ConfigError(f"simulate: {name} must lie between 0 and 1, got {given[name]}")
    for name in ("seed", "noise", "measurement_noise", "warm_up"):
        if given[name] < 0:
            raise ConfigError(f"simulate: {name} must not be negative, got {given[name]}")
    regions, units, calcium_decay = given["regions"], given["units"], given["calcium_decay"]
    rate_hz, step, time_constant = given["rate_hz"], given["step"], given["time_constant"]
    if calcium_decay is not None and calcium_decay <= 0:
        raise ConfigError(f"simulate: calcium_decay must be a positive number of seconds, got {calcium_decay}")
    if regions > units:
        raise ConfigError(f"simulate: {regions} regions need at least {regions} units, got {units}")
    if step > time_constant:
        raise ConfigError(f"simulate: step ({step} s) must not exceed time_constant ({time_constant} s)")
    steps = 1 / (rate_hz * step)
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-6 * steps:
        raise ConfigError(f"simulate: a frame at {rate_hz} Hz must be a whole number of {step} s steps, not {steps:g}")
    return round(steps)


def _random(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose])


def _connection_scale(region: np.ndarray, coupling: float) -> np.ndarray:
    """Standard deviation of each connection ``[N, N]`` for gain 1: the squares in a row sum to 1."""
    relative = np.where(region[:, None] == region[None, :], 1.0, coupling)
    return relative / np.sqrt(np.square(relative).sum(axis=1, keepdims=True))


def _run(
    connectivity: np.ndarray,
    *,
    frames: int,
    steps_per_frame: int,
    rate: float,
    noise: float,
    warm_up: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Euler steps of one network; ``rate`` is step / time constant. Returns frame averages ``[N, T]`` float32."""
    units = connectivity.shape[0]
    drive = np.ascontiguousarray(rate * connectivity, dtype=np.float32)
    keep, jitter = np.float32(1 - rate), np.float32(noise * math.sqrt(2 * rate))
    state = random.uniform(-1, 1, (units,)).astype(np.float32)
    out = np.empty((frames, units), dtype=np.float32)
    active = np.empty((steps_per_frame, units), dtype=np.float32)
    for frame in range(-warm_up, frames):
        shocks = jitter * random.standard_normal((steps_per_frame, units), dtype=np.float32)
        for i in range(steps_per_frame):
            state += shocks[i]
            np.tanh(state, out=active[i])
            state *= keep
            state += drive @ active[i]
        if frame >= 0:
            active.mean(axis=0, out=out[frame])
    return np.ascontiguousarray(out.T)


def _exponential_kernel(activity: np.ndarray, decay: float) -> np.ndarray:
    """Causal exponential kernel of unit area along the frames of ``[N, T]``."""
    out = np.empty_like(activity)
    state = activity[:, 0].copy()
    for frame in range(activity.shape[1]):
        state = decay * state + (1 - decay) * activity[:, frame]
        out[:, frame] = state
    return out
