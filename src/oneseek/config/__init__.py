"""Configuration: one schema with every default, and the sources that values come from."""
