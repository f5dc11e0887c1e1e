"""For people: the console, the charts, the tables of README.md."""
