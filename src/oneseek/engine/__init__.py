"""Training itself. `interface.py` is what the rest of OneSeek knows of it; torch is imported here and nowhere else."""
