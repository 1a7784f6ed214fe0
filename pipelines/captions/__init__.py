"""Prompts: given, beside the videos, from a vision model, or rewritten for an edited first frame."""
