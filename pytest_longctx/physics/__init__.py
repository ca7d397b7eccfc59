"""
What fits, what it costs, and what cannot be true: arithmetic over a model's shape, checked against the logs of real boots.

Nothing here touches a clock, a socket or a device. One module for each engine's memory, one for time.
"""
