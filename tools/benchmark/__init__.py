"""Speed of each subject, measured against what a user would use instead."""
