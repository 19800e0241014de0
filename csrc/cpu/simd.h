// Vectors of eight lanes of float32 (F8) and float64 (D8) and of sixteen lanes of float32 (F16), for AVX-512, for AVX2
// with FMA and F16C, and for any other machine (GCC/Clang vector types). The number of lanes is the same everywhere, so
// a sum of products has one order of additions, and all instruction sets give the same bits. Each one compiles this
// header in its own namespace (FR_ISA).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels.h"

// AVX-512 in 256-bit vectors (CMakeLists.txt) is the code of AVX2 with twice as many registers.
#if defined(__AVX512F__) && !defined(FR_256)
#define FR_512
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

// Loops over the few rows processed together must be unrolled, or their vectors spill to memory.
#define FR_UNROLL _Pragma("GCC unroll 8")
// Forced, so that the vectors in a small object become registers.
#define FR_INLINE inline __attribute__((always_inline))
#define FR_LAMBDA __attribute__((always_inline))
// Called once a batch, or less often: a copy in every kernel would take half of the compiler's time.
#define FR_NOINLINE __attribute__((noinline))

namespace fastrealign {
namespace FR_ISA {

#if defined(__AVX2__)

struct F8 {
    __m256 v;
};
inline F8 splat(float x) { return {_mm256_set1_ps(x)}; }
inline F8 fma(F8 a, F8 b, F8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F8 mul(F8 a, F8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F8 add(F8 a, F8 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F8 load_f8(const float* x) { return {_mm256_loadu_ps(x)}; }
inline F8 load_f8(const Half* x) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)))}; }
inline F8 load_f8(const BFloat* x) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}

// Eight results in their output type, rounded to nearest even.
inline __m256 narrow(F8 x, float) { return x.v; }
inline __m128i narrow(F8 x, Half) { return _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// Rounded to nearest even, in the upper half of each 32-bit lane; the lower half is undefined.
inline __m256i rounded_bfloat(F8 x) {
    const __m256i bits = _mm256_castps_si256(x.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
}
inline __m128i first_eight(__m256i sixteen) { return _mm256_castsi256_si128(sixteen); }
inline __m128i last_eight(__m256i sixteen) { return _mm256_extracti128_si256(sixteen, 1); }
inline __m128i narrow(F8 x, BFloat) {
    const __m256i high = _mm256_srli_epi32(rounded_bfloat(x), 16);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08));
}
inline F8 widen(__m256 x, float) { return {x}; }
inline F8 widen(__m128i x, Half) { return {_mm256_cvtph_ps(x)}; }
inline F8 widen(__m128i x, BFloat) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))}; }

