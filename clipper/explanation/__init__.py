"""Why an application answers as it does: the numbers, and what they mean in words."""
