"""A page that predicts pictures in a browser, with one network or several side by side."""

from normlab.export.browser.page import write_page
from normlab.export.formats import PageFormat

FORMAT = PageFormat(suffix=".html", write=write_page)
