"""The edge: listening, the guard, reading requests, relaying answers, telling errors."""
