"""The layers together: what is configured and measured of each, and what is missing."""
