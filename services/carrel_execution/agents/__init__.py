"""Agents as code: found, frozen, instantiated, watched, and kept apart in the loop or in processes of their own."""
