"""The server's own state in one SQLite file: the queue of runs, and who may ask the server for what."""
