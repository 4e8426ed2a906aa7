"""The answer flow of a docs assistant, and what its end-to-end quality is made of."""
