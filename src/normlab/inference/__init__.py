"""What a trained network answers: on a split, on pictures, and where it looks."""
