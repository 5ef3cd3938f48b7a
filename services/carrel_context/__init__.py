"""The context service: who is asking, what they may do, and for how long."""
