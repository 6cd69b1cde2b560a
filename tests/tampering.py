"""Files changed as a forger would change them: with a valid checksum."""

import json

from normlab.storage.checksums import add_checksum


def rewrite(path, **values):
    """Changes values in a JSON file and updates its checksum."""
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    path.write_text(json.dumps(add_checksum(content | values)))


def read(path):
    """The content of config.json, metrics.jsonl (a list) or study.json, without checksums."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    contents = [json.loads(line) for line in lines]
    for content in contents:
        content.pop("checksum", None)
        content.get("costs", {}).pop("checksum", None)
    return contents if path.suffix == ".jsonl" else contents[0]


def write(path, content):
    """The inverse of `read`: with matching checksums, where the content can have one."""
    path.unlink()  # where a file is emptied instead, ext4 has the next one wait for the disk
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(_sealed(line))}\n" for line in content))
    else:
        path.write_text(json.dumps(_sealed(content)))


def _sealed(content):
    if not isinstance(content, dict):
        return content
    content = dict(content)
    costs = content.pop("costs", None)
    sealed = add_checksum(content)
    if costs is None:
        return sealed
    return sealed | {"costs": add_checksum(costs) if isinstance(costs, dict) else costs}


def places(content, prefix=()):
    """The path of every value in some JSON, but only of the first two items of a list."""
    if prefix:
        yield prefix
    items = content.items() if isinstance(content, dict) else enumerate(content[:2])
    for key, value in items:
        if isinstance(value, dict | list):
            yield from places(value, (*prefix, key))
        else:
            yield (*prefix, key)


def replaced(content, place, value):
    """Some JSON with another value in a place."""
    content = json.loads(json.dumps(content))  # a copy, in a fraction of the time of copy.deepcopy
    *parents, last = place
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return content
