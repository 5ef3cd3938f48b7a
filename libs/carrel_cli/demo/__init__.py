"""`carrel demo`: the system at work before one's eyes, with checks of what was seen: two users at once, or a worker that is killed."""
