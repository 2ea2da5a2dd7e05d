"""Environments on a node: locking and building them with uv, the store on disk, the table of interpreters."""
