"""The scheduler: places calls on warm instances, holds their leases, records their outcomes.

``core`` decides and is pure; ``daemon`` does the input and output. User code is never unpickled here.
"""
