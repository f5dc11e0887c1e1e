"""The documented result file: from windows to rows, and the breakdown of a request."""
