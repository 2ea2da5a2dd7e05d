"""What runs on each machine: the agent, which builds environments and hosts instances, and the runner inside them.

Rules: imports nothing of the SDK or the scheduler; this file stays empty, since the guardian is forked before anything
heavy may be imported.
"""
