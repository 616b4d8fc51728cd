"""What is learned by running the dense model: data, statistics of its streams, recorded activations, rankings."""
