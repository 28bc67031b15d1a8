"""The ledger: an append-only Merkle log of completed runs, its signed checkpoints and its proofs."""
