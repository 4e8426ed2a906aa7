"""Find documents: corpora, chunks, a tenant-bound store, and strategies over it."""
