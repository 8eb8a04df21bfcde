"""Frames and forecasts through shared memory of this machine: a ring of messages, one writer, any readers.

The ring is the POSIX shared memory object ``/poco-NAME`` (the file ``/dev/shm/poco-NAME``). All numbers are
little-endian and lie at multiples of 8 bytes:

====== ========= ============================================================================================
offset type      what
====== ========= ============================================================================================
0      8 bytes   ``POCORING``
8      uint64    version of this layout: 1
16     uint64    slots
24     uint64    bytes of a slot, a multiple of 8
32     uint64    messages written so far
40     24 bytes  zeros
64               the slots, one after another
====== ========= ============================================================================================

Message ``n``, from 1, lies in slot ``(n - 1) % slots``: ``uint64`` n (0 while it is being written), ``uint32`` bytes of
the message, ``uint32`` CRC-32 (that of zlib) over the eight bytes of n and then the message, and the message, in the
framing. A writer first sets n of the slot to 0, then writes the rest, then n, then the number of messages written. A
reader copies the message and believes it if n was right before and after, and the CRC is. Who is slower than the
writer by a whole ring has missed messages, and goes on with the oldest that are there.

The writer holds an exclusive ``flock`` on ``/dev/shm/poco-NAME@lock``. One that begins makes a new object as
``/dev/shm/poco-NAME@new`` and then renames it, so a reader that finds another file under the name has a new writer. It
never truncates an object that is there, nor begins anew within it: a reader takes that for the end of its writer, and
may miss messages of the next one, or read some twice. The object is removed when its writer ends as it should.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import struct
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

from poco.errors import ConfigError, WireError
from poco.stream import StreamForecast
from poco.wires.framing import WireFrame, decode, encode_forecast, forecast_bytes
from poco.wires.live import Arrivals

FOLDER = Path("/dev/shm")
_HEADER, _SLOT = struct.Struct("<8sQQQQ24x"), struct.Struct("<QII")
_MAGIC, _VERSION = b"POCORING", 1
_LARGEST = 1 << 26  # bytes of a ring, unless four messages take more
_WRITTEN = 32  # where the number of messages lies
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_PAUSE = 0.0002  # seconds between two looks for a message
_TRIES = 10  # to read a message that is not whole
_LOOK = 0.01  # and for another ring


class _GoneError(Exception):
    """The ring is not any more what it was when it was opened."""


class RingWriter:
    """Writes messages for whoever reads them; never waits for anybody.

    Args:
        name: of the ring: letters, digits, ``_``, ``-`` and ``.``.
        largest: bytes that a message may have.
        slots: messages that are kept; fewer where they would take more than 64 MiB, but four at least.

    Raises:
        ConfigError: if there can be no such ring here, or another program writes it.
    """

    def __init__(self, name: str, largest: int, *, slots: int = 64) -> None:
        self._path = _path(name)
        self._slot = _SLOT.size + (largest + 7) // 8 * 8
        self._slots = max(4, min(slots, _LARGEST // self._slot))
        try:
            self._lock = os.open(f"{self._path}@lock", _OPEN, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot lock the shared memory '{name}': {error.filename}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError(f"another program writes the shared memory '{name}': choose another name") from None
        try:
            self._make(_HEADER.size + self._slots * self._slot)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(f"cannot make the shared memory '{name}': {error.strerror}") from None
        self._written = 0

    def _make(self, size: int) -> None:
        """Makes the ring under another name, and gives it its own when it is one."""
        made = Path(f"{self._path}@new")
        made.unlink(missing_ok=True)  # of a writer that was killed while it made it
        file = os.open(made, _OPEN | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(file, 0, size)  # or a later write would end the program where memory is short
            self._memory = mmap.mmap(file, size)
            self._memory[: _HEADER.size] = _HEADER.pack(_MAGIC, _VERSION, self._slots, self._slot, 0)
            os.rename(made, self._path)
        except OSError:
            made.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        self._words = memoryview(self._memory).cast("Q")  # whole words are written at once

    def write(self, message: bytes) -> None:
        """Writes one message.

        Raises:
            WireError: if it is larger than the ring was made for.
        """
        if len(message) > self._slot - _SLOT.size:
            raise WireError(f"a message of {len(message)} bytes is more than a slot of {self._slot - _SLOT.size} takes")
        number = self._written + 1
        at = _HEADER.size + self._written % self._slots * self._slot
        self._words[at // 8] = 0  # the same in every order of bytes
        struct.pack_into("<II", self._memory, at + 8, len(message), _sum(number, message))
        self._memory[at + _SLOT.size : at + _SLOT.size + len(message)] = message
        self._words[at // 8] = _little(number)
        self._words[_WRITTEN // 8] = _little(number)
        self._written = number

    def close(self) -> None:
        """Removes the ring; readers keep what they have open."""
        if self._lock < 0:
            return
        self._words.release()
        self._memory.close()
        self._path.unlink(missing_ok=True)
        os.close(self._lock)  # the file of the lock stays: removing it could let two writers in
        self._lock = -1


class RingReader:
    """Reads the messages of a ring, one after another, and finds its writer again when that was started anew.

    It begins with what is written after it has opened the ring, and with the first message of a later one.

    Args:
        name: of the ring, which need not be there yet.

    Attributes:
        missed: messages that were overwritten before they were read.
        damaged: messages that were not whole, and rings that were none.
        complaint: what was wrong with the last one of these; empty if there was none.
        arrived: ``time.monotonic()`` when the last message that was read was first known to be there.

    Raises:
        ConfigError: if there can be no such ring here.
    """

    def __init__(self, name: str) -> None:
        self.missed = self.damaged = 0
        self.complaint, self.arrived = "", 0.0
        self._arrivals = Arrivals()
        self._path = _path(name)
        self._ring = self._inode = -1  # the open file; it is read, and not mapped: one that shrinks ends nobody
        self._wrong = -1  # the inode of what was counted as no ring
        self._slots = self._slot = self._read = 0
        self._looked = 0.0
        self._open(after=True)

    def read(self, timeout: float) -> bytes | None:
        """The next message; None if none came within so many seconds."""
        until = time.monotonic() + timeout
        while True:
            try:
                message = self._next() if self._ring >= 0 else None
            except _GoneError:
                self.close()
                continue
            if message is not None:
                return message
            now = time.monotonic()
            if now - self._looked >= _LOOK:
                self._looked = now
                if self._open(after=False):
                    continue
            if now >= until:
                return None
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Lets go of the ring."""
        if self._ring >= 0:
            os.close(self._ring)
        self._ring = self._inode = -1

    def _next(self) -> bytes | None:
        """The next message that is whole; None if there is none yet."""
        while (written := self._written()) > self._read:
            self._arrivals.look(written)
            oldest = max(self._read, written - self._slots)
            self.missed += oldest - self._read
            self._read = oldest
            number = oldest + 1
            at = _HEADER.size + oldest % self._slots * self._slot
            for _ in range(_TRIES):
                before, size, crc = _SLOT.unpack(self._bytes(_SLOT.size, at))
                message = self._bytes(min(size, self._slot - _SLOT.size), at + _SLOT.size)
                after = _word(self._bytes(8, at))
                if before == after == number and len(message) == size and crc == _sum(number, message):
                    self._read = number
                    self.arrived = self._arrivals.of(number)
                    return message
                if self._written() - number >= self._slots - 1:  # the writer came round while it was read
                    self.missed += 1
                    break
                time.sleep(_PAUSE)  # some processors show the number before the rest
            else:
                self.damaged += 1
                self.complaint = f"message {number} in {self._path} is not whole"
            self._read = number
        return None

    def _bytes(self, count: int, at: int) -> bytes:
        """What stands at a place of the ring."""
        found = os.pread(self._ring, count, at)
        if len(found) < count:
            raise _GoneError
        return found

    def _written(self) -> int:
        """How many messages were written; never fewer than were read."""
        found = _word(self._bytes(8, _WRITTEN))
        if found < self._read:
            raise _GoneError
        return found

    def _open(self, *, after: bool) -> bool:
        """Opens the ring of the name if it is another than the one that is open; whether there is a new one.

        Args:
            after: whether to begin after what has been written.
        """
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            found = os.fstat(file)
            if found.st_ino == self._inode:  # no other file has the inode of one that is open
                return False
            try:
                if self._ring >= 0 and self._written() > self._read:
                    return True  # the last words of the one before
            except _GoneError:
                pass
            self.close()
            head = os.pread(file, _HEADER.size, 0)
            magic, version, slots, slot, written = _HEADER.unpack(head.ljust(_HEADER.size, b"\0"))
            good = slots > 0 and slot > _SLOT.size and slot % 8 == 0 and found.st_size == _HEADER.size + slots * slot
            if magic != _MAGIC or version != _VERSION or not good:  # not yet, maybe: it is looked at again
                if found.st_ino != self._wrong:
                    self._wrong = found.st_ino
                    self.damaged += 1
                    self.complaint = f"{self._path} is no ring of version {_VERSION}"
                return False
            self._ring, self._inode, self._wrong, file = file, found.st_ino, -1, -1
        finally:
            if file >= 0:
                os.close(file)
        self._slots, self._slot, self._read = slots, slot, written if after else 0
        self._arrivals = Arrivals()
        return True


