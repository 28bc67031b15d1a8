"""The page: templates, style and ES modules, served as they are written. They ask the API that everybody has."""

from __future__ import annotations

from oneseek.server.pages.routes import install

__all__ = ["install"]
