"""Fuzzers: what comes from outside, in every wrong form, by the seed of a number."""
