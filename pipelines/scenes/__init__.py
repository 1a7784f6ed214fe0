"""From the synthetic world to prepared data."""
