/* Runs an exported program on an emulated board: pictures from a file of the host, results to another.

   QEMU's semihosting opens the files. With -icount shift=0 an instruction takes a nanosecond, and
   SysTick counts at 25 MHz: a tick is 40 instructions. It counts up to 2^24 ticks. */
#include HEADER

#include <string.h>

#define SYSTICK ((volatile uint32_t *)0xE000E010) /* control, reload value, current value */
#define PAINT 0xA5A5A5A5u
#define NANOSECONDS_PER_TICK 40u
#define REACHED_ZERO (1u << 16)

extern uint32_t stack_begin[], stack_end[], data_begin[], data_end[], data_source[];
extern uint32_t zero_begin[], zero_end[];

static struct ARENA arena;
static struct {
    int32_t best;
    LOGIT logits[CLASSES];
    SCORE scores[CLASSES];
    uint32_t instructions, stack;
} __attribute__((packed)) result;
static uint8_t pixels[PIXELS];
static SCORE scores[CLASSES];

static int semihosting(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static int open_file(const char *name, int mode)
{
    const uint32_t block[3] = {(uint32_t)name, (uint32_t)mode, strlen(name)};
    return semihosting(0x01, block);
}

/* The bytes of the stack that the last call used: those that lost their paint. */
static uint32_t stack_used(uint32_t top)
{
    uint32_t *word = stack_begin;
    while (word < (uint32_t *)top && *word == PAINT)
        word++;
    return top - (uint32_t)word;
}

int main(void)
{
    int in = open_file("pictures", 1), out = open_file("results", 5); /* rb, wb */
    const uint32_t read[3] = {(uint32_t)in, (uint32_t)pixels, sizeof pixels};
    const uint32_t write[3] = {(uint32_t)out, (uint32_t)&result, sizeof result};
    while (semihosting(0x06, read) == 0) {
        uint32_t top;
        __asm__ volatile("mov %0, sp" : "=r"(top));
        for (uint32_t *word = stack_begin; word < (uint32_t *)(top - 64); word++)
            *word = PAINT;
        SYSTICK[1] = 0xFFFFFF;
        SYSTICK[2] = 0;
        SYSTICK[0] = 5; /* on, the processor's clock */
        result.best = NAME(pixels, scores, &arena);
        result.instructions = (0xFFFFFF - SYSTICK[2]) * NANOSECONDS_PER_TICK;
        if (SYSTICK[0] & REACHED_ZERO)
            result.instructions = 0; /* too many to count */
        result.stack = stack_used(top);
        memcpy(result.scores, scores, sizeof scores);
        memcpy(result.logits, arena.logits, sizeof result.logits);
        semihosting(0x05, write);
    }
    semihosting(0x18, (void *)0x20026); /* ends QEMU: the application exits */
    return 0;
}

void reset(void)
{
#if defined __ARM_FP
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* switches the FPU on */
    __asm__ volatile("dsb\nisb");
#endif
    memcpy(data_begin, data_source, (size_t)((char *)data_end - (char *)data_begin));
    memset(zero_begin, 0, (size_t)((char *)zero_end - (char *)zero_begin));
    main();
}

static void fault(void)
{
    semihosting(0x18, (void *)0x20024); /* ends QEMU: an error */
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_end, (const void *)reset, (const void *)fault, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault,
};
