"""Files changed as a forger would change them: with a valid checksum."""

import json

from normlab.storage.checksums import add_checksum


def rewrite(path, **values):
    """Changes values in a JSON file and updates its checksum."""
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    path.write_text(json.dumps(add_checksum(content | values)))
