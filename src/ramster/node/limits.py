"""How often somebody may do something: a bucket of permits that fills with time. Pure: the time comes in."""

from __future__ import annotations


class Bucket:
    """`burst` permits at first, then `per_s` new ones a second, never more than `burst`."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, float(burst)
        self._left, self._at_s = float(burst), 0.0

    def take(self, now_s: float) -> bool:
        """Takes a permit if there is one. `now_s` never goes back."""
        self._left = min(self._burst, self._left + max(now_s - self._at_s, 0.0) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
