// The numbers that Python and Triton share with C++, by the names under which the modules export them. C++ is their
// only source: _core has them as attributes, and _cuda has them as a dict, so that a stale build of either is noticed.
#pragma once

#include <pybind11/pybind11.h>

#include "device_layout.h"
#include "element.h"
#include "exact_sum.h"
#include "row_map.h"

namespace fastrealign {

inline pybind11::dict constants() {
    using namespace pybind11::literals;
    const auto number = [](auto value) { return static_cast<int>(value); };
    return pybind11::dict(
        // element.h
        "FLOAT32"_a = number(DType::float32), "FLOAT16"_a = number(DType::float16),
        "BFLOAT16"_a = number(DType::bfloat16), "FLOAT64"_a = number(DType::float64),
        // row_map.h
        "TERMS_NONE"_a = number(Terms::none), "TERMS_B"_a = number(Terms::b), "TERMS_BC"_a = number(Terms::bc),
        "GOOD"_a = number(RowState::good), "ZERO"_a = number(RowState::zero),
        "NOT_FINITE"_a = number(RowState::not_finite), "COLLAPSED"_a = number(RowState::collapsed),
        "RECOMPUTE"_a = number(RowState::recompute), "SMALLEST_P"_a = smallest_p, "LARGEST_P"_a = largest_p,
        "COLLAPSED_BELOW"_a = collapsed_below, "CANCELLED_BELOW"_a = float64_throughout.cancelled_below,
        "CANCELLED_BELOW_16"_a = float32_throughout.cancelled_below,
        "LARGEST_SHIFT_32"_a = float32_entries.largest_shift, "LARGEST_SHIFT_16"_a = rounded_entries.largest_shift,
        // exact_sum.h
        "STEP_FRACTION_BITS"_a = step_fraction_bits, "VECTOR_FRACTION_BITS"_a = vector_fraction_bits,
        "SUM_FRACTION_BITS"_a = sum_fraction_bits, "ROUNDING_OFFSET"_a = rounding_offset,
        "ROUNDING_OFFSET_BITS"_a = rounding_offset_bits, "WEIGHT_BEFORE_FLUSH"_a = weight_before_flush,
        "LARGEST_WEIGHT"_a = largest_weight, "STORED_SCALE"_a = stored_scale, "STORED_WEIGHT"_a = stored_weight,
        // device_layout.h
        "MAP_HEADER"_a = map_header, "MAP_S"_a = number(map_field::s), "MAP_BB"_a = number(map_field::bb),
        "MAP_BC"_a = number(map_field::bc), "MAP_CC"_a = number(map_field::cc),
        "MAP_LARGEST_B"_a = number(map_field::largest_b), "MAP_LARGEST_C"_a = number(map_field::largest_c),
        "STATE_BITS"_a = state_bits, "FIRST_BAD_BASE"_a = first_bad_base);
}

}  // namespace fastrealign
