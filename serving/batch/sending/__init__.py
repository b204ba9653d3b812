"""Many requests in flight at the endpoints of a model: a window for each, retries by a budget, long rows first."""
