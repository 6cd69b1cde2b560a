"""What comes with a C program: a test with ten drawn pictures, a Makefile, a page."""

import numpy as np
from numpy.typing import NDArray

from normlab.errors import printable
from normlab.export.firmware import emit, reference
from normlab.export.firmware.quantize import Quantized
from normlab.network.memory import Memory

PICTURES = 10

_MAKEFILE = """# Written by normlab. `make` builds the program with its test, `make test` runs it.

CFLAGS ?= -O2
CFLAGS += -std=c99 -Wall -Wextra -ffp-contract=off

all: test-@name@

test: test-@name@
	./test-@name@

test-@name@: test.c @name@.c @name@.h
	$(CC) $(CFLAGS) test.c @name@.c -o $@ -lm

clean:
	rm -f test-@name@

.PHONY: all test clean
"""

_TEST = """/* Written by normlab: ten drawn pictures, and what @name@ must say of them. */
#include "@name@.h"

#include <stdio.h>
#include <string.h>

#define SIZE (@NAME@_HEIGHT * @NAME@_WIDTH * @NAME@_CHANNELS)

static const uint8_t pictures[@count@][SIZE] = @pictures@;

static const int8_t expected[@count@][@NAME@_CLASSES] = @expected@;

static const int best[@count@] = @best@;

int main(void)
{
    static struct @name@_arena arena;
    int wrong = 0;
    for (int k = 0; k < @count@; k++) {
        int8_t scores[@NAME@_CLASSES];
        int found = @name@(pictures[k], scores, &arena);
        wrong += found != best[k] || memcmp(scores, expected[k], sizeof scores) != 0;
    }
    printf(wrong ? "%d of @count@ pictures differ\\n" : "all pictures as expected\\n", wrong);
    return wrong != 0;
}
"""

_README = """# @name@

A network trained with normlab, as a C99 program without heap, files or libraries (but for `memset`@math@).

    make test     # runs it on ten drawn pictures and compares its scores

| | bytes |
| --- | ---: |
| working memory (`struct @name@_arena`, yours to place) | @arena@ |
| weights and tables | @constants@ |

```c
#include "@name@.h"

static struct @name@_arena arena;
int8_t scores[@NAME@_CLASSES];
int best = @name@(pixels, scores, &arena);    /* uint8_t, @shape@: rows, pixels, colours */
```

`scores` are steps of @step@ nats below the best class, which has 127: a probability is proportional to
`exp(score * @NAME@_SCORE_STEP)`. Compile it with `-ffp-contract=off`. It needs two's complement numbers, and
right shifts of negative numbers that round down, as all compilers for common processors have them.

The classes:

@classes@
"""


def pictures(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Ten drawn pictures, uint8 N × C × H × W: blurred patches of random colours, with noise."""
    channels, height, width = shape
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 255, (PICTURES, channels, 5, 5))
    drawn = _between(_between(coarse, height, 2), width, 3)
    noise = random.normal(0, 12, drawn.shape)
    return np.clip(drawn + noise, 0, 255).astype(np.uint8)


def _between(values: NDArray[np.float64], count: int, axis: int) -> NDArray[np.float64]:
    """Values at `count` places between those given, along an axis."""
    place = np.linspace(0, values.shape[axis] - 1.001, count)
    first = place.astype(int)
    share = place - first
    share = share[:, None] if axis == 2 else share
    low, high = values.take(first, axis), values.take(first + 1, axis)
    return low * (1 - share) + high * share


def project(
    name: str,
    text: emit.Source,
    network: Quantized,
    memory: Memory,
    classes: tuple[str, ...],
) -> dict[str, str]:
    """The folder's files and their content."""
    drawn = pictures(memory.steps[0].source)
    logits = reference.logits(network, drawn)
    channels, height, width = memory.steps[0].source
    fill = {
        "name": name,
        "NAME": name.upper(),
        "count": str(PICTURES),
        "pictures": _rows(drawn.transpose(0, 2, 3, 1)),
        "expected": _rows(reference.scores(network, logits)),
        "best": emit.array(logits.argmax(1)),
        "math": " and `sqrtf`" if "<math.h>" in text.program else "",
        "arena": f"{memory.arena:,}",
        "constants": f"{text.constants:,}",
        "shape": f"{height} × {width} × {channels}",
        "step": f"{network.score_step:g}",
        "classes": "\n".join(f"{k}. {_plain(c)}" for k, c in enumerate(classes)),
    }
    return {
        f"{name}.h": text.header,
        f"{name}.c": text.program,
        "test.c": emit.filled(_TEST, fill),
        "Makefile": emit.filled(_MAKEFILE, fill),
        "README.md": emit.filled(_README, fill),
    }


def _rows(values: NDArray[np.integer]) -> str:
    """An initializer of an array of arrays."""
    return "{\n" + ",\n".join(emit.array(row) for row in values) + "}"


def _plain(text: str) -> str:
    """A name in a list of Markdown: on one line, as code, which has no markup."""
    content = printable(text)
    longest = max((len(run) for run in _runs(content)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {content} {fence}"


def _runs(text: str) -> list[str]:
    """The runs of backticks in a text."""
    return ["`" * len(part) for part in "".join(c if c == "`" else " " for c in text).split()]
