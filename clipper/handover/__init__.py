"""One server takes over from another without a gap: what they say to each other."""