inline void put(float* to, __m256 x) { _mm256_storeu_ps(to, x); }
inline void put(void* to, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(to), x); }
inline void put(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
inline void stream(float* to, __m256 x) { _mm256_stream_ps(to, x); }
inline void stream(void* to, __m128i x) { _mm_stream_si128(static_cast<__m128i*>(to), x); }
inline void stream(void* to, __m256i x) { _mm256_stream_si256(static_cast<__m256i*>(to), x); }
inline void finish_streaming() { _mm_sfence(); }

#if defined(FR_512)

// Sums of D8 that registers hold beside other values, and rows of one sum side by side.
constexpr int most_sums = 8, most_rows = 8;

struct D8 {
    __m512d v;
};
using S8 = D8;
using D8Part = D8;
inline S8 splat(double x) { return {_mm512_set1_pd(x)}; }
inline D8 fma(D8 a, D8 b, D8 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
inline D8 mul(D8 a, D8 b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline D8 add(D8 a, D8 b) { return {_mm512_add_pd(a.v, b.v)}; }
typedef double Register64 __attribute__((vector_size(64)));
inline Register64 square_root(Register64 x) { return _mm512_maskz_sqrt_pd(0xff, x); }
inline D8 to_d8(F8 x) { return {_mm512_cvtps_pd(x.v)}; }
inline F8 to_f8(D8 x) { return {_mm512_cvtpd_ps(x.v)}; }
inline D8 load_d8(const double* x) { return {_mm512_loadu_pd(x)}; }
inline D8 load_d8(const float* x) { return {_mm512_cvtps_pd(_mm256_loadu_ps(x))}; }
inline void put(double* to, D8 x) { _mm512_storeu_pd(to, x.v); }
inline void stream(double* to, D8 x) { _mm512_stream_pd(to, x.v); }

struct F16 {
    __m512 v;
};
using F16Part = F16;
inline F16 splat16(float x) { return {_mm512_set1_ps(x)}; }
inline F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F16 mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F8 first_half(F16 x) { return {_mm512_castps512_ps256(x.v)}; }
inline F8 last_half(F16 x) { return {_mm512_extractf32x8_ps(x.v, 1)}; }
inline F16 load_f16(const float* x) { return {_mm512_loadu_ps(x)}; }
inline F16 load_f16(const Half* x) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)))};
}
// A bfloat16 is the upper half of a float32. One shuffle of 16-bit words puts sixteen of them there, in either order,
// and one takes them from there.
struct Words {
    alignas(cache_line) uint16_t from[4 * lanes];
};
constexpr Words to_upper_halves(bool even_odd) {
    Words words{};
    for (int lane = 0; lane < sixteen; ++lane)
        words.from[2 * lane + 1] = static_cast<uint16_t>(even_odd ? lane % lanes * 2 + lane / lanes : lane);
    return words;
}
constexpr Words from_upper_halves(bool even_odd) {
    Words words{};
    for (int column = 0; column < sixteen; ++column)
        words.from[column] = static_cast<uint16_t>(2 * (even_odd ? column / 2 + column % 2 * lanes : column) + 1);
    return words;
}
constexpr Words load_words[2] = {to_upper_halves(false), to_upper_halves(true)};
constexpr Words narrow_words[2] = {from_upper_halves(false), from_upper_halves(true)};
template <bool even_odd>
inline F16 load_bfloats(const BFloat* x) {
    const __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
    return {_mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, _mm512_load_si512(load_words[even_odd].from), words))};
}
template <bool even_odd>
inline __m256i narrow_bfloats(F16 x) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    const __m512i half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_mask_add_epi32(half, odd, half, _mm512_set1_epi32(1));
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_load_si512(narrow_words[even_odd].from), rounded));
}
inline F16 load_f16(const BFloat* x) { return load_bfloats<false>(x); }
inline F16 load_even_odd(const BFloat* x) { return load_bfloats<true>(x); }
inline F16 load_even_odd(const BFloat* x, int, F16) { return load_even_odd(x); }
inline __m512 narrow(F16 x, float) { return x.v; }
inline __m256i narrow(F16 x, Half) { return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline __m256i narrow(F16 x, BFloat) { return narrow_bfloats<false>(x); }
inline __m256i narrow_even_odd(F16 x) { return narrow_bfloats<true>(x); }
inline __m256 first_eight(__m512 x) { return _mm512_castps512_ps256(x); }
inline __m256 last_eight(__m512 x) { return _mm512_extractf32x8_ps(x, 1); }
inline F16 widen_f16(__m256i x, Half) { return {_mm512_cvtph_ps(x)}; }
inline F16 widen_f16(__m256i x, BFloat) {
    return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, _mm512_load_si512(load_words[false].from),
                                                               _mm512_castsi256_si512(x)))};
}
inline void put(float* to, __m512 x) { _mm512_storeu_ps(to, x); }
inline void stream(float* to, __m512 x) { _mm512_stream_ps(to, x); }

struct I16 {
    __m512i v;
};
inline I16 load_i16(const int32_t* x) { return {_mm512_loadu_si512(x)}; }
inline void put(int32_t* to, I16 x) { _mm512_storeu_si512(to, x.v); }
inline I16 add(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I16 to_i16(F16 x) { return {_mm512_cvtps_epi32(x.v)}; }
inline F16 smaller_magnitude(F16 a, F16 b) { return {_mm512_range_ps(a.v, b.v, 0b1010)}; }
inline bool any_below(F16 x, float bound) { return _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(bound), _CMP_LT_OQ) != 0; }

