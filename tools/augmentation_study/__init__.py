"""Do synthetic images help a classifier? Folds, arms, results and the page."""
