// The conversions of cuda_bf16.h that the kernels use, by the CPU core's own.
#pragma once

#include "element.h"

struct __nv_bfloat16 {
    unsigned short bits;
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {{fastrealign::from_float<fastrealign::BFloat>(x).bits},
            {fastrealign::from_float<fastrealign::BFloat>(y).bits}};
}
