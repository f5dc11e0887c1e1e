"""Measuring: epochs, windows, utilisation, GPU, machine, capacity."""
