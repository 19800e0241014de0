// Layouts in device memory that the GPU kernels (CUDA and Triton) share with their Python callers.
#pragma once

#include <cstdint>

namespace fastrealign {

// A row map is one float64 vector: a header, then b (d values), then c (d values); zeros where the map has none. The
// header holds these fields; two of its places are unused, so that b starts on 64 bytes.
namespace map_field {
enum : int {
    s = 0,
    bb = 1,  // b.b
    bc = 2,  // b.c
    cc = 3,  // c.c
    largest_b = 4,
    largest_c = 5  // largest absolute entries
};
}  // namespace map_field
constexpr int map_header = 8;

// The first bad row is kept as the maximum of first_bad_base - (row << state_bits | state), so that one atomic
// maximum finds it and zeroed memory means that there is none.
constexpr int state_bits = 2;
constexpr int64_t first_bad_base = int64_t{1} << 62;

}  // namespace fastrealign
