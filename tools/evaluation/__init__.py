"""Metrics, one file a family (arrays in, numbers out), and the evaluation that puts them together."""
