"""A C program for microcontrollers: a folder with its source, a test, a Makefile and a page."""

from normlab.export.firmware.write import export_program
from normlab.export.formats import FolderFormat

FORMAT = FolderFormat(write=export_program)
