"""Library of the benchmark: one file a subject, measured against what a user would pick instead."""
