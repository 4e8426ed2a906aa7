"""What was spent: for whom, why it changed, whether the invoice agrees, and the same in FOCUS names."""
