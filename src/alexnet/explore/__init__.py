"""What a trained network has learned: its responses to images."""
