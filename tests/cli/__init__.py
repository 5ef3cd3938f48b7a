"""The command line as people use it: a process of its own against a running system."""
