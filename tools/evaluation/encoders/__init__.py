"""Feature extractors: published, untrained and in-domain, and where their weights come from."""
