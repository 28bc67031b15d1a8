"""Conversations and plain rows as the text that a model learns from, and which characters of it count."""
