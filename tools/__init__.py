"""Commands, run as `python -m tools.NAME`, and the two libraries that they share: runtime and evaluation."""
