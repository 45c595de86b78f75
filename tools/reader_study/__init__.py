"""A reader study: the pack that readers open, their answers, scores and the page."""
