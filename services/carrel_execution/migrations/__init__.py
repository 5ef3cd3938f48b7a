"""The tables of agent-execution, and the functions that move a run from one state to the next."""
