"""Language models: which there are, what is asked of them, what comes back and what it costs."""
