"""A negative prompt within a network's attention, through the host's patch points: one evaluation for both prompts.

From outside: `run` and `reading` alone.
"""
