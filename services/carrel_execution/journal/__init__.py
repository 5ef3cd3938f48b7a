"""What a run has done and what it waits for, step by step; what a run that begins anew reads first."""
