"""Models: embeddings and, later, answers; priced, pinned and recorded."""
