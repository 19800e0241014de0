// A row map as the kernels read it: its vectors in both precisions, and the constants of the algebra. Made once per
// map; it never changes, so any number of threads may use it.
#pragma once

#include <algorithm>
#include <cmath>

#include "buffer.h"
#include "float_state.h"
#include "kernels.h"

namespace fastrealign {

// A row map as the caller has it.
struct Map {
    double s;
    const double* b;  // d values, or null for none
    const double* c;
};

class PreparedMap {
 public:
    PreparedMap(const Map& from, int64_t d)
        : d_(d),
          b_(padded(d)),
          c_(padded(d)),
          b32_(padded(d)),
          c32_(padded(d)),
          b_even_odd_(padded(d)),
          c_even_odd_(padded(d)),
          b_steps_(d),
          c_steps_(d),
          map_{} {
        const DefaultFloatState state;
        map_.s = from.s;
        map_.terms = from.c ? Terms::bc : from.b || from.s != 1.0 ? Terms::b : Terms::none;
        for (int64_t j = 0; j < d; ++j) {
            const double b = from.b ? from.b[j] : 0.0, c = from.c ? from.c[j] : 0.0;
            map_.bb += b * b;
            map_.bc += b * c;
            map_.cc += c * c;
            map_.largest_b = std::max(map_.largest_b, std::fabs(b));
            map_.largest_c = std::max(map_.largest_c, std::fabs(c));
            b_.data()[j] = b;
            c_.data()[j] = c;
            b32_.data()[j] = static_cast<float>(b);
            c32_.data()[j] = static_cast<float>(c);
            b_even_odd_.data()[even_odd(j, d)] = static_cast<float>(b);
            c_even_odd_.data()[even_odd(j, d)] = static_cast<float>(c);
        }
        b_scale_ = std::ldexp(1.0, vector_exponent(map_.largest_b));
        c_scale_ = std::ldexp(1.0, vector_exponent(map_.largest_c));
        for (int64_t j = 0; j < d; ++j) {
            b_steps_.data()[j] = vector_steps(b_.data()[j], 1.0 / b_scale_);
            c_steps_.data()[j] = vector_steps(c_.data()[j], 1.0 / c_scale_);
        }
    }

    int64_t d() const { return d_; }
    MapVectors vectors() const {
        return {b_.data(), c_.data(), b32_.data(), c32_.data(), b_even_odd_.data(), c_even_odd_.data()};
    }
    // The constants, with the limits that belong to a call's element types.
    RowMap with(const Limits& limits) const {
        RowMap map = map_;
        map.cancelled_below = limits.cancelled_below;
        map.largest_shift = limits.largest_shift;
        if (limits.largest_shift == 0.0) map.largest_b = map.largest_c = 0.0;  // no bound
        return map;
    }
    // What beta and gamma are multiplied by before they are summed (exact_sum.h), and their sums times b and c.
    double b_scale() const { return b_scale_; }
    double c_scale() const { return c_scale_; }
    Total shift(int64_t j, __int128 beta, __int128 gamma) const {
        return total_of_product(beta, b_steps_.data()[j]) + total_of_product(gamma, c_steps_.data()[j]);
    }

 private:
    int64_t d_;
    Buffer<double> b_, c_;
    Buffer<float> b32_, c32_, b_even_odd_, c_even_odd_;
    Buffer<int64_t> b_steps_, c_steps_;
    double b_scale_ = 1.0, c_scale_ = 1.0;
    RowMap map_;
};

}  // namespace fastrealign
