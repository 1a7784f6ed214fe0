"""`longvie evaluate`: generated long videos against the prepared ones they were made from, on Ray Data."""
