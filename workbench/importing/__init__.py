"""Bring what a user already has into the forms of an evalset."""
