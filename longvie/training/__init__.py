"""Losses, updates and recipes: torch only; placing them on many machines is not decided here."""