#else

#if defined(FR_256)
constexpr int most_sums = 8, most_rows = 4;  // eight rows are slower, measured on Zen 4
#else
constexpr int most_sums = 4, most_rows = 4;
#endif

struct D4 {
    __m256d v;
};
struct D8 {
    D4 lo, hi;
};
using D8Part = D4;
// A value broadcast to all lanes takes one register, not two.
struct S8 {
    D4 v;
    operator D8() const { return {v, v}; }
};
inline S8 splat(double x) { return {_mm256_set1_pd(x)}; }
inline D4 fma(D4 a, D4 b, D4 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
inline D4 mul(D4 a, D4 b) { return {_mm256_mul_pd(a.v, b.v)}; }
inline D4 add(D4 a, D4 b) { return {_mm256_add_pd(a.v, b.v)}; }
inline D4 load_part(const double* x, D4) { return {_mm256_loadu_pd(x)}; }
inline D4 load_part(const float* x, D4) { return {_mm256_cvtps_pd(_mm_loadu_ps(x))}; }
inline __m128i load_four(const void* x) { return _mm_loadl_epi64(static_cast<const __m128i*>(x)); }
inline D4 load_part(const Half* x, D4) { return {_mm256_cvtps_pd(_mm_cvtph_ps(load_four(x)))}; }
inline D4 load_part(const BFloat* x, D4) {
    return {_mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(load_four(x)), 16)))};
}
inline D8 fma(D8 a, D8 b, D8 c) { return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)}; }
inline D8 fma(S8 a, D8 b, D8 c) { return {fma(a.v, b.lo, c.lo), fma(a.v, b.hi, c.hi)}; }
inline D8 mul(S8 a, D8 b) { return {mul(a.v, b.lo), mul(a.v, b.hi)}; }
inline D8 add(D8 a, D8 b) { return {add(a.lo, b.lo), add(a.hi, b.hi)}; }
typedef double Register64 __attribute__((vector_size(32)));
inline Register64 square_root(Register64 x) { return _mm256_sqrt_pd(x); }
inline D8 to_d8(F8 x) {
    return {{_mm256_cvtps_pd(_mm256_castps256_ps128(x.v))}, {_mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1))}};
}
inline F8 to_f8(D8 x) { return {_mm256_set_m128(_mm256_cvtpd_ps(x.hi.v), _mm256_cvtpd_ps(x.lo.v))}; }
template <typename T>  // double or float
D8 load_d8(const T* x) {
    return {load_part(x, D4{}), load_part(x + 4, D4{})};
}
inline void put(double* to, D8 x) {
    _mm256_storeu_pd(to, x.lo.v);
    _mm256_storeu_pd(to + 4, x.hi.v);
}
inline void stream(double* to, D8 x) {
    _mm256_stream_pd(to, x.lo.v);
    _mm256_stream_pd(to + 4, x.hi.v);
}

struct F16 {
    F8 first, last;
};
struct I16 {
    __m256i first, last;
};
inline I16 load_i16(const int32_t* x) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + lanes))};
}
inline void put(int32_t* to, I16 x) {
    put(to, x.first);
    put(to + lanes, x.last);
}
inline I16 add(I16 a, I16 b) { return {_mm256_add_epi32(a.first, b.first), _mm256_add_epi32(a.last, b.last)}; }
inline I16 to_i16(F16 x) { return {_mm256_cvtps_epi32(x.first.v), _mm256_cvtps_epi32(x.last.v)}; }
#if defined(FR_256)
// A bfloat16 is the upper half of a float32: two shuffles of 16-bit words put sixteen of them there.
inline F8 eight_of_words(__m256i words, int from) {
    const __m256i order = _mm256_add_epi16(_mm256_set1_epi16(static_cast<int16_t>(from)),
                                           _mm256_setr_epi16(0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7));
    return {_mm256_castsi256_ps(_mm256_maskz_permutexvar_epi16(0xaaaa, order, words))};
}
inline F16 load_f16(const BFloat* x) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return {eight_of_words(words, 0), eight_of_words(words, lanes)};
}
#endif
// The even columns (part 0), then the odd ones: no shuffle across lanes, which saves a third of the instructions.
inline F8 load_even_odd(const BFloat* x, int part, F8) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    const __m256i odd = _mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
    return {_mm256_castsi256_ps(part == 0 ? _mm256_slli_epi32(both, 16) : odd)};
}
inline F16 widen_even_odd(__m256i x) {
    const __m256i odd = _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
    return {{_mm256_castsi256_ps(_mm256_slli_epi32(x, 16))}, {_mm256_castsi256_ps(odd)}};
}
inline __m256i narrow_even_odd(F16 x) {
    return _mm256_blend_epi16(_mm256_srli_epi32(rounded_bfloat(x.first), 16), rounded_bfloat(x.last), 0xaa);
}
#endif

