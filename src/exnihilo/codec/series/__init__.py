"""Series: numbers over time from tables and arrays, their clock, windows, norms, bins. See docs/series.md."""
