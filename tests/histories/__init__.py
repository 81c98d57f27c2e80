"""Histories that others published: each from its own package, in its own environment, on a real database with rows in it."""
