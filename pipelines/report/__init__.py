"""report.html of prepared data."""
