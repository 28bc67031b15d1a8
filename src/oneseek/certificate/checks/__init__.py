"""The checks of `oneseek verify`, and how they read a directory in which anything may lie."""
