"""What changes over minutes: how far the scene reaches, how light it is, who comes and goes.

The first `ONSET` frames know nothing of it, so that a short video is the same whether or not it goes on. From there
everything moves off smoothly: positions and light have no jump, and neither has their speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ONSET = 96  # the last frame of a video of 6 segments of 17: what the embedded model has learned
RAMP = 48  # frames that leaving the view takes, and coming back
_SEED_MARK = 0x510E  # a stream of random numbers of its own, so that the scene's own draws stay as they were


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Slow changes of one scene.

    Args:
        reach: how far the back wall goes away from the camera, metres.
        rise: how far the camera goes up, metres; 0 for a static camera.
        camera_moves: whether the camera goes back; else the wall does.
        period: frames from near to far and back.
        dusk: frames from light to dark and back; None: the light stays.
    """

    reach: float
    rise: float
    camera_moves: bool
    period: float
    dusk: float | None

    @staticmethod
    def none() -> Changes:
        return Changes(reach=0.0, rise=0.0, camera_moves=True, period=1.0, dusk=None)

    def openness(self, t: int) -> float:
        """0 (as at the start) .. 1 (as far as it goes)."""
        return _there_and_back(t, self.period)

    def recession(self, t: int) -> float:
        """How much farther the wall is from the camera, metres."""
        return self.reach * self.openness(t)

    def lift(self, t: int) -> float:
        """How much higher the camera is, metres; the square keeps it low until there is room before the wall."""
        return self.rise * self.openness(t) ** 2

    def dimming(self, t: int) -> float:
        """0 (the light of the start) .. 1 (the other)."""
        return 0.0 if self.dusk is None else _there_and_back(t, self.dusk)


@dataclass(frozen=True, kw_only=True)
class Outings:
    """When an object is out of view: once a period, off to one side and back from the other.

    Args:
        period: frames from one leaving to the next.
        first: frame of the first leaving; `ONSET` or later.
        away: frames that it stays out of view.
        side: -1 or 1: where it leaves to, x.
        guest: not there at first: its first outing ends with its first coming.
    """

    period: int
    first: int
    away: int
    side: int
    guest: bool = False

    def aside(self, t: int) -> float:
        """How far out of view at frame t: 0 within the scene, -1 or 1 gone to that side."""
        since = t - self.first
        if since < 0:
            return float(-self.side) if self.guest else 0.0
        number, within = divmod(since, self.period)
        leaving = self.side if number % 2 == 0 else -self.side
        if within < RAMP + self.away / 2:  # it goes on from one side to the other while nobody sees it
            if self.guest and number == 0:
                return float(-leaving)
            return leaving * _smooth(within / RAMP)
        return -leaving * (1 - _smooth((within - RAMP - self.away) / RAMP))


def draw_changes(seed: int, *, indoor: bool, camera_moves: bool, light_changes: bool) -> Changes:
    """The slow changes of the scene with this seed."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, _SEED_MARK]))
    reach, rise = rng.uniform(20.0, 55.0), rng.uniform(1.2, 3.2)
    period, dusk = rng.uniform(420.0, 900.0), rng.uniform(500.0, 1100.0)
    if indoor:
        reach, rise = 0.6 * reach, 0.4 * rise
    return Changes(
        reach=float(reach),
        rise=float(rise) if camera_moves else 0.0,
        camera_moves=camera_moves,
        period=float(period),
        dusk=float(dusk) if light_changes else None,
    )


def draw_outings(seed: int, index: int, *, guest: bool) -> Outings:
    """When the scene's object of this number is out of view."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, _SEED_MARK, 1 + index]))
    away = int(rng.integers(30, 160))
    return Outings(
        period=2 * RAMP + away + int(rng.integers(120, 420)),
        first=ONSET + int(rng.integers(0, 60 if guest else 300)),
        away=away,
        side=1 if rng.random() < 0.5 else -1,
        guest=guest,
    )


def _there_and_back(t: int, period: float) -> float:
    """0 until the onset, then 0 .. 1 .. 0 once a period."""
    return 0.0 if t <= ONSET else float(0.5 - 0.5 * np.cos(2 * np.pi * (t - ONSET) / period))


def _smooth(x: float) -> float:
    """0 .. 1 with no slope at either end."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)
