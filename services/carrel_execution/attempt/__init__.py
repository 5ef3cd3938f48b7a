"""One attempt of one run: the context that its agents hold, and what they do through it."""