class ShmSource:
    """Frames that another program of this machine writes into a ring.

    Args:
        name: of the ring.

    Attributes:
        dropped, damaged, complaint: as of :class:`poco.wires.live.Source`.

    Raises:
        ConfigError: if there can be no such ring here.
    """

    def __init__(self, name: str) -> None:
        self._ring = RingReader(name)
        self._wrong = 0
        self._complaint = ""

    @property
    def dropped(self) -> int:
        """Frames that were overwritten before they were read."""
        return self._ring.missed

    @property
    def damaged(self) -> int:
        """Messages that were no frames."""
        return self._ring.damaged + self._wrong

    @property
    def complaint(self) -> str:
        """What was wrong with one of these."""
        return self._complaint or self._ring.complaint

    def next(self, timeout: float) -> WireFrame | None:
        """The next frame; None if none came within so many seconds."""
        until = time.monotonic() + timeout
        while (message := self._ring.read(max(until - time.monotonic(), 0.0))) is not None:
            try:
                found = decode(message)
                if isinstance(found, WireFrame):
                    return replace(found, arrived=self._ring.arrived)
                self._complaint = "it is no frame, but a forecast or an error"
            except WireError as error:
                self._complaint = str(error)
            self._wrong += 1
        return None

    def close(self) -> None:
        """Lets go of the ring."""
        self._ring.close()


