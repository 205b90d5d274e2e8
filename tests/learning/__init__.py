"""Tests of what is learned, and of how it is kept."""
