"""Agents in processes of their own: started in milliseconds, bounded, and ended for certain with all that they have started.

    service ─── zygote               has the agents' modules loaded; each process is forked from it
                 └── keeper          one for each agent at work: samples its memory, kills what it leaves
                      └── agent      no database, no key, no context; one line to the service
                           └── ...   whatever it starts

The keeper is told to end by the end of its line to the service: when the service dies, so do all agents.
"""
