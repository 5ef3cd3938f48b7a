"""The way of a run from accepted to over, across users: claimed, leased, taken back, and told of."""
