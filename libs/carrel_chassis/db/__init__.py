"""The database as the services use it: every transaction bound to one user, or made by a role that states it works across users."""
