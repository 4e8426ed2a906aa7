"""Answer quality: judges with a licence, sampling of production, drift, feedback."""
