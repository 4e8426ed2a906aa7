"""Durable flows and jobs: plain functions over plain step functions, recorded, resumed, replayed, forked, compared."""
