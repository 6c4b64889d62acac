"""Models on this disk, and where they come from.

`names.resolve` finds a model, `catalogue.card` tells all of it; `transfers` fetches and gives,
`creation` makes new ones. Our store and Ollama's share a layout (`layout`), the hub's cache
is used where it lies.
"""

from vllama.store.names import known, resolve

__all__ = ["known", "resolve"]
