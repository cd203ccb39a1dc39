"""The names of what is counted: one name in code, metric and document."""
