// The state of a thread's floating-point unit: rounding, and whether subnormal numbers count as zeros.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

namespace fastrealign {

// What a program starts with: to nearest, subnormal numbers kept, no exception trapped.
#if defined(__SSE2__)
constexpr uint64_t default_float_state = 0x1f80;
#elif defined(__aarch64__)
constexpr uint64_t default_float_state = 0;
#else
constexpr uint64_t default_float_state = FE_TONEAREST;
#endif

// Sets the calling thread's state and returns the one before. Memory is a barrier: no arithmetic on what is loaded
// after the call is moved before it, none that is stored before it behind.
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

// The default state for a scope, and then what the caller had: torch.set_flush_denormal and libraries linked with
// -ffast-math have rows of subnormal numbers read as zeros.
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
