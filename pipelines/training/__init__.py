"""Trains models from encoded data on Ray Train, durably."""
