"""The agent's decisions, pure: ``handle(now_ns, event) -> effects``. No clock, I/O, randomness, thread or log here."""
