"""Files of others, brought into the form of an evalset: one module per family of formats."""
