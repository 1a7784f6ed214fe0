"""From raw videos to controls, exact statistics and segments, on Ray Data."""
