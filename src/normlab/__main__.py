"""The command `normlab`, and `python -m normlab`."""

import sys

try:
    from normlab.cli import main
except KeyboardInterrupt:  # while it is imported, which takes a moment: answered as it would
    print("normlab: interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    main()
