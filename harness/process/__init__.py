"""Processes: launching, freezing and ending whole trees; a function in a process of its own."""
