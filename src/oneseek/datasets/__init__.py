"""Training data: which formats there are, reading a file of rows, and setting rows aside for validation."""
