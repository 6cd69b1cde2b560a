"""Exports a trained network for use without normlab: one file per format in `formats/`."""
