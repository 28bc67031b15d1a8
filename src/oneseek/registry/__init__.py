"""Base models: what each can do, read from its own files (`capabilities`), and where they lie on disk (`discover`)."""
