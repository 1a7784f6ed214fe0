"""From animated 3-D scenes to prepared data."""
