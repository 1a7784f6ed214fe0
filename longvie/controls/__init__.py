"""Controls: from pixels to depth, tracks and back to pixels."""
