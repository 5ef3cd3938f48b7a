"""The command line `carrel`: runs the system on one machine, and talks to any gateway as a user would."""
