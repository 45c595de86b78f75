"""A study of declared recipes: plan, runs and table."""
