"""Queues in deadline order, batch controllers, and the dispatcher between them."""
