"""What one request may carry: servers refuse more, and the benchmark does not begin to ask it."""

MAX_IMAGES = 512  # a longer list holds up everybody behind it
MAX_PIXELS = 4096 * 4096  # of all images together, as their headers claim: 0.3 s of work
