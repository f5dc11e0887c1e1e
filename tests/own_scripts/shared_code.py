def describe(value):
    return f"it is {value}"
