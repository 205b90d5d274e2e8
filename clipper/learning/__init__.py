"""Feedback: joining it with decisions, the log it is kept in, and what follows from it."""
