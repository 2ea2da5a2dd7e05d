"""Who may connect to the scheduler and what they may ask: keys, tokens, roles. Pure, but for the sockets of ``zap``."""
