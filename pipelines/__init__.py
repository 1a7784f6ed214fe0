"""Ray: moves data and places work; holds no maths."""
