"""Runs as their users ask for them: started, read, listed, cancelled, repeated, counted and, in the end, deleted."""
