"""Queries in processes of their own: what a query may use is bounded by the kernel, and it ends when its caller leaves."""
