"""Control planes and counters of the built-in services, one module a kind."""
