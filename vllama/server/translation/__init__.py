"""From what any API asks to the call of any engine, and back; hot for every token."""
