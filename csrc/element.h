// The element types of embeddings, and conversions of single values (vector code has its own, in cpu/simd.h).
#pragma once

#include <cstdint>
#include <cstring>

namespace fastrealign {

// Functions have internal linkage for the reason given in row_map.h.
enum class DType : int { float32 = 0, float16 = 1, bfloat16 = 2, float64 = 3 };
constexpr int dtype_count = 4;  // kernel tables are indexed by DType

static inline int64_t size_of(DType type) { return type == DType::float32 ? 4 : type == DType::float64 ? 8 : 2; }

struct Half {
    uint16_t bits;
};
struct BFloat {
    uint16_t bits;
};

static inline uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float float_from(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float to_float(float x) { return x; }
static inline float to_float(double x) { return static_cast<float>(x); }
static inline float to_float(BFloat x) { return float_from(static_cast<uint32_t>(x.bits) << 16); }
static inline float to_float(Half x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
    const uint32_t rest = x.bits & 0x7fffu;
    if (rest >= 0x7c00u) return float_from(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    // Shifting the bits left by 13 makes a float 2^112 too small, subnormals included; one multiplication corrects it.
    return float_from(sign | float_bits(float_from(rest << 13) * 0x1p112f));
}

template <typename T>
static inline double to_double(T x) {
    return to_float(x);
}
static inline double to_double(double x) { return x; }

// Round to nearest, ties to even. NaN stays NaN.
template <typename T>
static inline T from_float(float x);
template <>
inline float from_float<float>(float x) {
    return x;
}
template <>
inline double from_float<double>(float x) {
    return x;
}
template <>
inline BFloat from_float<BFloat>(float x) {
    const uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
template <>
inline Half from_float<Half>(float x) {
    const uint32_t bits = float_bits(x);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x47800000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65536 or more: Inf
    if (magnitude < 0x38800000u) {
        // Below 2^-14: adding 0.5 rounds to multiples of 2^-24, the subnormal step.
        const uint32_t steps = float_bits(float_from(magnitude) + 0.5f) - 0x3f000000u;
        return {static_cast<uint16_t>(sign | steps)};
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

template <typename T>
static inline T from_double(double x) {
    return from_float<T>(static_cast<float>(x));
}
template <>
inline double from_double<double>(double x) {
    return x;
}

}  // namespace fastrealign
