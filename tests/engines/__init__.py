"""Engines, real ones wherever that is cheap enough."""
