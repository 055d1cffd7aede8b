/* Answers CPUID as a processor without VNNI would (see tests/processors/__init__.py).

   Each CPUID of the runtime is a breakpoint instead (int3, nop). The handler asks the real processor, takes out the
   features that the pretended one lacks, and goes on behind the breakpoint. Bits: Intel 64 and IA-32 Architectures
   Software Developer's Manual, volume 2, CPUID, leaf 7. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

static int avx512;

static void on_cpuid(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = (unsigned)registers[REG_RAX], part = (unsigned)registers[REG_RCX], a, b, c, d;
    (void)number, (void)info;
    __cpuid_count(leaf, part, a, b, c, d);
    if (leaf == 7 && part == 0) {
        c &= ~BIT(11);                          /* AVX512_VNNI */
        d &= ~(BIT(22) | BIT(24) | BIT(25));    /* AMX: bfloat16, tiles, int8 */
        if (!avx512) {
            b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
            c &= ~(BIT(1) | BIT(6) | BIT(12) | BIT(14));
            d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(23));
        }
    }
    if (leaf == 7 && part == 1) {
        a &= ~(BIT(4) | (avx512 ? 0 : BIT(5))); /* AVX_VNNI, AVX512_BF16 */
        d &= ~(BIT(4) | BIT(10));               /* AVX_VNNI_INT8, AVX_VNNI_INT16 */
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
}

__attribute__((constructor)) static void install(void) {
    const char *kind = getenv("ONNXQ_PROCESSOR");
    struct sigaction action;
    avx512 = kind != NULL && !strcmp(kind, "avx512");
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_cpuid;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART | SA_ONSTACK;
    sigaction(SIGTRAP, &action, NULL);
}
