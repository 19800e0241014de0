// The conversions of cuda_fp16.h that the kernels use, by the CPU core's own.
#pragma once

#include "element.h"

struct __half {
    unsigned short bits;
};
struct __half2 {
    __half x, y;
};
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline float __half2float(__half x) { return fastrealign::to_float(fastrealign::Half{x.bits}); }
inline __half2 __floats2half2_rn(float x, float y) {
    return {{fastrealign::from_float<fastrealign::Half>(x).bits}, {fastrealign::from_float<fastrealign::Half>(y).bits}};
}
