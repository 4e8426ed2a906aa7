"""Which model answers, and whether a router is worth it."""
