"""From scores to a decision, and from a decision to a gate."""
