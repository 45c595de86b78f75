"""Find faults of a table and its images before any training."""
