"""Metrics, one file a family (arrays in, numbers out), the feature cache and the report."""
