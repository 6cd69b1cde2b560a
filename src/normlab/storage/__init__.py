"""Files written whole or not at all, and JSON with a checksum."""
