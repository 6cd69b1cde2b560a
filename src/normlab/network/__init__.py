"""From a layout to a torch module: shapes, widths, named layouts, the layer table."""
