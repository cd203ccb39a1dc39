"""The node: one per machine. It holds foreign pages, knows its peers, and tells its clients what to do."""
