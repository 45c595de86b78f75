"""The report of an evaluation: numbers, pictures and pages."""
