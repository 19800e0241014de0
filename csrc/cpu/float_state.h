// The floating-point environment of a thread: rounding mode, and whether subnormal numbers are flushed to zero.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

namespace fastrealign {

// The state that a program starts with: round to nearest, subnormal numbers kept, no exception trapped.
#if defined(__SSE2__)
constexpr uint64_t default_float_state = 0x1f80;
#elif defined(__aarch64__)
constexpr uint64_t default_float_state = 0;
#else
constexpr uint64_t default_float_state = FE_TONEAREST;
#endif

// Sets the state of the calling thread and returns the previous one. The memory clobbers are compiler barriers: loads
// after the call stay after it, stores before the call stay before it.
inline uint64_t set_float_state(uint64_t state) {
    asm volatile("" ::: "memory");
#if defined(__SSE2__)
    const uint64_t before = _mm_getcsr();
    _mm_setcsr(static_cast<uint32_t>(state));
#elif defined(__aarch64__)
    uint64_t before;
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" ::"r"(state));
#else
    const uint64_t before = static_cast<uint64_t>(std::fegetround());
    std::fesetround(static_cast<int>(state));
#endif
    asm volatile("" ::: "memory");
    return before;
}

// Sets the default state for a scope and restores the caller's at its end: under torch.set_flush_denormal, and with
// libraries linked with -ffast-math, rows of subnormal numbers would be read as zeros.
class DefaultFloatState {
 public:
    DefaultFloatState() : before_(set_float_state(default_float_state)) {}
    ~DefaultFloatState() { set_float_state(before_); }
    DefaultFloatState(const DefaultFloatState&) = delete;
    DefaultFloatState& operator=(const DefaultFloatState&) = delete;

 private:
    uint64_t before_;
};

}  // namespace fastrealign
