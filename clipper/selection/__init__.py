"""Selection policies: which model answers a query, and what is learned from feedback."""
