"""`carrel demo`: two users of two tenants do the main job at the same time, and what each of them received is checked."""
