"""Faults put into running code, and scenes that they are put into."""
