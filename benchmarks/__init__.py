"""Benchmarks of Airsmith with real components. No test depends on a measurement."""
