"""Worker processes: the frames on the wire, the child, and the replica that drives it."""
