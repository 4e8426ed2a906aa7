"""Data with labels: questions, judgements and documents of a folder, with their hashes."""
