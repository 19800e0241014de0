// The dot products of a row for `apply`, which interleaves them with writing the row before, so that memory accesses
// and arithmetic overlap; their bits depend on neither that work nor the neighbouring rows.
#pragma once

#include "batch.h"

namespace fastrealign {
namespace FR_ISA {

// Prefetch distance in bytes for rows without gaps. Measured: 1 KiB is a tenth slower, 4 KiB no faster; the hardware
// prefetcher stops at the end of each 4 KiB page.
constexpr int64_t prefetch_distance = 2048;

template <typename T>
inline const char* ahead_of(const T* row, const Rows& in) {
    const bool packed = in.stride == in.d * static_cast<int64_t>(sizeof(T));
    return reinterpret_cast<const char*>(row) + (packed ? prefetch_distance : in.stride);
}

// Sums of products in float64, in two sets of accumulators, to hide the latency of additions.
class WideDots {
 public:
    using Real = double;
    FR_INLINE explicit WideDots(const MapVectors& vectors) : b_(vectors.b), c_(vectors.c) {}
    template <int set>
    FR_INLINE void add(int64_t j, D8 x) {
        D8& p = set == 0 ? p0_ : p1_;
        p = fma(x, x, p);
        q_ = fma(x, load_d8(b_ + j), q_);
        r_ = fma(x, load_d8(c_ + j), r_);
    }
    FR_INLINE void widen_sums() {}
    FR_INLINE Dots result() const { return {total(FR_ISA::add(p0_, p1_)), total(q_), total(r_)}; }

 private:
    const double* b_;
    const double* c_;
    D8 p0_ = splat(0.0), p1_ = splat(0.0), q_ = splat(0.0), r_ = splat(0.0);
};

// How many columns NarrowDots sums in float32 before it adds the sums to float64 ones.
constexpr int64_t dots_chunk = 512;

// The same in float32, added to float64 sums every `dots_chunk` columns: no lane sums more than 32 products in float32,
// so the error does not grow with the width. `even_odd`: whole groups of sixteen are taken as even columns, then odd.
template <bool even_odd>
class NarrowDots {
 public:
    using Real = float;
    FR_INLINE explicit NarrowDots(const MapVectors& vectors)
        : b_(even_odd ? vectors.b_even_odd : vectors.b32), c_(even_odd ? vectors.c_even_odd : vectors.c32) {}
    template <int set>
    FR_INLINE void add(int64_t j, F8 x) {
        F8& p = set == 0 ? p0_ : p1_;
        F8& q = set == 0 ? q0_ : q1_;
        F8& r = set == 0 ? r0_ : r1_;
        p = fma(x, x, p);
        q = fma(x, load_f8(b_ + j), q);
        r = fma(x, load_f8(c_ + j), r);
    }
    FR_INLINE void widen_sums() {
        p64_ = FR_ISA::add(p64_, FR_ISA::add(to_d8(p0_), to_d8(p1_)));
        q64_ = FR_ISA::add(q64_, FR_ISA::add(to_d8(q0_), to_d8(q1_)));
        r64_ = FR_ISA::add(r64_, FR_ISA::add(to_d8(r0_), to_d8(r1_)));
        p0_ = p1_ = q0_ = q1_ = r0_ = r1_ = splat(0.0f);
    }
    FR_INLINE Dots result() const { return {total(p64_), total(q64_), total(r64_)}; }

 private:
    const float* b_;
    const float* c_;
    F8 p0_ = splat(0.0f), p1_ = splat(0.0f), q0_ = splat(0.0f), q1_ = splat(0.0f), r0_ = splat(0.0f), r1_ = splat(0.0f);
    D8 p64_ = splat(0.0), q64_ = splat(0.0), r64_ = splat(0.0);
};

}  // namespace FR_ISA
}  // namespace fastrealign
