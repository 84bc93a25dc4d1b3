"""What a trained network has learned: its activations."""
