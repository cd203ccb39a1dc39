"""How much, when and to whom: pure functions from plain data to plain data with a reason. Nothing here does anything."""
