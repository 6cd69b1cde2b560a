"""What a trained network predicts on a data set's split and on pictures, and where it looks."""
