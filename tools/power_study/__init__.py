"""Measures the strength from which each kind of features finds a fault."""
