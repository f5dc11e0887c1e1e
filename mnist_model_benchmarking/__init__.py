"""The MNIST classifier behind five LitServe servers, and the benchmark that compares them."""