class ShmSink:
    """Writes forecasts into a ring. What a slow reader misses it sees itself.

    Args:
        name: of the ring.
        units, steps: that a forecast has.

    Attributes:
        dropped: 0.

    Raises:
        ConfigError: if there can be no such ring here, or another program writes it.
    """

    def __init__(self, name: str, units: int, steps: int) -> None:
        self.dropped = 0
        self._steps = steps
        self._ring = RingWriter(name, forecast_bytes(units, steps))

    def send(self, number: int, found: StreamForecast) -> None:
        """Writes a forecast."""
        self._ring.write(encode_forecast(number, found, self._steps))

    def close(self) -> None:
        """Removes the ring."""
        self._ring.close()


def _path(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise ConfigError(f"the name of shared memory is made of letters, digits, '_', '-' and '.', got '{name}'")
    if not FOLDER.is_dir():
        raise ConfigError(f"this machine has no {FOLDER} for shared memory")
    return FOLDER / f"poco-{name}"


def _little(number: int, order: str = sys.byteorder) -> int:
    """What a word of this machine is set to, so that its bytes are those of a little-endian number."""
    return int.from_bytes(number.to_bytes(8, "little"), "big" if order == "big" else "little")


def _word(found: bytes) -> int:
    return int.from_bytes(found, "little")


def _sum(number: int, message: bytes) -> int:
    return zlib.crc32(message, zlib.crc32(struct.pack("<Q", number)))
