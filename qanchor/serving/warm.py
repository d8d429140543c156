"""Users who were read lately, so that another question costs its suffix only."""

from __future__ import annotations

from collections import OrderedDict

from qanchor.inference.reading import Reading

Key = tuple[str, bytes]
"""User, and a hash of all that the prefix depends on (`live.Live.key`)."""


class Warm:
    """The least recently used are dropped once all together are larger than `limit` bytes. For one thread."""

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._readings: OrderedDict[Key, Reading] = OrderedDict()

    def __len__(self) -> int:
        return len(self._readings)

    def get(self, key: Key) -> Reading | None:
        reading = self._readings.get(key)
        if reading:
            self._readings.move_to_end(key)
        return reading

    def put(self, key: Key, reading: Reading) -> None:
        self._drop(key)
        self._readings[key] = reading
        self.nbytes += reading.nbytes
        while self.nbytes > self.limit:
            self._drop(next(iter(self._readings)))

    def forget(self, user_id: str) -> None:
        for key in [key for key in self._readings if key[0] == user_id]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        if reading := self._readings.pop(key, None):
            self.nbytes -= reading.nbytes
