"""Runs that are started by the clock, for users who have said when."""
