"""One exchange between a client and an engine: its bytes both ways, and every bad end."""
