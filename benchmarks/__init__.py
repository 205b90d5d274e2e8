"""Benchmarks of Clipper: `python -m benchmarks NAME --help`."""
