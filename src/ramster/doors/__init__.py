"""The front doors as Python sees them: programs under `ramster run`, managed NumPy arrays, pools. They know nothing of
each other.
"""
