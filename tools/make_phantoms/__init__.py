"""Synthetic drawings of oocytes, for the demo and the tests."""
