"""Several processes that serve on one socket, with one owner of the engines."""
