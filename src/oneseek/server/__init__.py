"""What is served over HTTP: the ledger service."""
