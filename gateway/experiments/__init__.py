"""A/B tests in a running gateway: arms as routes, what was seen, its store and analysis, feedback, shadows, reports."""
