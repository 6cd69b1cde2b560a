/* Written by normlab: ten drawn pictures, and what @name@ must say of them. */
#include "@name@.h"

#include <stdio.h>
#include <string.h>

#define SIZE (@NAME@_HEIGHT * @NAME@_WIDTH * @NAME@_CHANNELS)

static const uint8_t pictures[@count@][SIZE] = @pictures@;

static const @score@ expected[@count@][@NAME@_CLASSES] = @expected@;

static const int best[@count@] = @best@;

int main(void)
{
    static struct @name@_arena arena;
    int wrong = 0;
    for (int k = 0; k < @count@; k++) {
        @score@ scores[@NAME@_CLASSES];
        int found = @name@(pictures[k], scores, &arena);
        wrong += found != best[k] || memcmp(scores, expected[k], sizeof scores) != 0;
    }
    printf(wrong ? "%d of @count@ pictures differ\n" : "all pictures as expected\n", wrong);
    return wrong != 0;
}
