/* Runs passes for another processor, under its emulator.

   The argument is the library. Calls come on standard input: the pass's name, its struct, and the
   arrays that the struct points to, each with its places in the struct; every part after its length.
   The arrays go back to standard output as the pass leaves them. */

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t number(void) {
    int64_t value;
    if (fread(&value, sizeof value, 1, stdin) != 1)
        exit(0); /* no more calls */
    return value;
}

static void *part(int64_t length) {
    char *data = calloc(length + 1, 1);
    if (!data || fread(data, 1, length, stdin) != (size_t)length)
        exit(1);
    return data;
}

int main(int count, char **arguments) {
    void *library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    for (;;) {
        void *arrays[64];
        int64_t lengths[64], places[8];
        char *name = part(number()), *pass = part(number());
        const int64_t several = number();
        if (several > 64)
            return 1;
        for (int64_t i = 0; i < several; i++) {
            const int64_t count = number();
            if (count > 8)
                return 1;
            for (int64_t k = 0; k < count; k++)
                places[k] = number();
            lengths[i] = number();
            arrays[i] = part(lengths[i]);
            for (int64_t k = 0; k < count; k++)
                memcpy(pass + places[k], &arrays[i], sizeof arrays[i]);
        }
        void (*run)(const void *);
        *(void **)&run = dlsym(library, name);
        if (!run)
            return 1;
        run(pass);
        for (int64_t i = 0; i < several; i++) {
            fwrite(arrays[i], 1, lengths[i], stdout);
            free(arrays[i]);
        }
        fflush(stdout);
        free(name);
        free(pass);
    }
}