#else  // any other machine

constexpr int most_sums = 4, most_rows = 4;

typedef float F8Vector __attribute__((vector_size(32)));
typedef double D8Vector __attribute__((vector_size(64)));
typedef uint64_t I8Vector __attribute__((vector_size(64)));
struct F8 {
    F8Vector v;
};
struct D8 {
    D8Vector v;
};

inline F8 splat(float x) { return {F8Vector{} + x}; }
inline F8 mul(F8 a, F8 b) { return {a.v * b.v}; }
inline F8 add(F8 a, F8 b) { return {a.v + b.v}; }
using S8 = D8;
using D8Part = D8;
inline S8 splat(double x) { return {D8Vector{} + x}; }
inline D8 mul(D8 a, D8 b) { return {a.v * b.v}; }
inline D8 add(D8 a, D8 b) { return {a.v + b.v}; }
typedef double Register64 __attribute__((vector_size(16)));
inline Register64 square_root(Register64 x) { return Register64{sqrt(x[0]), sqrt(x[1])}; }
inline D8 to_d8(F8 x) { return {__builtin_convertvector(x.v, D8Vector)}; }
inline F8 to_f8(D8 x) { return {__builtin_convertvector(x.v, F8Vector)}; }

// The fused multiply-add, rounded once as everywhere else, so that every instruction set gives the same bits. Where the
// machine has no instruction for it, from the exact errors of a product and of sums, the last one rounded to odd
// (Boldo and Melquiond, IEEE Trans. Computers 57(4), 2008).
#if defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
inline D8 fma(D8 a, D8 b, D8 c) {
    for (int i = 0; i < lanes; ++i) c.v[i] = __builtin_fma(a.v[i], b.v[i], c.v[i]);
    return c;
}
inline F8 fma(F8 a, F8 b, F8 c) {
    for (int i = 0; i < lanes; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}
#else
struct ExactPair {
    D8Vector value, error;
};
inline ExactPair exact_sum(D8Vector a, D8Vector b) {
    const D8Vector sum = a + b, of_b = sum - a;
    return {sum, (a - (sum - of_b)) + (b - of_b)};
}
inline ExactPair halves(D8Vector a) {
    const D8Vector t = a * 134217729.0;  // 2^27 + 1
    const D8Vector high = t - (t - a);
    return {high, a - high};
}
inline ExactPair exact_product(D8Vector a, D8Vector b) {
    const D8Vector product = a * b;
    const ExactPair x = halves(a), y = halves(b);
    return {product, ((x.value * y.value - product) + x.value * y.error + x.error * y.value) + x.error * y.error};
}
// a + b towards zero, with the last bit set if that is not exact.
inline D8Vector sum_to_odd(D8Vector a, D8Vector b) {
    const ExactPair sum = exact_sum(a, b);
    I8Vector bits, error;
    memcpy(&bits, &sum.value, sizeof bits);
    memcpy(&error, &sum.error, sizeof error);
    const I8Vector inexact = reinterpret_cast<I8Vector>(sum.error != D8Vector{}) & 1;
    bits = (bits - (inexact & (bits ^ error) >> 63)) | inexact;
    D8Vector odd;
    memcpy(&odd, &bits, sizeof odd);
    return odd;
}
// Not inlined: these are a hundred instructions, and copies of them in every loop would be most of the code.
__attribute__((noinline)) static D8 fma(D8 a, D8 b, D8 c) {
    const ExactPair product = exact_product(a.v, b.v);
    const ExactPair low = exact_sum(c.v, product.error);
    const ExactPair high = exact_sum(product.value, low.value);
    return {high.value + sum_to_odd(low.error, high.error)};
}
__attribute__((noinline)) static F8 fma(F8 a, F8 b, F8 c) {
    return to_f8({sum_to_odd(to_d8(a).v * to_d8(b).v, to_d8(c).v)});
}
#endif

template <typename T>
F8 load_f8(const T* x) {
    T values[lanes];  // x may be unaligned
    memcpy(values, x, sizeof values);
    F8 out;
    for (int i = 0; i < lanes; ++i) out.v[i] = to_float(values[i]);
    return out;
}
inline D8 load_d8(const double* x) {
    D8 out;
    memcpy(&out.v, x, sizeof out.v);
    return out;
}
inline D8 load_d8(const float* x) { return to_d8(load_f8(x)); }

template <typename T>
struct Eight {
    T v[lanes];
};
template <typename T>
Eight<T> narrow(F8 x, T) {
    Eight<T> out;
    for (int i = 0; i < lanes; ++i) out.v[i] = from_float<T>(x.v[i]);
    return out;
}
template <typename T>
F8 widen(const Eight<T>& x, T) {
    return load_f8(x.v);
}
template <typename T>
void put(T* to, const Eight<T>& x) {
    memcpy(to, x.v, sizeof x.v);
}
inline void put(double* to, D8 x) { memcpy(to, &x.v, sizeof x.v); }
inline Eight<BFloat> eight_from(const BFloat* x) {
    Eight<BFloat> out;
    memcpy(out.v, x, sizeof out.v);
    return out;
}

struct F16 {
    F8 first, last;
};
inline F8 load_even_odd(const BFloat* x, int part, F8) {
    BFloat columns[lanes];
    for (int i = 0; i < lanes; ++i) memcpy(&columns[i], x + 2 * i + part, sizeof(BFloat));
    return load_f8(columns);
}
struct Sixteen {
    BFloat v[sixteen];
};
inline Sixteen narrow_even_odd(F16 x) {
    Sixteen out;
    for (int i = 0; i < lanes; ++i) {
        out.v[2 * i] = from_float<BFloat>(x.first.v[i]);
        out.v[2 * i + 1] = from_float<BFloat>(x.last.v[i]);
    }
    return out;
}
inline void put(BFloat* to, const Sixteen& x) { memcpy(to, x.v, sizeof x.v); }
inline Eight<BFloat> first_eight(const Sixteen& x) { return eight_from(x.v); }
inline Eight<BFloat> last_eight(const Sixteen& x) { return eight_from(x.v + lanes); }

// No non-temporal stores here: all stores go through the cache.
template <typename T, typename V>
void stream(T* to, V x) {
    put(to, x);
}
inline void finish_streaming() {}

#endif

// Common to all three.

#if !defined(FR_512)
// Sixteen lanes as two vectors of eight.
using F16Part = F8;
inline F16 load_even_odd(const BFloat* x) { return {load_even_odd(x, 0, F8{}), load_even_odd(x, 1, F8{})}; }
inline F16 splat16(float x) { return {splat(x), splat(x)}; }
inline F16 fma(F16 a, F16 b, F16 c) { return {fma(a.first, b.first, c.first), fma(a.last, b.last, c.last)}; }
inline F16 mul(F16 a, F16 b) { return {mul(a.first, b.first), mul(a.last, b.last)}; }
inline F8 first_half(F16 x) { return x.first; }
inline F8 last_half(F16 x) { return x.last; }
template <typename T>
F16 load_f16(const T* x) {
    return {load_f8(x), load_f8(x + lanes)};
}
template <typename Out>
struct Pair {
    decltype(narrow(F8{}, Out{})) first, last;
};
template <typename Out>
Pair<Out> narrow(F16 x, Out) {
    return {narrow(x.first, Out{}), narrow(x.last, Out{})};
}
template <typename Out>
auto first_eight(const Pair<Out>& x) {
    return x.first;
}
template <typename Out>
auto last_eight(const Pair<Out>& x) {
    return x.last;
}
template <typename Out>
F16 widen_f16(const Pair<Out>& x, Out) {
    return {widen(x.first, Out{}), widen(x.last, Out{})};
}
template <typename Out>
void put(Out* to, const Pair<Out>& x) {
    put(to, x.first);
    put(to + lanes, x.last);
}
template <typename Out>
void stream(Out* to, const Pair<Out>& x) {
    stream(to, x.first);
    stream(to + lanes, x.last);
}
#endif

inline D8 load_d8(const Half* x) { return to_d8(load_f8(x)); }
inline D8 load_d8(const BFloat* x) { return to_d8(load_f8(x)); }

// A register of a vector (D8Part, F16Part), which may be all of it.
template <typename T>
D8 load_part(const T* x, D8) {
    return load_d8(x);
}
template <typename T>
F8 load_part(const T* x, F8) {
    return load_f8(x);
}
template <typename T>
F16 load_part(const T* x, F16) {
    return load_f16(x);
}

inline D8 narrow(D8 x, double) { return x; }
inline D8 widen(D8 x, double) { return x; }
inline D8 to_d8(D8 x) { return x; }

// Results, float32 or float64, in their output type.
template <typename Out>
FR_INLINE auto narrow_to(F16 x) {
    return narrow(x, Out{});
}
template <typename Out>
FR_INLINE auto narrow_to(D8 x) {
    if constexpr (std::is_same_v<Out, double>) {
        return x;
    } else {
        return narrow(to_f8(x), Out{});
    }
}

// A vector of sums of products, a register (Part) at a time. With AVX2 a vector takes two, and three sums of two rows
// twelve of the sixteen: there is no room for whole vectors of x, b and c beside them.
template <typename Vector, typename Part>
struct SumOf {
    static constexpr int parts = sizeof(Vector) / sizeof(Part);
    Part of[parts] = {};

    FR_INLINE void add(int part, Part x, Part y) { of[part] = fma(x, y, of[part]); }
    FR_INLINE Vector all() const {
        if constexpr (parts == 1) {
            return of[0];
        } else {
            return {of[0], of[1]};
        }
    }
};

// Horizontal sum in a fixed order: halves, quarters, pairs.
inline double total(D8 x) {
    double v[lanes];
    put(v, x);
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// The first elements of a vector that reaches beyond the end of a row, then zeros. Reading past the row could leave
// mapped memory.
template <int columns, typename T>
struct First {
    alignas(cache_line) T values[cache_line / sizeof(T)];
};
#if defined(FR_512)
inline __mmask64 first_bytes(size_t count) { return count < cache_line ? (__mmask64{1} << count) - 1 : ~__mmask64{0}; }
#endif
template <int columns, typename T>
First<columns, T> first_of(const T* x, int count) {
    static_assert(columns * sizeof(T) <= cache_line, "a vector is one line at most");
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
#if defined(FR_512)  // where a call of memcpy for a few bytes takes several times as long
    First<columns, T> first;
    _mm512_store_si512(first.values, _mm512_maskz_loadu_epi8(first_bytes(bytes), x));
#else
    First<columns, T> first{};
    memcpy(first.values, x, bytes);
#endif
    return first;
}
template <int columns, typename T, typename V>
void put_first(T* to, const V& x, int count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    First<columns, T> all;
    put(all.values, x);
#if defined(FR_512)
    _mm512_mask_storeu_epi8(to, first_bytes(bytes), _mm512_load_si512(all.values));
#else
    memcpy(to, all.values, bytes);
#endif
}

}  // namespace FR_ISA
}  // namespace fastrealign
