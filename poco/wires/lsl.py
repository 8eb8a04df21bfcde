"""Frames and forecasts over Lab Streaming Layer, by its clock."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np

from poco.errors import ConfigError, optional
from poco.stream import StreamForecast
from poco.wires.framing import WIRE_MARKS, WireFrame, bits_of
from poco.wires.live import Arrivals

_SECONDS = 10  # of samples that an inlet or outlet keeps; of one without a rate, as many hundred samples
_PATIENCE = 5.0  # seconds without a sample after which the stream is looked for again


def library() -> Any:
    """The package ``pylsl``.

    Raises:
        MissingExtraError: if it is not installed.
        ConfigError: if it cannot find its library.
    """
    try:
        with optional("pylsl", "stream", "Lab Streaming Layer"):
            import pylsl
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"pylsl does not find its library, liblsl: {error}") from None
    return pylsl


class LslSource:
    """Samples of the stream of a name, one channel for each unit, at the times that LSL's clock here gives them.

    The stream need not be there yet. If it ends, or nothing comes for seconds, it is looked for again; numbers of
    frames begin anew with another stream of the name. Of samples that wait, the newest are kept.

    Args:
        name: of the LSL stream; the first one that answers is taken.
        units: that the session has.
        keep: samples that may wait; older ones are dropped and counted.

    Attributes:
        dropped, damaged, complaint: as of :class:`poco.wires.live.Source`; nothing is damaged here.

    Raises:
        ConfigError: if there can be no such name.
        MissingExtraError: without pylsl.
    """

    def __init__(self, name: str, units: int, *, keep: int = 64) -> None:
        self.dropped = self.damaged = 0
        self.complaint = ""
        self._lsl, self._name, self._units, self._keep = library(), _checked(name), units, keep
        self._inlet: Any = None
        self._resolver: Any = None
        self._uid = ""
        self._number = 0
        self._arrivals = Arrivals()
        self._heard = 0.0
        self._sample = np.empty(0)

    def next(self, timeout: float) -> WireFrame | None:
        """The next frame; None if none came within about so many seconds.

        Raises:
            ConfigError: if the stream's samples cannot be frames of the session.
        """
        until = time.monotonic() + timeout
        while True:
            left = max(until - time.monotonic(), 0.0)
            found = self._pull(left) if self._inlet is not None else None
            if found is not None:
                return found
            if self._inlet is None:
                self._look()
            if time.monotonic() >= until:
                return None

    def close(self) -> None:
        """Lets go of the stream."""
        _end_aside([self._inlet, self._resolver])
        self._inlet = self._resolver = None

    def _look(self) -> None:
        """Looks whether the stream is there."""
        if self._resolver is None:  # not resolve_byprop, which may block for seconds where there is nothing
            self._resolver = self._lsl.ContinuousResolver("name", self._name, forget_after=2.0)
        found = self._resolver.results()
        if not found:
            time.sleep(0.02)
            return
        info = found[0]
        formats = {
            self._lsl.cf_float32: np.float32,
            self._lsl.cf_double64: np.float64,
            self._lsl.cf_int8: np.int8,
            self._lsl.cf_int16: np.int16,
            self._lsl.cf_int32: np.int32,
            self._lsl.cf_int64: np.int64,
        }
        if info.channel_format() not in formats:
            raise ConfigError(f"the LSL stream '{self._name}' is of text: a frame is of numbers")
        if info.channel_count() != self._units:
            raise ConfigError(
                f"the LSL stream '{self._name}' has {info.channel_count()} channels, and the session has "
                f"{self._units} units: there must be one channel for each unit"
            )
        rate = info.nominal_srate()
        seconds = max(_SECONDS, math.ceil(2 * self._keep / rate)) if rate > 0 else _SECONDS
        # Not recovered by the library: it would do so without a word, and go on as if nothing were missing.
        inlet = self._lsl.StreamInlet(info, seconds, recover=False, processing_flags=self._lsl.proc_clocksync)
        try:
            inlet.time_correction(timeout=2.0)  # takes most of a second: better before samples come than after
            inlet.open_stream(timeout=2.0)
        except (self._lsl.util.LostError, self._lsl.util.TimeoutError):
            return
        self._inlet, self._heard, self._arrivals = inlet, time.monotonic(), Arrivals()
        _end_aside([self._resolver])
        self._resolver = None
        self._sample = np.empty(self._units, formats[info.channel_format()])
        if info.uid() != self._uid:
            self._uid, self._number = info.uid(), 0

    def _pull(self, timeout: float) -> WireFrame | None:
        """The next sample; without one the inlet may be gone afterwards."""
        try:
            while (waiting := self._inlet.samples_available()) > self._keep and self._one(0.0) is not None:
                self.dropped += 1
            if waiting:
                self._arrivals.look(self._number + waiting)
            seconds = self._one(timeout)
        except self._lsl.util.LostError:
            _end_aside([self._inlet])
            self._inlet = None
            return None
        if seconds is None:
            if time.monotonic() - self._heard > _PATIENCE:
                _end_aside([self._inlet])
                self._inlet = None
            return None
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and so missing
            values = self._sample.astype(np.float32)
        return WireFrame(self._number - 1, seconds, values, self._arrivals.of(self._number))

    def _one(self, timeout: float) -> float | None:
        """Takes one sample and gives its time; None if none came."""
        _, stamps = self._inlet.pull_chunk(timeout=timeout, max_samples=1, dest_obj=self._sample)
        if not stamps:
            return None
        self._heard = time.monotonic()
        self._number += 1
        return float(stamps[0])


class LslSink:
    """An LSL stream of forecasts: ``units x steps`` channels and two more.

    All steps of the first unit come first, then those of the second. A value is NaN where it is not valid. The last two
    channels are the marks (a sum of bits, as in the framing) and the latency in milliseconds. While the stream warms up
    there is no sample. LSL does not say what a slow consumer misses.

    Args:
        name: of the LSL stream.
        units, steps: that a forecast has.
        times: whether frames have their times by LSL's clock; samples then have the time of the frame, and otherwise
            the time at which they are sent.

    Attributes:
        dropped: 0.

    Raises:
        ConfigError: if there can be no such name.
        MissingExtraError: without pylsl.
    """

    def __init__(self, name: str, units: int, steps: int, *, times: bool) -> None:
        self.dropped = 0
        self._times = times
        lsl = library()
        info = lsl.StreamInfo(
            _checked(name), "Forecast", units * steps + 2, lsl.IRREGULAR_RATE, lsl.cf_float32, f"poco-{name}"
        )
        about = info.desc().append_child("forecast")
        for field, value in (
            ("units", units),
            ("steps", steps),
            ("order", "unit 0 step 1, unit 0 step 2, ..., unit 1 step 1, ..., marks, latency_ms"),
            ("marks", ", ".join(f"{bit} {mark}" for bit, mark in WIRE_MARKS.items())),
        ):
            about.append_child_value(field, str(value))
        self._outlet = lsl.StreamOutlet(info, 1, _SECONDS)
        self._sample = np.empty(units * steps + 2, np.float32)

    def send(self, number: int, found: StreamForecast) -> None:
        """Sends a forecast as one sample."""
        if found.values is None:
            return
        self._sample[:-2] = np.where(found.valid[:, None], found.values, np.nan).ravel()
        self._sample[-2:] = bits_of(found.marks), found.latency_ms
        # Time 0: now.
        self._outlet.push_sample(self._sample, found.time if self._times and found.time is not None else 0.0)

    def close(self) -> None:
        """Ends the stream."""
        self._outlet = None


def _end_aside(objects: list[Any]) -> None:
    """Lets go of the library's objects in a thread: it may take seconds to end them.

    Args:
        objects: of which the caller must keep none.
    """
    threading.Thread(target=objects.clear, daemon=True).start()


def _checked(name: str) -> str:
    if any(sign in name for sign in "'\""):
        raise ConfigError(f"the name of an LSL stream must be without quotation marks, got {name}")
    return name
